"""What is asked of a gateway and what it grants, whatever the protocol (reference §6)."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from meshnode.portmap.timing import usable_lifetime
from meshproto.addresses import AddrPort

__all__ = ["Grant", "Lan", "MappingFailed", "Probed", "is_behind_nat", "is_usable_external", "require_usable"]

PRIVATE: Final = tuple(
    IPv4Network(net)
    for net in (
        "10.0.0.0/8",  # RFC 1918
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",  # RFC 6598: a carrier's NAT
        "192.0.0.0/24",  # RFC 7335: DS-Lite
        "169.254.0.0/16",  # RFC 3927
    )
)
"""Addresses that a host behind a NAT has. Another NAT follows a gateway that has one of these outside."""


class MappingFailed(Exception):
    """A gateway did not map the port, or does not answer; the message says why."""


@dataclass(frozen=True, slots=True)
class Lan:
    """The network that a port is to be mapped in. Another gateway or address is another network."""

    gateway: IPv4Address
    self_ip: IPv4Address
    """Our address towards the gateway."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A mapping of our UDP port, as the gateway granted it."""

    external: AddrPort
    lifetime: int
    """Seconds from when it was granted, within what we believe."""

    @classmethod
    def of(cls, address: IPv4Address, port: int, lifetime: int) -> Grant:
        """Raises MappingFailed if nothing can come of it, whatever the gateway calls success."""
        usable = usable_lifetime(lifetime)
        if usable is None:
            raise MappingFailed(f"the gateway maps the port for {lifetime} s only")
        if not port:
            raise MappingFailed("the gateway granted port 0")
        require_usable(address)
        return cls(AddrPort(str(address), port), usable)


@dataclass(frozen=True, slots=True)
class Probed:
    """Which protocols the gateway speaks. None where there is no gateway to ask."""

    upnp: bool | None = None
    pmp: bool | None = None
    pcp: bool | None = None


def require_usable(address: IPv4Address) -> None:
    """Raises MappingFailed, which says why, if no mapping to this address of the gateway can be of use."""
    if is_behind_nat(address):
        raise MappingFailed(f"the gateway's address outside is {address}: there is another NAT behind it")
    if not is_usable_external(address):
        raise MappingFailed(f"the gateway says that its address outside is {address}")


def is_behind_nat(address: IPv4Address) -> bool:
    """Whether a host with this address can only be reached through a NAT."""
    return any(address in net for net in PRIVATE)


def is_usable_external(address: IPv4Address) -> bool:
    """Whether packets from anywhere could reach this address.

    Networks for documentation count as public: on the internet no gateway has such an address, in a test lab
    many do.
    """
    impossible = (
        address.is_unspecified
        or address.is_loopback
        or address.is_multicast
        or int(address) >> 24 in (0, 255)
        or int(address) >> 28 == 15  # 240.0.0.0/4
    )
    return not impossible and not is_behind_nat(address)
