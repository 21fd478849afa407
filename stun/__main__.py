"""`python -m stun`: a responder alone, in the foreground."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from ipaddress import ip_address

import click

from stun.messages import DEFAULT_PORT, TransportAddress
from stun.responder import AddressPair, Responder
from stun.server import CannotListen, StunServer

ANY_ADDRESS = ("0.0.0.0", "::")

logger = logging.getLogger("stun")


class AddressType(click.ParamType[TransportAddress]):
    """`ADDRESS`, `ADDRESS:PORT` or `[IPV6]:PORT`."""

    name = "address"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> TransportAddress:
        """Raises click.BadParameter."""
        text = str(value)
        host, port = text, str(DEFAULT_PORT)
        if "]:" in text or text.count(":") == 1:
            host, _, port = text.rpartition(":")
        if not (port.isascii() and port.isdecimal() and int(port) < 65536):
            self.fail(f"{text!r} has no port between 0 and 65535 after its colon", param, ctx)
        try:
            return TransportAddress(str(ip_address(host.removeprefix("[").removesuffix("]"))), int(port))
        except ValueError:
            self.fail(
                f"{text!r} is not an IP address and port, such as 192.0.2.1:3478 or [::]:3478", param, ctx
            )


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--listen",
    type=AddressType(),
    multiple=True,
    metavar="ADDRESS[:PORT]",
    help=f"Where to answer; may be repeated. Default: every address, port {DEFAULT_PORT}.",
)
@click.option(
    "--alternate",
    type=AddressType(),
    multiple=True,
    metavar="ADDRESS:PORT",
    help="A second address with a second port, for clients that explore how their NAT filters (RFC 5780). "
    "Needs the first address in --listen.",
)
@click.option("--only-tailscale", is_flag=True, help="Answer only what Tailscale's clients send.")
def main(
    listen: Sequence[TransportAddress], alternate: Sequence[TransportAddress], only_tailscale: bool
) -> None:
    """Tell clients under which address their UDP packets arrive: a STUN server (RFC 8489), without state."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    pairs = [_pair(listen, other) for other in alternate]
    if len({":" in pair.primary.host for pair in pairs}) < len(pairs):
        raise click.UsageError("--alternate may be given once per address family")
    responder = Responder(tuple(pairs), only_tailscale=only_tailscale)
    addresses = list(listen) or [TransportAddress(host, DEFAULT_PORT) for host in ANY_ADDRESS]
    addresses += [end for pair in pairs for end in pair.endpoints() if end not in addresses]
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(addresses, responder, ipv6_optional=not listen))
    except CannotListen as error:
        raise click.ClickException(str(error)) from error


def _pair(listen: Sequence[TransportAddress], alternate: TransportAddress) -> AddressPair:
    is_ipv6 = ":" in alternate.host
    first = [address for address in listen if (":" in address.host) == is_ipv6]
    if len(first) != 1 or first[0].host in ANY_ADDRESS:
        raise click.UsageError(
            f"--alternate {alternate} needs exactly one --listen ADDRESS of the same family"
        )
    try:
        return AddressPair(first[0], alternate)
    except ValueError as error:
        raise click.UsageError(f"--alternate: {error}") from error


async def _serve(addresses: list[TransportAddress], responder: Responder, ipv6_optional: bool) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    server = _open(addresses, responder, ipv6_optional)
    logger.info("listening on %s", ", ".join(map(str, server.addresses)))
    await stopped.wait()
    kernel_drops = server.kernel_drops
    server.close()
    counts = [f"answered {family}: {count}" for family, count in responder.answers.items()]
    counts += [f"dropped {reason.value}: {count}" for reason, count in responder.drops.items()]
    counts += [f"dropped by the kernel: {kernel_drops}"] if kernel_drops else []
    logger.info("stopped; %s", ", ".join(counts) or "nobody asked")


def _open(addresses: list[TransportAddress], responder: Responder, ipv6_optional: bool) -> StunServer:
    try:
        return StunServer.open(addresses, responder)
    except CannotListen as error:
        if not (ipv6_optional and error.is_family_missing):
            raise
        # A host without IPv6 is normal.
        return StunServer.open([address for address in addresses if ":" not in address.host], responder)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where it is installed: half the time per datagram."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    main(prog_name="python -m stun")
