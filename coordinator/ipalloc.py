"""Choice of the addresses of a new node.

Never handed out: the network and the last address, MagicDNS's resolver addresses, and ChromeOS's range inside
the CGNAT one (control-protocol §8.3). IPv4 and IPv6 are chosen independently, but in a network that always
had both, sequential allocation gives them the same number.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from coordinator.errors import Conflict
from coordinator.model import IPAddress, IPNetwork
from coordinator.store import View
from meshproto.routes import CHROMEOS_RANGE, MAGIC_DNS_IPV4, MAGIC_DNS_IPV6, VIA_RANGE, host_prefix

RESERVED: tuple[IPNetwork, ...] = (
    host_prefix(MAGIC_DNS_IPV4),
    CHROMEOS_RANGE,
    host_prefix(MAGIC_DNS_IPV6),
    VIA_RANGE,
)


def allocate(view: View, entropy: Callable[[int], bytes]) -> tuple[IPv4Address | None, IPv6Address | None]:
    """A free address of each configured family. Raises Conflict when a prefix has none left."""
    settings = view.settings
    used = view.node_ids_by_address

    def pick(prefix: IPv4Network | IPv6Network) -> IPAddress:
        if settings.random_allocation:
            return random_address(prefix, used, entropy)
        return next_address(prefix, used, view.last_addresses.get(prefix.version))

    v4 = pick(settings.prefix_v4) if settings.prefix_v4 is not None else None
    v6 = pick(settings.prefix_v6) if settings.prefix_v6 is not None else None
    assert not isinstance(v4, IPv6Address)
    assert not isinstance(v6, IPv4Address)
    return v4, v6


def next_address(prefix: IPNetwork, used: Container[IPAddress], last: IPAddress | None) -> IPAddress:
    """The first free address after `last`, wrapping to the start of the prefix once.

    Raises Conflict when full.
    """
    start = int(last) + 1 if last is not None and last in prefix else int(prefix.network_address) + 1
    return _scan(prefix, used, start)


def random_address(
    prefix: IPNetwork, used: Container[IPAddress], entropy: Callable[[int], bytes]
) -> IPAddress:
    """The first free address from a random place on. Raises Conflict when full."""
    size = prefix.num_addresses
    # 16 bytes more than the range needs: the bias of the remainder is then beyond notice.
    offset = int.from_bytes(entropy(prefix.max_prefixlen // 8 + 16), "big") % size
    return _scan(prefix, used, int(prefix.network_address) + offset)


def _scan(prefix: IPNetwork, used: Container[IPAddress], start: int) -> IPAddress:
    first = int(prefix.network_address) + 1
    last = int(prefix.broadcast_address) - 1
    address_type = type(prefix.network_address)
    number = start if first <= start <= last else first
    for _ in range(2):
        while number <= last:
            address = address_type(number)
            blocked = _reserved_range(address)
            if blocked is not None:
                number = int(blocked.broadcast_address) + 1
            elif address in used:
                number += 1
            else:
                return address
        number = first
    raise Conflict(f"no free address left in {prefix}; delete unused nodes or configure a larger prefix")


def _reserved_range(address: IPAddress) -> IPNetwork | None:
    return next((reserved for reserved in RESERVED if address in reserved), None)
