"""One netcheck as a machine: probes to send come out, answers go in, and a report is what is left.

    0 s     the first try of every set; port mappers and, in a full check, captive portals are the shell's
    …       later tries, while they can add something
    ≤ 3 s   STUN is over: answered by all, or by enough; else it is UDP that is blocked
    ≤ 5 s   HTTPS and ICMP to the relays where no STUN server answered

Who sends and asks is the shell; `wants_fallback` tells it when HTTPS and ICMP are wanted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from meshnode.netcheck.plan import Plan, ProbeSet
from meshnode.netcheck.report import Family, Report
from meshproto.addresses import AddrPort
from meshproto.messages import DERPNode

__all__ = ["TOTAL_TIME", "Netcheck", "Probe"]

STUN_TIME: Final = 3.0
TOTAL_TIME: Final = 5.0
ENOUGH_REGIONS: Final = 3
ENOUGH_REGIONS_VERBOSE: Final = 100
"""Answers from so many regions are enough to wait no longer than the slowest of them took."""
FULL_PATIENCE: Final = 2.0
"""By which a full check waits longer than that."""
SMALL_MAP_PATIENCE: Final = 0.3
"""Seconds that a map with fewer regions is waited for, once all of them have answered and been asked: another
server or family may still tell something, but a family that the path swallows must not cost STUN_TIME."""
TX_ID_SIZE: Final = 12


@dataclass(frozen=True, slots=True)
class Probe:
    """A STUN binding request to send now, and to report by `sent` or `not_sent`."""

    tx_id: bytes
    region_id: int
    node: DERPNode
    family: Family


class _Tries:
    """The state of one probe set."""

    __slots__ = ("answered_nodes", "next_try", "probes")

    def __init__(self, probes: ProbeSet) -> None:
        self.probes = probes
        self.next_try = 0
        self.answered_nodes: set[str] = set()

    @property
    def is_spent(self) -> bool:
        return self.next_try >= len(self.probes.tries)


class Netcheck:
    """Every `now` is monotonic seconds. The report is complete once `is_done`."""

    def __init__(
        self,
        plan: Plan,
        *,
        entropy: Callable[[int], bytes],
        now: float,
        os_has_ipv6: bool,
        verbose: bool = False,
    ) -> None:
        self.report = Report(os_has_ipv6=os_has_ipv6)
        self.is_full = plan.is_full
        self._entropy = entropy
        self._begun_at = now
        self._sets = [_Tries(one) for one in plan.sets]
        self._enough = ENOUGH_REGIONS_VERBOSE if verbose else ENOUGH_REGIONS
        self._regions = {one.region_id for one in plan.sets}
        self._last_try_at = now + max((one.tries[-1].delay for one in plan.sets), default=0.0)
        self._in_flight: dict[bytes, tuple[_Tries, str, float]] = {}
        self._stop_at = now + STUN_TIME
        self._slowest = 0.0
        self._is_fallback_over = False

    # --- STUN ---

    def take_probes(self, now: float) -> list[Probe]:
        """What to send now."""
        if now >= self._stop_at:
            return []
        return [probe for tries in self._sets for probe in self._due(tries, now)]

    def sent(self, probe: Probe, now: float) -> None:
        """A probe left, just now: its server's name may have had to be resolved first."""
        if probe.family is Family.IPV4:
            self.report.ipv4_can_send = True
        else:
            self.report.ipv6_can_send = True
        found = self._in_flight.get(probe.tx_id)
        if found is not None:
            self._in_flight[probe.tx_id] = (*found[:2], now)

    def not_sent(self, probe: Probe) -> None:
        """The server has no address in this family, or there is no way to it: no answer will come."""
        self._in_flight.pop(probe.tx_id, None)

    def stun_received(self, tx_id: bytes, observed: AddrPort, now: float) -> bool:
        """An answer. False when it is to nothing of ours, or came again."""
        found = self._in_flight.pop(tx_id, None)
        if found is None:
            return False
        tries, node, sent_at = found
        latency = now - sent_at
        tries.answered_nodes.add(node)
        self.report.stun_answered(tries.probes.region_id, tries.probes.family, observed, latency)
        self._slowest = max(self._slowest, latency)
        patience = self._slowest * (FULL_PATIENCE if self.is_full else 1.0)
        if len(self.report.region_latency) >= self._enough:
            self._stop_at = min(self._stop_at, now + patience)
        elif self._regions <= self.report.region_latency.keys():
            patience = max(patience, SMALL_MAP_PATIENCE)
            self._stop_at = min(self._stop_at, max(now, self._last_try_at) + patience)
        return True

    # --- what else is measured, by the shell ---

    def wants_fallback(self, now: float) -> bool:
        """Whether UDP seems to be blocked: measure the relays by HTTPS and ICMP until `is_done`."""
        return self._is_stun_over(now) and not self.report.udp

    def https_measured(self, region_id: int, family: Family, latency: float) -> None:
        """A relay of the region answered a request, `latency` after it was made."""
        self.report.add_latency(region_id, family, latency)
        if family is Family.IPV6:
            self.report.ipv6 = True
        else:
            self.report.ipv4 = True

    def icmp_measured(self, region_id: int, latency: float) -> None:
        """A relay of the region answered an echo request."""
        self.report.icmpv4 = True
        self.report.ipv4 = True
        self.report.add_latency(region_id, Family.IPV4, latency)

    def fallback_ended(self) -> None:
        """All HTTPS and ICMP measurements are in, or have failed."""
        self._is_fallback_over = True

    # --- time ---

    def is_done(self, now: float) -> bool:
        """Whether nothing more is to be expected."""
        if now >= self._begun_at + TOTAL_TIME:
            return True
        return self._is_stun_over(now) and (self.report.udp or self._is_fallback_over)

    def next_timeout(self, now: float) -> float:
        """When to call `take_probes`, or ask `is_done` and `wants_fallback`, again."""
        if self._is_stun_over(now):
            return self._begun_at + TOTAL_TIME
        due = [
            self._begun_at + tries.probes.tries[tries.next_try].delay
            for tries in self._sets
            if not tries.is_spent and self._can_add(tries)
        ]
        return min([*due, self._stop_at])

    def _is_stun_over(self, now: float) -> bool:
        if now >= self._stop_at:
            return True
        is_waiting = any(self._can_add(tries) for tries, _, _ in self._in_flight.values())
        return not is_waiting and all(tries.is_spent or not self._can_add(tries) for tries in self._sets)

    def _due(self, tries: _Tries, now: float) -> list[Probe]:
        due = []
        while not tries.is_spent and now >= self._begun_at + tries.probes.tries[tries.next_try].delay:
            node = tries.probes.tries[tries.next_try].node
            tries.next_try += 1
            if node.name in tries.answered_nodes or not self._can_add(tries):
                continue
            tx_id = self._entropy(TX_ID_SIZE)
            self._in_flight[tx_id] = (tries, node.name, now)
            due.append(Probe(tx_id, tries.probes.region_id, node, tries.probes.family))
        return due

    def _can_add(self, tries: _Tries) -> bool:
        """Whether an answer to this set would tell something new.

        One answer is enough, except that in IPv4 another server of the region may still show whether our
        mapping varies. Where there is one region only, nothing else would.
        """
        report, probes = self.report, tries.probes
        if not tries.answered_nodes:
            has_latency = probes.region_id in report.region_latency
            if not has_latency:
                return True
            if probes.family is Family.IPV6:
                return not report.ipv6
            return report.mapping_varies_by_dest_ip is None
        if probes.family is Family.IPV6 or report.mapping_varies_by_dest_ip is not None:
            return False
        return any(one.node.name not in tries.answered_nodes for one in probes.tries)
