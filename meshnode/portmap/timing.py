"""When things of a port mapping happen: repeated requests, renewal, and what a gateway's clock tells.

Pure. All times are seconds of the monotonic clock, except a gateway's epoch, which it counts itself since it
began, or lost, its table of mappings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

__all__ = ["DEFAULT", "EpochRule", "GatewayClock", "Timings", "nat_pmp_rule", "pcp_rule", "renewal_delay"]

EpochRule = Callable[[float, int], bool]
"""(our seconds, the gateway's seconds) between two answers: whether it can be one and the same epoch."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Tests may change them."""

    resend: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)
    """How long each copy of a request to map waits for the answer (RFC 6886 §3.1, which goes on to 64 s). The
    same for PCP, whose 3 s (RFC 6887 §8.1.1) are meant for servers that are farther away than a gateway."""
    probe_resend: tuple[float, ...] = (0.25, 0.5, 0.75)
    """The same while it is not known whether anybody is there."""
    better_wait: float = 0.25
    """How long a protocol that we like better may still answer, once another one has (reference §6)."""
    search: tuple[float, ...] = (0.75, 1.25)
    """How long each search for UPnP devices waits for answers, which may take 1 s to come (MX)."""
    search_more: float = 0.05
    """The same after the first one (reference §6.3)."""
    http: float = 3.0
    """Each request over HTTP: cheap gateways are slow."""
    check: float = 300.0
    """Between questions to the gateway whether it still is the one that mapped the port. A lost mapping is a
    node that strangers cannot reach, and the half life of a mapping is an hour."""
    first_retry: float = 15.0
    """Until a gateway that maps nothing is asked again, doubled from time to time: it may be starting."""
    last_retry: float = 600.0
    """The same in the end: somebody may allow it (reference §6)."""
    announced_gap: float = 5.0
    """Between two times that an announcement makes us ask: anybody on the LAN can send one."""
    release: float = 1.0
    """Given to the gateway to take a mapping back."""


DEFAULT: Final = Timings()

LIFETIME: Final = 7200
"""Of a mapping, asked for (RFC 6886 §3.3; reference §6)."""
MIN_LIFETIME: Final = 30
"""A shorter mapping is not worth its packets."""
MAX_LIFETIME: Final = 86400
"""No gateway is believed for longer than a day."""
MIN_RENEWAL_DELAY: Final = 4.0
"""RFC 6887 §11.2.1."""


def renewal_delay(left: float) -> float:
    """Seconds until the next attempt to renew a mapping that has `left` seconds to live: half of that.

    So attempts are at 1/2, 3/4, 7/8 … of the whole life (RFC 6887 §11.2.1), never faster than 4 s.
    """
    return max(MIN_RENEWAL_DELAY, left / 2)


def usable_lifetime(granted: int) -> int | None:
    """The seconds that a grant is relied on, or None if it is too short to be of use."""
    return min(granted, MAX_LIFETIME) if granted >= MIN_LIFETIME else None


def nat_pmp_rule(ours: float, theirs: int) -> bool:
    """RFC 6886 §3.6: their clock may run 1/8 slow, and be 2 s late; otherwise it began anew."""
    return theirs >= ours * 7 / 8 - 2


def pcp_rule(ours: float, theirs: int) -> bool:
    """RFC 6887 §8.5: like that, with 1/16, and a clock that runs ahead is as much of a sign."""
    if theirs < -1:
        return False
    return theirs + 2 >= ours - ours / 16 and ours + 2 >= theirs - theirs / 16


class GatewayClock:
    """Follows the epoch that a gateway puts in its answers. A gateway that restarted begins anew."""

    def __init__(self, rule: EpochRule) -> None:
        self._rule = rule
        self._last: tuple[float, int] | None = None

    def observe(self, now: float, epoch: int) -> bool:
        """Whether an answer is from the gateway as we knew it. The next one is compared with this one."""
        last, self._last = self._last, (now, epoch)
        return last is None or self._rule(now - last[0], epoch - last[1])
