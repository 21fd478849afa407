"""How often one network may be answered: token buckets in a table that cannot grow."""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv4Address, ip_address

MAX_NETWORKS = 4096
IPV4_PREFIX_BITS = 24
IPV6_PREFIX_BITS = 48
"""Whoever forges addresses to flood a victim forges those of its whole network."""


class NetworkLimit:
    """A bucket of `burst` tokens per source network, refilled with `per_second`.

    At most MAX_NETWORKS are remembered. The one that was quiet longest is forgotten first, and starts with a
    full bucket when it comes back: a flood from many networks is no stronger than its sum.
    """

    def __init__(self, per_second: float, burst: float) -> None:
        self._per_second = per_second
        self._burst = burst
        self._buckets: OrderedDict[int, tuple[float, float]] = OrderedDict()  # tokens, and when

    def allows(self, host: str, now: float) -> bool:
        """Take a token for one more datagram from `host`, if there is one."""
        network = _network(host)
        tokens, since = self._buckets.pop(network, (self._burst, now))
        tokens = min(self._burst, tokens + (now - since) * self._per_second)
        self._buckets[network] = (tokens - 1 if tokens >= 1 else tokens, now)
        if len(self._buckets) > MAX_NETWORKS:
            self._buckets.popitem(last=False)
        return tokens >= 1


def _network(host: str) -> int:
    """The prefix as a number, marked with one more bit for IPv6."""
    address = ip_address(host.partition("%")[0])
    if isinstance(address, IPv4Address):
        return int(address) >> (32 - IPV4_PREFIX_BITS)
    return int(address) >> (128 - IPV6_PREFIX_BITS) | 1 << IPV6_PREFIX_BITS
