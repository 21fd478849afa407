"""`ping` for people: from an address to a peer, one ping over disco, TSMP or ICMP, and what came of it.

The answer has the shape of Tailscale's PingResult (node behaviour §1.3).
"""

from __future__ import annotations

import asyncio
import enum
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from meshnode.disco.destinations import DerpDestination, Destination, RelayPath, address_of
from meshnode.netmap.lookup import node_name, owner_of, peer_for, region_code
from meshnode.netmap.session import NetworkMap
from meshnode.tsmp import Tsmp
from meshnode.tunnel import Tunnel
from meshnode.wireguard import PeerConfig
from meshproto.addresses import IPAddress
from meshproto.messages import DERPMap, Node

PING_TIMEOUT_S: Final = 5.0
"""How long an answer is waited for, as long as disco's own pings are remembered."""
MAX_SIZE: Final = 65507
"""Bytes that a UDP datagram can carry over IPv4."""

IcmpPing = Callable[[IPAddress], Awaitable[None]]


class PingType(enum.Enum):
    """The value is how the LocalAPI spells it."""

    DISCO = "disco"  # between the two programs, on the path that data takes
    TSMP = "TSMP"  # through WireGuard, to the program at the other end
    ICMP = "ICMP"  # through WireGuard, to the host at the other end


class CannotPing(Exception):
    """There is nobody to ping, or no way to. `str()` is a line for a person."""

    def __init__(self, message: str, *, is_local: bool = False) -> None:
        super().__init__(message)
        self.is_local = is_local


@dataclass(frozen=True, slots=True)
class Mesh:
    """What must be known of the network to ping somebody in it."""

    network_map: NetworkMap | None
    peers: Sequence[PeerConfig]
    """Those that WireGuard is configured with."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    latency: float
    via: Destination | None = None
    """Of disco pings."""
    peer_api_port: int = 0


class Pinger:
    """Pings peers of one tunnel."""

    def __init__(self, tunnel: Tunnel, tsmp: Tsmp, icmp_ping: IcmpPing) -> None:
        self._tunnel = tunnel
        self._tsmp = tsmp
        self._icmp_ping = icmp_ping

    async def ping(self, mesh: Mesh, address: IPAddress, kind: PingType, size: int = 0) -> dict[str, Any]:
        """One ping to the peer that has `address`, as a PingResult.

        `size` is that of disco pings, in bytes of UDP payload; a small one means the smallest that there is.
        Raises TimeoutError when no answer comes in PING_TIMEOUT_S; what else goes wrong is in `Err`.
        """
        result: dict[str, Any] = {"IP": str(address), "NodeIP": "", "NodeName": "", "Err": ""}
        try:
            peer = find_peer(mesh, address)
            result["NodeIP"], result["NodeName"] = str(peer.addresses[0].network_address), node_name(peer)
            outcome = await self._ping(peer, address, kind, size)
        except CannotPing as error:
            return result | {"Err": str(error)} | ({"IsLocalIP": True} if error.is_local else {})
        derp_map = mesh.network_map.derp_map if mesh.network_map is not None else None
        return result | _describe(outcome, derp_map)

    async def _ping(self, peer: Node, address: IPAddress, kind: PingType, size: int) -> _Outcome:
        started = time.monotonic()  # finer than uvloop's clock
        port = 0
        try:
            async with asyncio.timeout(PING_TIMEOUT_S):
                if kind is PingType.DISCO:
                    pong = await self._tunnel.ping(peer.key, size)
                    return _Outcome(pong.latency, pong.via)
                if kind is PingType.TSMP:
                    port = (await self._tsmp.ping(_own_address(peer, address))).peer_api_port
                else:
                    await self._icmp_ping(address)
        except KeyError as error:
            raise CannotPing(f"{node_name(peer)} does not speak disco; use --icmp") from error
        except TimeoutError:
            raise
        except OSError as error:
            raise CannotPing(f"cannot send to {address}: {error.strerror or error}") from error
        return _Outcome(time.monotonic() - started, peer_api_port=port)


def find_peer(mesh: Mesh, address: IPAddress) -> Node:
    """The peer that packets for `address` go to. Raises CannotPing."""
    network_map = mesh.network_map
    if network_map is None:
        raise CannotPing('this node is not connected; connect it with "meshnode up"')
    if any(address == own.network_address for own in network_map.self_node.addresses):
        raise CannotPing(f"{address} is local Tailscale IP", is_local=True)
    peer = peer_for(address, network_map, mesh.peers)
    if peer is not None and peer.addresses:
        return peer
    owner = owner_of(address, network_map)
    if owner is None:
        raise CannotPing(f'no peer has the address {address}; "meshnode status" lists them')
    if any(address == own.network_address for own in owner.addresses):
        raise CannotPing(
            f'the key of {node_name(owner)} is not valid any more; log in again there with "meshnode up"'
        )
    raise CannotPing(
        f"{address} is behind {node_name(owner)}, and this node does not use its routes; "
        "accept them with: meshnode set --accept-routes"
    )


def _own_address(peer: Node, address: IPAddress) -> IPAddress:
    """The peer's own address of that family: of those behind it, its program answers for none."""
    own = [one.network_address for one in peer.addresses]
    return next((one for one in own if one.version == address.version), own[0])


def _describe(outcome: _Outcome, derp_map: DERPMap | None) -> dict[str, Any]:
    via = outcome.via
    region_id = via.region_id if isinstance(via, DerpDestination) else 0
    is_direct = via is not None and not isinstance(via, (DerpDestination, RelayPath))
    return {
        "LatencySeconds": outcome.latency,
        "Endpoint": str(address_of(via)) if via is not None and is_direct else "",
        "PeerRelay": str(via) if isinstance(via, RelayPath) else "",
        "DERPRegionID": region_id,
        "DERPRegionCode": region_code(derp_map, region_id),
        "PeerAPIPort": outcome.peer_api_port,
        "PeerAPIURL": "",
    }
