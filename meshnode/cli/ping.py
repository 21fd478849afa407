"""`meshnode ping`: which way a peer is reached, and how long it takes (node behaviour §2.7)."""

from __future__ import annotations

import ipaddress
import itertools
import json
import socket
import time

import click

from meshnode.cli.errors import EXIT_FAILED, CommandError
from meshnode.cli.grammar import Command, Duration, flag, switch
from meshnode.cli.local_client import LocalClient, NoAnswer
from meshnode.cli.peers import Json, find_peer, matches, short_name
from meshnode.cli.session import local_client
from meshnode.cli.status import describe_state, offline

PAUSE_S = 1.0
"""Between two pings."""
DISCO, TSMP, ICMP = "disco", "TSMP", "ICMP"


@click.command("ping", cls=Command)
@flag(
    "-c", "count", type=int, default=10, metavar="N", help="Pings to send at most; 0 for ever (default 10)."
)
@switch("--until-direct", default=True, help="Stop at the first answer over a direct path (default true).")
@flag(
    "--timeout", type=Duration(), default=5.0, metavar="DURATION", help="Wait so long for each (default 5s)."
)
@flag("--size", type=int, default=0, metavar="BYTES", help="Size of disco pings, as UDP payload.")
@switch("--disco", default=False, help="Ping the peer's program, on the path that data takes (default).")
@switch("--tsmp", default=False, help="Ping the peer's program through WireGuard.")
@switch("--icmp", default=False, help="Ping the peer's host through WireGuard.")
@switch("--verbose", default=False, help="Say what the name stands for.")
@switch("--json", "as_json", default=False, help="Print each answer for programs, an object a line.")
@click.argument("target")
@click.pass_context
def command(
    ctx: click.Context,
    count: int,
    until_direct: bool,
    timeout: float,
    size: int,
    disco: bool,
    tsmp: bool,
    icmp: bool,
    verbose: bool,
    as_json: bool,
    target: str,
) -> int:
    """Ping TARGET, a peer's name or address, and show which way each answer came.

    The first answers may come over a relay, while a direct path is being looked for. Exits with status 1
    where nothing answers, or no direct path is found in the end.
    """
    kind = _kind(ctx, disco=disco, tsmp=tsmp, icmp=icmp)
    _check(ctx, count=count, timeout=timeout, size=size, kind=kind)
    client = local_client(ctx)
    status = client.status()
    if text := describe_state(status):
        click.echo(text)
        return EXIT_FAILED
    address = _address(status, target)
    if verbose and address != target:
        click.echo(f'lookup "{target}" => "{address}"', err=True)
    if address in (status["TailscaleIPs"] or ()):
        click.echo(f"{address} is local Tailscale IP")
        return 0
    pinging = _Pinging(client, address, kind, size, timeout, as_json)
    tries = itertools.count(1) if count == 0 else range(1, count + 1)
    for number in tries:
        if number > 1:
            time.sleep(PAUSE_S)
        is_direct = pinging.once()
        if pinging.answers and (kind != DISCO or (is_direct and until_direct)):
            return 0
    if not pinging.answers:
        raise CommandError("no reply" + _why_silent(status, address))
    if until_direct:
        raise CommandError(f"direct connection not established; see: meshnode debug paths {target}")
    return 0


class _Pinging:
    """One peer, pinged one way."""

    def __init__(
        self, client: LocalClient, address: str, kind: str, size: int, timeout_s: float, as_json: bool
    ) -> None:
        self._client = client
        self._address = address
        self._kind = kind
        self._size = size
        self._timeout_s = timeout_s
        self._as_json = as_json
        self.answers = 0

    def once(self) -> bool:
        """Ping once and print what came. Returns whether it came over a direct path. Raises CommandError."""
        try:
            result = self._client.ping(self._address, self._kind, self._size, self._timeout_s)
        except NoAnswer:
            result = {"IP": self._address, "Err": "timed out"}
            click.echo(json.dumps(result) if self._as_json else f'ping "{self._address}" timed out')
            return False
        if result["Err"]:
            raise CommandError(result["Err"])
        self.answers += 1
        click.echo(json.dumps(result) if self._as_json else describe_pong(result, self._kind))
        return bool(result["Endpoint"])


def describe_pong(result: Json, kind: str) -> str:
    """`pong from nas (100.64.0.7) via DERP(fra) in 41ms`."""
    way = result["Endpoint"] or kind
    if result["DERPRegionID"]:
        way = f"DERP({result['DERPRegionCode']})"
    elif result["PeerRelay"]:
        way = f"peer-relay({result['PeerRelay']})"
    port = f", {result['PeerAPIPort']}" if result["PeerAPIPort"] else ""
    took = duration(result["LatencySeconds"])
    return f"pong from {result['NodeName']} ({result['NodeIP']}{port}) via {way} in {took}"


def duration(seconds: float) -> str:
    """As Go prints it, in whole milliseconds; below one, in tens of microseconds."""
    milliseconds = round(seconds * 1000)
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:g}s"
    return f"{milliseconds}ms" if seconds >= 0.001 else f"{round(seconds * 100_000) * 10}µs"


def _kind(ctx: click.Context, *, disco: bool, tsmp: bool, icmp: bool) -> str:
    given = [kind for kind, on in ((DISCO, disco), (TSMP, tsmp), (ICMP, icmp)) if on]
    if len(given) > 1:
        raise click.UsageError(
            " and ".join(f"--{kind.lower()}" for kind in given) + " exclude each other", ctx
        )
    return given[0] if given else DISCO


def _check(ctx: click.Context, *, count: int, timeout: float, size: int, kind: str) -> None:
    if count < 0:
        raise click.UsageError("-c is a number of pings, or 0 for no end", ctx)
    if timeout <= 0:
        raise click.UsageError("--timeout is more than nothing, as in 5s", ctx)
    if size and kind != DISCO:
        raise click.UsageError("--size is for disco pings only", ctx)


def _address(status: Json, target: str) -> str:
    """The address that a name stands for: a peer's, or else what the system's resolver knows."""
    try:
        return str(ipaddress.ip_address(target))
    except ValueError:
        pass
    nodes = [status["Self"], *(status.get("Peer") or {}).values()]
    if not matches(nodes, target):
        resolved = _resolve(target)
        if resolved:
            return resolved
    addresses = find_peer(status, target)["TailscaleIPs"]
    if not addresses:
        raise CommandError(f"{target} has no address in the mesh")
    return str(addresses[0])


def _resolve(name: str) -> str:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return ""
    return str(found[0][4][0]).partition("%")[0]


def _why_silent(status: Json, address: str) -> str:
    """What the coordinator knows of a peer that does not answer."""
    for peer in (status.get("Peer") or {}).values():
        if address in (peer["TailscaleIPs"] or ()) and not peer["Online"]:
            return f": {short_name(peer)} is {offline(peer)}"
    return ""
