"""Two nodes that never talked before begin to: the fate of the first packets, and when the path is direct."""

from __future__ import annotations

import enum
import ipaddress
import re
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tests.netlab.nat import Filtering, Mapping
from tests.netlab.natmesh import Member
from tests.netlab.networks import Kind
from tests.netlab.processes import Process
from tests.netlab.router import Egress
from tests.netlab.sites import IPv6, Site

EASY_LIMIT = 1.0
"""Seconds within which the median easy pair is direct."""
HARD_LIMIT = 5.0
HARD_SHARE = 0.95
"""Seconds within which this share of runs of a hard pair is direct."""

PING_INTERVAL = 0.1
# Pings that were sent later than this before the end may still be under way.
IN_FLIGHT = 0.5
# Seconds between two looks at a node's paths: how exactly times to direct are known.
LOOK_INTERVAL = 0.02
# How long an answer may be overtaken by later ones before it counts as lost: busy machines take their time.
LATE = 3.0
# How long pings go on after both sides are direct, to see that none is lost by the change.
AFTERWARDS = 0.6

ANSWERED = re.compile(r"^\[(\d+\.\d+)\] .*icmp_seq=(\d+) .*time=([\d.]+) ms", re.MULTILINE)
TRANSMITTED = re.compile(r"^(\d+) packets transmitted", re.MULTILINE)


class Expected(enum.Enum):
    """What should become of a pair, as theory has it (RFC 5128 §3.3, and the birthday paradox)."""

    EASY = "direct"
    """Both have one outer port for everybody."""
    HARD = "direct, found"
    """One side's outer port has to be learned, predicted, or found by a spray."""
    RELAY = "relay"
    """Nothing can work."""


def expected(one: Kind, other: Kind) -> Expected:
    """See there."""
    if any(kind.site.egress is not Egress.ALL for kind in (one, other)):
        return Expected.RELAY
    if all(kind.site.ipv6 is not IPv6.NONE for kind in (one, other)):
        return Expected.EASY
    match is_hard(one) + is_hard(other):
        case 0:
            return Expected.EASY
        case 1:
            return Expected.HARD
        case _:
            return Expected.RELAY


def is_hard(kind: Kind) -> bool:
    """Whether the outer port depends on the destination. A carrier's NAT never makes that better."""
    nat = kind.site.nat
    if kind.site.port_mapper is not None and kind.site.carrier is None:
        return False
    return nat is not None and nat.behaviour.mapping is not Mapping.ENDPOINT_INDEPENDENT


def takes_any_port(site: Site) -> bool:
    """Whether a packet from an address that was sent to comes in, from whatever port."""
    if site.carrier is not None:
        return False
    return (
        site.nat is None
        or site.port_mapper is not None
        or site.nat.behaviour.filtering is not Filtering.ADDRESS_AND_PORT_DEPENDENT
    )


@dataclass(frozen=True)
class Pings:
    """What `ping` saw. `began` is when the first one was sent, in Unix time."""

    began: float
    first_ms: float | None
    sent: int
    lost: int

    @classmethod
    def parse(cls, output: str, *, started: float) -> Pings:
        """From what `ping -D` wrote until it was interrupted."""
        answered = {int(seq): (float(at), float(ms)) for at, seq, ms in ANSWERED.findall(output)}
        found = TRANSMITTED.search(output)
        sent = int(found[1]) if found else 0
        judged = max(0, sent - round(IN_FLIGHT / PING_INTERVAL))
        lost = sum(seq not in answered for seq in range(1, judged + 1))
        if 1 not in answered:
            return cls(started, None, sent, lost)
        at, milliseconds = answered[1]
        return cls(at - milliseconds / 1000, milliseconds, sent, lost)


@dataclass(frozen=True)
class Meeting:
    """One run of a pair. Times are seconds after the first packet; None is never.

    `technique` says how a direct path was found, `reason` why there is none. `wire_mtu` is the largest packet
    that either side believes the path to carry, headers included; 0 on the relay.
    """

    pings: Pings
    direct_left: float | None
    direct_right: float | None
    technique: str = ""
    reason: str = ""
    wire_mtu: int = 0

    @property
    def direct(self) -> float | None:
        """When data went directly both ways."""
        if self.direct_left is None or self.direct_right is None:
            return None
        return max(self.direct_left, self.direct_right)


def meet(left: Member, right: Member, limit: float) -> Meeting:
    """Ping from left to right until both reach each other directly, `limit` seconds at most."""
    started = time.time()
    ping = left.place.host.popen(
        "ping", "-n", "-D", "-i", f"{PING_INTERVAL:g}", right.ipv4, log=f"ping-{right.name}"
    )
    direct: dict[str, float] = {}
    sides = ((left, right), (right, left))
    while len(direct) < 2 and time.time() < started + limit:
        for side, other in sides:
            if side.name not in direct and side.path_to(other).get("Direct"):
                direct[side.name] = time.time()
        time.sleep(LOOK_INTERVAL)
    time.sleep(AFTERWARDS)
    _wait_for_the_late(ping)
    pings = Pings.parse(ping.interrupt(), started=started)
    paths = [side.path_to(other) for side, other in sides]
    after = {name: max(0.0, at - pings.began) for name, at in direct.items()}
    return Meeting(
        pings=pings,
        direct_left=after.get(left.name),
        direct_right=after.get(right.name),
        technique=technique(paths, [left, right]) if len(direct) == 2 else "",
        reason="" if len(direct) == 2 else reason(paths),
        wire_mtu=max(used["WireMTU"] if (used := _used(path)) else 0 for path in paths),
    )


def _wait_for_the_late(ping: Process) -> None:
    """Until all pings before the last answered one are answered, or are lost."""
    deadline = time.monotonic() + LATE
    while time.monotonic() < deadline:
        answered = {int(sequence) for _, sequence, _ in ANSWERED.findall(ping.output())}
        if len(answered) == max(answered, default=0):
            return
        time.sleep(LOOK_INTERVAL)


def technique(paths: list[dict[str, Any]], members: list[Member]) -> str:
    """How the path in use was found, by what the sides know of it. Both lists are in the same order."""
    used = [_used(path) for path in paths]
    if any(one is not None and one["Kind"] == "spray" for one in used):
        return "spray"
    if any(one is not None and one["Kind"] == "peer-relay" for one in used):
        return "peer relay"
    found = [
        _how_known(one, member, peer)
        for one, member, peer in zip(used, members, reversed(members), strict=True)
        if one is not None
    ]
    return next(
        (how for how in ("predicted port", "learned port") if how in found), found[0] if found else ""
    )


def _used(path: dict[str, Any]) -> dict[str, Any] | None:
    return next((candidate for candidate in path["Candidates"] if candidate["InUse"]), None)


def _how_known(candidate: dict[str, Any], member: Member, peer: Member) -> str:
    """An address that the peer did not name can only be known from a ping that came from there.

    Where a filter lets in nothing from a port that nothing was sent to, such a ping proves that a probe was
    sent there before, and thus that the port was predicted.
    """
    address = candidate["Path"]
    if address in (peer.status()["Self"]["Addrs"] or []):
        host = ipaddress.ip_address(address.rpartition(":")[0].strip("[]"))
        if host.version == 6:
            return "IPv6"
        return "local address" if host.is_private else "advertised"
    return "learned port" if takes_any_port(member.place.site) else "predicted port"


def reason(paths: list[dict[str, Any]]) -> str:
    """Why they stay on the relay, as the sides themselves say; both if they do not agree."""
    reasons = [path["RelayReason"] for path in paths if path.get("RelayReason")]
    return ", ".join(dict.fromkeys(reasons))


@dataclass(frozen=True)
class Cell:
    """All runs of one pair: `left` is the kind of the side that speaks first."""

    left: str
    right: str
    expected: Expected
    meetings: tuple[Meeting, ...]

    @property
    def delivered(self) -> int:
        """Runs whose first ping was answered."""
        return sum(meeting.pings.first_ms is not None for meeting in self.meetings)

    @property
    def lost(self) -> int:
        """Pings without an answer, of all runs."""
        return sum(meeting.pings.lost for meeting in self.meetings)

    @property
    def first_ms(self) -> float | None:
        """The median round trip of first pings."""
        return _median(meeting.pings.first_ms for meeting in self.meetings)

    @property
    def times(self) -> list[float]:
        """Seconds to direct of the runs that became direct."""
        return sorted(meeting.direct for meeting in self.meetings if meeting.direct is not None)

    @property
    def median(self) -> float | None:
        return _median(self.times)

    def explanation(self) -> str:
        """Techniques and reasons for relay of all runs, the most frequent first."""
        said = [meeting.technique or f"relay: {meeting.reason}" for meeting in self.meetings]
        return "; ".join(sorted(set(said), key=said.count, reverse=True))

    def shortcomings(self) -> list[str]:
        """What is not as it should be, in words; see the acceptance figures in `docs/natlab.md`."""
        runs = len(self.meetings)
        wrong = (
            [] if self.delivered == runs else [f"first ping lost in {runs - self.delivered} of {runs} runs"]
        )
        match self.expected:
            case Expected.EASY if len(self.times) < runs or (self.median or 0) > EASY_LIMIT:
                wrong.append(f"direct in {len(self.times)} of {runs} runs, median {_seconds(self.median)}")
            case Expected.HARD if (
                in_time := sum(time <= HARD_LIMIT for time in self.times)
            ) < runs * HARD_SHARE:
                wrong.append(f"direct within {HARD_LIMIT:g} s in {in_time} of {runs} runs")
            case _:
                pass
        return wrong


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _seconds(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f} s"
