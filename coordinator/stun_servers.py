"""The coordinator's STUN servers: where nodes learn how their packets look from outside.

There are two ports, because only the answers of two servers tell a node whether its NAT shows it the same way
to everyone (`MappingVariesByDestIP`). With an address of its own for each, they also answer RFC 5780's
questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from coordinator.derp_map import Place
from coordinator.errors import StartupError
from coordinator.relay_config import RelayConfig
from derp.listen import ListenAddress
from stun.messages import TransportAddress
from stun.responder import AddressPair, Responder
from stun.server import CannotListen, StunServer


class StunServers:
    """Answer until closed. Open with `StunServers.open`."""

    def __init__(self, config: RelayConfig, responder: Responder) -> None:
        self.responder = responder
        self.port = 0
        self.alternate: Place | None = None
        """The second server; without a host, it is at the host of the first."""
        self._config = config
        self._servers: list[StunServer] = []

    @classmethod
    def open(cls, config: RelayConfig) -> StunServers:
        """Start to answer, on the running event loop. Raises StartupError."""
        pair = _pair(config)
        servers = cls(config, Responder(() if pair is None else (pair,)))
        try:
            servers._start(pair)
        except BaseException:
            servers.close()
            raise
        return servers

    @property
    def ports(self) -> list[int]:
        """Those that a firewall has to let in."""
        return [self.port] if self.alternate is None else [self.port, self.alternate.port]

    def close(self) -> None:
        for server in self._servers:
            server.close()
        self._servers = []

    def _start(self, pair: AddressPair | None) -> None:
        main, alternate = self._config.stun_listen_addr, self._config.stun_alternate_listen_addr
        if alternate is None:
            self.port = self._listen(main)
            return
        is_elsewhere = not alternate.is_any and alternate.host != main.host
        if pair is not None:
            self._open(pair.endpoints())
            self.port, alternate_port = main.port, alternate.port
        else:
            self.port, alternate_port = self._listen(main), self._listen(alternate)
        self.alternate = Place(alternate.host if is_elsewhere else "", alternate_port)

    def _listen(self, address: ListenAddress) -> int:
        """The port, which is chosen here for 0."""
        if not address.is_any:
            return self._open([_end(address)])
        port = self._open([TransportAddress("0.0.0.0", address.port)])
        with suppress(_NoSuchFamily):
            self._open([TransportAddress("::", port)])
        return port

    def _open(self, addresses: Sequence[TransportAddress]) -> int:
        """Serve the addresses, among which an answer may come from another than the one asked."""
        try:
            server = StunServer.open(addresses, self.responder)
        except CannotListen as error:
            if error.is_family_missing and error.address.host == "::":
                raise _NoSuchFamily from error
            raise StartupError(f"{self._setting(error.address)} {error}") from error
        self._servers.append(server)
        return server.addresses[0].port

    def _setting(self, address: TransportAddress) -> str:
        """What says that `address` is served."""
        alternate = self._config.stun_alternate_listen_addr
        is_alternate = alternate is not None and address.port == alternate.port != 0
        return "derp.server." + ("stun_alternate_listen_addr" if is_alternate else "stun_listen_addr")


class _NoSuchFamily(Exception):
    """This host has no IPv6."""


def _end(address: ListenAddress) -> TransportAddress:
    return TransportAddress("127.0.0.1" if address.host == "localhost" else address.host, address.port)


def _pair(config: RelayConfig) -> AddressPair | None:
    """The two addresses, if each server has one of its own, and both are of one family."""
    main, alternate = config.stun_listen_addr, config.stun_alternate_listen_addr
    if alternate is None or main.is_any or alternate.is_any or not (main.port and alternate.port):
        return None
    try:
        return AddressPair(_end(main), _end(alternate))
    except ValueError:
        return None
