"""Which of two confirmed paths is the better one (reference §3.5): a pure judgement, without history.

The lower latency wins, by its advantage in percent. What is likely to be cheaper or steadier gets a head
start in the same unit: an address of this machine 50, of this link 30, of a private network 20; IPv6 10. So
IPv6 may be about a tenth slower, a LAN a fifth. The challenger must be more than a percent better, or two
equal paths would take turns.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from meshnode.disco.constants import SAFE_WIRE_MTU
from meshnode.disco.destinations import Path, RelayPath, address_of

__all__ = ["PathQuality", "address_points", "is_better"]

HYSTERESIS: Final = 1
"""Points that are too few for a change. Tailscale asks for more of them only where the other has none."""
LATENCY_NOISE: Final = 0.0005
"""Seconds: a smaller difference is the scheduler's, not the network's. Tailscale counts every one; two cards
of one LAN would take turns."""

_LOOPBACK: Final = 50
_LINK_LOCAL: Final = 30
_PRIVATE: Final = 20
_IPV6: Final = 10

_PRIVATE_NETWORKS: Final = tuple(
    map(ipaddress.ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"))
)


@dataclass(frozen=True, slots=True)
class PathQuality:
    """What is known of a confirmed path."""

    path: Path
    latency: float
    """Round trip, in seconds."""
    wire_mtu: int = SAFE_WIRE_MTU

    @property
    def is_relayed(self) -> bool:
        return isinstance(self.path, RelayPath)


@lru_cache(4096)
def address_points(host: str) -> int:
    """The head start of an address."""
    address = ipaddress.ip_address(host)
    points = _IPV6 if address.version == 6 else 0
    if address.is_loopback:
        return points + _LOOPBACK
    if address.is_link_local:
        return points + _LINK_LOCAL
    if any(address in network for network in _PRIVATE_NETWORKS if network.version == address.version):
        return points + _PRIVATE
    return points


def is_better(challenger: PathQuality, best: PathQuality | None) -> bool:
    """Whether `challenger` should be used instead of `best`."""
    if best is None:
        return True
    if challenger.path == best.path:
        return challenger.wire_mtu > best.wire_mtu
    if challenger.is_relayed != best.is_relayed:
        return best.is_relayed
    return _points(challenger, best) - _points(best, challenger) > HYSTERESIS


def _points(one: PathQuality, other: PathQuality) -> int:
    """What `one` has against `other`: its head start, and by how many percent it is faster."""
    points = address_points(address_of(one.path).host)
    if other.latency - one.latency > LATENCY_NOISE:
        points += int(100 - 100 * one.latency / other.latency)
    return points
