"""`meshnode netcheck`: what this network lets through, and how far the relays are (node behaviour §2.7)."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final

import click
from pyroute2 import NetlinkError

from meshnode.cli.errors import EXIT_FAILED, AccessDenied, CommandError
from meshnode.cli.grammar import Command, Duration, flag, switch
from meshnode.cli.local_client import LocalClient
from meshnode.cli.session import local_client
from meshnode.linux.marks import FWMARK
from meshnode.linux.netlink import beside_the_loop
from meshnode.linux.netmon import read_state
from meshnode.netcheck.home import HomeChooser
from meshnode.netcheck.plan import FULL_INTERVAL
from meshnode.netcheck.report import Report
from meshnode.netcheck.text import as_json, as_text
from meshnode.netcheck_runner import NetcheckRunner, has_ipv6
from meshnode.portmap import PortMapper, Probed
from meshnode.probes.udp import UdpPair
from meshproto.codec import MalformedMessage, decode
from meshproto.messages import DERPMap

FORMATS: Final = ("text", "json", "json-line")
FETCH_TIMEOUT_S: Final = 10.0
MAX_MAP_SIZE: Final = 4 * 1024 * 1024

Show = Callable[[Report, datetime], str]


@click.command("netcheck", cls=Command)
@flag(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default="text",
    metavar="FORMAT",
    help="text, or json, or json-line: one line for each report (default text).",
)
@flag(
    "--every",
    type=Duration(),
    default=0.0,
    metavar="DURATION",
    help="Check again and again, with this long between, as in 10s (default 0: once).",
)
@switch("--verbose", default=False, help="Wait for every region, and look for a captive portal in any case.")
@flag(
    "--derp-map",
    metavar="FILE|URL",
    help="Measure the relays of this DERP map (JSON), without a daemon; - reads standard input.",
)
@click.pass_context
def command(ctx: click.Context, form: str, every: float, verbose: bool, derp_map: str | None) -> int:
    """Show what this network lets through, how it translates, and how far the relays are.

    Measures by itself, with sockets of its own; the daemon only says which relays there are. As root it
    measures beside an exit node, else through it. Exits with status 1 where nothing could be reached.
    """
    found = _from_daemon(local_client(ctx)) if derp_map is None else _from_place(derp_map)
    regions = found.regions or {}

    def show(report: Report, at: datetime) -> str:
        if form == "text":
            return as_text(report, regions, at, verbose=verbose)
        return as_json(report, at, one_line=form == "json-line")

    return asyncio.run(_check(found, every, show, verbose=verbose))


async def _check(derp_map: DERPMap, every: float, show: Show, *, verbose: bool) -> int:
    """Check and print, once or for ever. Returns the exit status."""
    runner = NetcheckRunner(
        lambda *probe: sockets.send(*probe),
        mark=_mark,
        entropy=os.urandom,
        probe_port_mappers=_probe_port_mappers,
    )
    sockets = UdpPair(_mark, runner.receive)
    series = _Series(runner, derp_map, verbose=verbose)
    try:
        while True:
            report = await series.next()
            click.echo(show(report, datetime.now().astimezone()), nl=False)
            problem = _problem(report, derp_map)
            if problem:
                click.echo(f"meshnode: {problem}", err=True)
            if not every:
                return EXIT_FAILED if problem else 0
            sys.stdout.flush()
            await asyncio.sleep(every)
    finally:
        sockets.close()


class _Series:
    """Checks one after another: all but the first are short, and the home stays where it need not move."""

    def __init__(self, runner: NetcheckRunner, derp_map: DERPMap, *, verbose: bool) -> None:
        self._runner = runner
        self._map = derp_map
        self._verbose = verbose
        self._os_has_ipv6 = has_ipv6()
        self._home = HomeChooser()
        self._last: Report | None = None
        self._full_at: float | None = None

    async def next(self) -> Report:
        """Another report."""
        loop = asyncio.get_running_loop()
        begun_at = loop.time()
        is_full = self._full_at is None or begun_at - self._full_at >= FULL_INTERVAL
        report = await self._runner.check(
            self._map,
            last=self._last,
            home=self._home.home,
            is_full=is_full,
            os_has_ipv6=self._os_has_ipv6,
            verbose=self._verbose,
        )
        scores = self._map.home_params.region_score if self._map.home_params is not None else {}
        self._home.choose(report, loop.time(), scores=scores, begun_at=begun_at, heard_from_home_at=None)
        if is_full:
            self._full_at = begun_at
        elif self._last is not None:
            report.upnp, report.pmp, report.pcp = self._last.upnp, self._last.pmp, self._last.pcp
        self._last = report
        return report


async def _probe_port_mappers() -> Probed:
    """What the gateway offers. Nothing is mapped."""
    try:
        network = await beside_the_loop(read_state(interface=""))  # the gateway is the same with any tunnel
    except (OSError, NetlinkError):
        return Probed()
    gateway, own = network.gateway_v4 or (None, None)
    mapper = PortMapper(mark=_mark, entropy=os.urandom, on_change=lambda: None)
    mapper.configure(gateway=gateway, self_ip=own, local_port=0)
    try:
        return await mapper.probe()
    finally:
        await mapper.close()


def _problem(report: Report, derp_map: DERPMap) -> str:
    """Why a report has nothing in it, or nothing."""
    if report.region_latency:
        return ""
    if not (report.ipv4_can_send or report.ipv6_can_send):
        return "there is no way to any relay: this machine is offline, or cannot resolve the relays' names"
    count = len(derp_map.regions or {})
    whom = "the relay did not" if count == 1 else f"none of the {count} relay regions did"
    return f"{whom} answer over UDP, HTTPS or ICMP: this network lets nothing through, or no relay is running"


def _mark(own: socket.socket) -> None:
    """Keep out of the tunnel of an exit node, as far as we may: that takes CAP_NET_ADMIN or CAP_NET_RAW."""
    with suppress(PermissionError):
        own.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, FWMARK)


# --- the map ---


def _from_daemon(client: LocalClient) -> DERPMap:
    """The map that the coordinator gave this node. Raises CommandError."""
    try:
        data = client.derp_map()
    except AccessDenied:
        raise
    except CommandError as error:
        raise CommandError(f"{error}; or name relays with --derp-map") from error
    return _decoded(data, f"the daemon at {client.path}")


def _from_place(place: str) -> DERPMap:
    """The map in a file or behind a URL. Raises CommandError."""
    data = _fetched(place) if place.startswith(("http://", "https://")) else _read(place)
    found = _decoded(data, place)
    if not found.regions:
        raise CommandError(f"{place} has no regions, so there is nothing to measure")
    return found


def _decoded(data: bytes, whose: str) -> DERPMap:
    try:
        return decode(data, DERPMap)
    except MalformedMessage as error:
        raise CommandError(f"{whose} gives no DERP map that can be read: {error}") from error


def _read(place: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if place == "-" else Path(place).read_bytes()
    except OSError as error:
        raise CommandError(f"cannot read {place}: {error.strerror}") from error


def _fetched(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=FETCH_TIMEOUT_S) as response:
            data: bytes = response.read(MAX_MAP_SIZE)
    except urllib.error.HTTPError as error:
        error.close()
        raise CommandError(f"cannot fetch {url}: the server answers {error.code} {error.reason}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise CommandError(f"cannot fetch {url}: {getattr(reason, 'strerror', None) or reason}") from error
    return data
