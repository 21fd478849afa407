"""`python -m derp`: a relay alone, in the foreground."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from derp.app import CannotStart, RelayApp, RelayConfig
from derp.certificates import BadCertificate
from derp.keyfile import BadKeyFile
from derp.listen import CannotListen, ListenAddress
from derp.login import parse_mesh_key
from derp.relay_node import RelayNode

DEFAULT_KEY_FILE = "/var/lib/derp/derper.key"
LISTEN_WITH_TLS = ListenAddress("", 443)
LISTEN_BEHIND_PROXY = ListenAddress("127.0.0.1", 3340)

logger = logging.getLogger("derp")


class AddressType(click.ParamType[ListenAddress]):
    """`ADDRESS:PORT`."""

    name = "address"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> ListenAddress:
        """Raises click.BadParameter."""
        try:
            return ListenAddress.parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class RelayType(click.ParamType[RelayNode]):
    """`HOST[:PORT]`, or a URL."""

    name = "relay"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> RelayNode:
        """Raises click.BadParameter."""
        try:
            return RelayNode.parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


FILE = click.Path(path_type=Path)
ADDRESS = AddressType()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--listen",
    type=ADDRESS,
    multiple=True,
    metavar="ADDRESS:PORT",
    help="Where clients connect; may be repeated. Default: :443 with a certificate, else 127.0.0.1:3340.",
)
@click.option("--certificate", type=FILE, metavar="FILE", help="Certificate chain for TLS, in PEM.")
@click.option("--certificate-key", type=FILE, metavar="FILE", help="The certificate's private key, in PEM.")
@click.option(
    "--key-file",
    type=FILE,
    metavar="FILE",
    default=DEFAULT_KEY_FILE,
    show_default=True,
    help="The relay's own key; made if there is none.",
)
@click.option(
    "--plain-http",
    type=ADDRESS,
    metavar="ADDRESS:PORT",
    help="Where to answer checks for captive portals in clear: :80, and not behind a redirect.",
)
@click.option("--metrics", type=ADDRESS, metavar="ADDRESS:PORT", help="Where Prometheus finds /metrics.")
@click.option(
    "--mesh-key-file", type=FILE, metavar="FILE", help="64 hex digits that the relays of the region share."
)
@click.option(
    "--mesh-with",
    type=RelayType(),
    multiple=True,
    metavar="HOST[:PORT]",
    help="Another relay of the region; may be repeated.",
)
@click.option(
    "--verify-url",
    metavar="URL",
    default="",
    help="Whom to ask about each client: URL/verify of a coordinator.",
)
@click.option("--verify-fail-closed", is_flag=True, help="Refuse clients while --verify-url does not answer.")
@click.option(
    "--rate-file", type=FILE, metavar="FILE", help="JSON with limits per client; read again on SIGHUP."
)
@click.option(
    "--accept-rate",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="N",
    help="Accept at most N connections a second. Default: no limit.",
)
@click.option(
    "--accept-burst", type=click.FloatRange(min=0), default=0.0, metavar="N", help="As many at once."
)
@click.option(
    "--write-timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Disconnect a client that takes nothing for so long, while something waits for it.",
)
@click.option("--verbose", "-v", is_flag=True, help="Log every connection that ends.")
def main(verbose: bool, **options: Any) -> None:
    """Relay packets between machines of a mesh VPN that cannot reach each other directly (DERP).

    With --certificate and --certificate-key it speaks TLS itself. Without, put a reverse proxy in front that
    passes on upgraded connections, and does not end them when they are silent for 30 seconds.

    SIGHUP reads certificate and rates again. SIGTERM tells clients to come back in a moment, and ends.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("derp").setLevel(logging.DEBUG if verbose else logging.INFO)
    try:
        app = RelayApp(_config(**options))
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_run(app))
    except (CannotStart, BadKeyFile, BadCertificate, CannotListen) as error:
        raise click.ClickException(str(error)) from error


def _config(
    listen: Sequence[ListenAddress],
    certificate: Path | None,
    certificate_key: Path | None,
    mesh_key_file: Path | None,
    mesh_with: Sequence[RelayNode],
    verify_fail_closed: bool,
    accept_rate: float,
    accept_burst: float,
    write_timeout: float,
    **rest: Any,
) -> RelayConfig:
    if (certificate is None) != (certificate_key is None):
        raise click.UsageError("--certificate and --certificate-key belong together")
    if mesh_with and mesh_key_file is None:
        raise click.UsageError("--mesh-with needs --mesh-key-file")
    default = LISTEN_BEHIND_PROXY if certificate is None else LISTEN_WITH_TLS
    return RelayConfig(
        listen=listen or [default],
        certificate=certificate,
        certificate_key=certificate_key,
        mesh_key=None if mesh_key_file is None else _read_mesh_key(mesh_key_file),
        mesh_with=mesh_with,
        verify_fail_open=not verify_fail_closed,
        accepts_per_second=accept_rate,
        accepts_burst=accept_burst,
        write_timeout_s=write_timeout,
        **rest,
    )


def _read_mesh_key(path: Path) -> bytes:
    try:
        return parse_mesh_key(path.read_text())
    except (OSError, ValueError) as error:
        raise CannotStart(f"cannot use the mesh key in {path}: {error}") from error


async def _run(app: RelayApp) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    loop.add_signal_handler(signal.SIGHUP, app.reload)
    await app.run(stopped, lambda names: logger.info("relaying on %s", ", ".join(names)))
    logger.info("stopped")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where it is installed: cheaper per packet, and per idle TLS connection by far."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
