"""Our peer and wireguard-go on one LAN, as the tests of this directory want them.

Both sides get the other's key; which of them has the other's address decides who initiates.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from meshproto.keys import NodePrivate, NodePublic
from tests.interop.our_peer import OurPeer, PeerOptions
from tests.netlab import Host, Lab, PingResult, UdpDatagram, wait_for
from tests.netlab.wireguard_go import PeerState, WireGuardGo

PORT = 51820
OUR_OUTER = {"IPv4": "192.0.2.1", "IPv6": "2001:db8::1"}
THEIR_OUTER = {"IPv4": "192.0.2.2", "IPv6": "2001:db8::2"}
ATTACKER = "192.0.2.3"
OUR_INNER, THEIR_INNER = ("10.9.0.1", "fd09::1"), ("10.9.0.2", "fd09::2")
INITIATION, RESPONSE, COOKIE_REPLY, DATA = 1, 2, 3, 4
INITIATION_SIZE = 148
KEEPALIVE_SIZE = 32


def prefixes(addresses: tuple[str, str]) -> tuple[str, str]:
    """The two addresses of a side as allowed IPs."""
    return f"{addresses[0]}/32", f"{addresses[1]}/128"


def with_port(address: str) -> str:
    """The address as `wg` writes an endpoint."""
    return f"[{address}]:{PORT}" if ":" in address else f"{address}:{PORT}"


@dataclass
class Pair:
    """Our peer and theirs on one LAN, and an attacker who can reach both. Nothing runs before `start`."""

    lab: Lab
    timings: Mapping[str, float] = field(default_factory=dict)
    our_keepalive: int = 0
    their_keepalive: int = 0

    def __post_init__(self) -> None:
        lan = self.lab.lan("lan")
        self.our_host, self.their_host, self.attacker = (
            self.lab.host(name) for name in ("ours", "theirs", "attacker")
        )
        for number, host in enumerate((self.our_host, self.their_host, self.attacker), 1):
            lan.attach(host, f"192.0.2.{number}/24", f"2001:db8::{number}/64")
        self.ours = OurPeer(self.our_host, timings=self.timings)
        self.their_private = NodePrivate.generate(os.urandom)
        self.theirs = WireGuardGo(
            self.their_host, base64.b64encode(self.their_private.raw).decode(), port=PORT
        )

    @property
    def their_key(self) -> NodePublic:
        return self.their_private.public

    def start(
        self,
        *,
        initiator: str = "ours",
        outer: str = "IPv4",
        our_psk: bytes | None = None,
        their_psk: bytes | None = None,
    ) -> None:
        """Bring both up. The initiator (`ours`, `theirs` or `both`) is who knows the other's address."""
        self.configure_ours(initiator=initiator, outer=outer, psk=our_psk)
        if initiator == "theirs":  # who is called has to be there first, or the call is repeated after 5 s
            self.start_ours()
            self.start_theirs(initiator=initiator, outer=outer, psk=their_psk)
        else:
            self.start_theirs(initiator=initiator, outer=outer, psk=their_psk)
            self.start_ours()

    def configure_ours(
        self, *, initiator: str = "ours", outer: str = "IPv4", psk: bytes | None = None
    ) -> None:
        endpoints = ((THEIR_OUTER[outer], PORT),) if initiator in ("ours", "both") else ()
        options = PeerOptions(prefixes(THEIR_INNER), endpoints, psk, self.our_keepalive)
        self.ours.set_peer(self.their_key, options)

    def start_ours(self) -> None:
        self.ours.start([f"{OUR_INNER[0]}/24", f"{OUR_INNER[1]}/64"])

    def start_theirs(
        self, *, initiator: str = "theirs", outer: str = "IPv4", psk: bytes | None = None
    ) -> None:
        self.theirs.start([f"{THEIR_INNER[0]}/24", f"{THEIR_INNER[1]}/64"])
        self.theirs.set_peer(
            self.ours.public_key.base64(),
            prefixes(OUR_INNER),
            endpoint=with_port(OUR_OUTER[outer]) if initiator in ("theirs", "both") else None,
            preshared_key=base64.b64encode(psk).decode() if psk else None,
            keepalive=self.their_keepalive,
        )

    def side(self, who: str) -> tuple[Host, tuple[str, str]]:
        """The host of a side and the other's inner addresses."""
        return (self.our_host, THEIR_INNER) if who == "ours" else (self.their_host, OUR_INNER)

    def assert_traffic(self, who: str = "ours") -> None:
        """Pings from one side, small and full-sized, over both inner families, are all answered."""
        host, (v4, v6) = self.side(who)
        wait_for(lambda: host.reaches(v4), 10, what="the first answer")
        for address, header in ((v4, 28), (v6, 48)):
            size = str(self.ours.mtu - header)
            assert host.ping(address, count=5, interval=0.05) == PingResult(5, 5)
            host.run("ping", "-n", "-q", "-c", "3", "-i", "0.05", "-M", "do", "-s", size, address)

    def their_view(self) -> PeerState:
        """What wireguard-go says of us."""
        return self.theirs.peer(self.ours.public_key.base64())


def our_destinations(datagrams: Iterable[UdpDatagram]) -> set[tuple[str, int]]:
    """Where we sent what was recorded."""
    return {datagram.destination for datagram in datagrams if datagram.source[0] in OUR_OUTER.values()}
