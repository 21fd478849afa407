"""The timers against a slow twin that keeps the whole history and works every deadline out from it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.wireguard.constants import DEFAULT, Timings
from meshnode.wireguard.timers import NEVER, Timer, Timers

JITTER = 0.25  # like all times here exact in binary: nothing to round


class SlowTimers:
    """What happened, with times. The newest entries decide; nothing is stored but the history."""

    def __init__(self) -> None:
        self.history: list[tuple[float, str, float]] = []

    def add(self, now: float, what: str, value: float = 0.0) -> None:
        self.history.append((now, what, value))

    def since(self, *endings: str) -> list[tuple[float, str, float]]:
        """What happened after the last of `endings`."""
        for position in range(len(self.history), 0, -1):
            if self.history[position - 1][1] in endings:
                return self.history[position:]
        return self.history

    def first(self, what: str, *endings: str) -> float | None:
        return next((now for now, name, _ in self.since(*endings) if name == what), None)

    def last(self, *what: str, endings: tuple[str, ...] = ()) -> float | None:
        return next((now for now, name, _ in reversed(self.since(*endings)) if name in what), None)

    def deadline(self, timer: Timer) -> float:
        fired = f"{timer.value} fired"
        found: float | None
        match timer:
            case Timer.RETRANSMIT_HANDSHAKE:
                found = self.last("initiation_sent", endings=("handshake_complete", fired))
                return found + 5.0 + JITTER if found is not None else NEVER
            case Timer.NEW_HANDSHAKE:
                found = self.first("data_sent", "any_received", fired)
                return found + 15.0 + JITTER if found is not None else NEVER
            case Timer.SEND_KEEPALIVE:
                found = self.first("data_received", "any_sent", "handshake_given_up", fired)
                return found + 10.0 if found is not None else NEVER
            case Timer.PERSISTENT_KEEPALIVE:
                changes = [entry for entry in self.history if entry[1] == "interval"]
                interval = changes[-1][2] if changes else 0.0
                found = self.last("any_sent", "any_received", "interval", endings=(fired,))
                return found + interval if interval and found is not None else NEVER
            case Timer.ZERO_KEYS:
                return self._zero_keys(fired)
            case _:
                return NEVER

    def _zero_keys(self, fired: str) -> float:
        deadline = NEVER
        for now, what, _ in self.since(fired):
            if what == "session_derived" or (what == "handshake_given_up" and deadline == NEVER):
                deadline = now + 540.0
        return deadline


def apply(timers: Timers, what: str, now: float, value: float) -> None:
    match what:
        case "initiation_sent":
            timers.initiation_sent(now)
        case "handshake_complete":
            timers.handshake_complete()
        case "session_derived":
            timers.session_derived(now)
        case "handshake_given_up":
            timers.handshake_given_up(now)
        case "data_sent":
            timers.data_sent(now)
        case "data_received":
            timers.data_received(now)
        case "any_sent":
            timers.any_authenticated_packet_sent(now)
        case "any_received":
            timers.any_authenticated_packet_received(now)
        case "interval":
            timers.set_persistent_interval(value, now)


HAPPENINGS = [
    "initiation_sent",
    "handshake_complete",
    "session_derived",
    "handshake_given_up",
    "data_sent",
    "data_received",
    "any_sent",
    "any_received",
    "interval",
]
STEPS = st.tuples(
    st.sampled_from([0.0, 0.5, 3.0, 5.25, 10.0, 16.0, 60.0, 540.0]),
    st.sampled_from(HAPPENINGS),
    st.sampled_from([0.0, 1.0, 25.0]),
)


@given(st.lists(STEPS, max_size=40))
def test_timers_match_their_slow_twin(steps: list[tuple[float, str, float]]) -> None:
    timers, twin, now = Timers(DEFAULT, lambda: JITTER), SlowTimers(), 0.0
    for wait, what, value in steps:
        now += wait
        while (timer := timers.pop_expired(now)) is not None:
            assert twin.deadline(timer) <= now, "a timer fired early"
            twin.add(now, f"{timer.value} fired")
        for timer in Timer:
            assert twin.deadline(timer) > now, "a timer did not fire"
        apply(timers, what, now, value)
        twin.add(now, what, value)
        for timer in Timer:
            assert getattr(timers, timer.value) == twin.deadline(timer), timer
        assert timers.wake_at <= min(twin.deadline(timer) for timer in Timer)
        assert timers.next_timeout() == min(twin.deadline(timer) for timer in Timer)


def test_nothing_is_due_at_first() -> None:
    timers = Timers(DEFAULT, lambda: JITTER)
    assert timers.next_timeout() == math.inf
    assert timers.pop_expired(1e9) is None


def test_a_delayed_initiation_is_disarmed_by_one_that_was_sent() -> None:
    timers = Timers(DEFAULT, lambda: JITTER)
    timers.initiation_delayed(7.0)
    assert timers.next_timeout() == 7.0 + JITTER
    timers.initiation_sent(6.0)
    assert timers.delayed_handshake == NEVER
    timers.initiation_delayed(7.0)
    timers.handshake_complete()
    assert timers.next_timeout() == NEVER


def test_a_delayed_initiation_waits_for_the_answer_to_a_response() -> None:
    timers = Timers(DEFAULT, lambda: JITTER)
    timers.response_sent(1.0)
    assert timers.next_timeout() == NEVER
    timers.initiation_delayed(7.0)
    timers.response_sent(6.5)
    assert timers.next_timeout() == 6.5 + 5.0 + JITTER


def test_another_keepalive_is_asked_for_once() -> None:
    timers = Timers(DEFAULT, lambda: JITTER)
    timers.data_received(0.0)
    timers.data_received(1.0)
    assert timers.take_need_another_keepalive()
    assert not timers.take_need_another_keepalive()
    timers.data_received(2.0)
    timers.any_authenticated_packet_sent(3.0)
    assert not timers.take_need_another_keepalive()


def test_stop_disarms_everything() -> None:
    timers = Timers(DEFAULT, lambda: JITTER, 25.0)
    for what in HAPPENINGS:
        apply(timers, what, 1.0, 25.0)
    timers.initiation_delayed(2.0)
    timers.keys_expire(180.0)
    timers.stop()
    assert timers.next_timeout() == NEVER


def test_derived_times() -> None:
    assert DEFAULT.new_handshake_timeout == 15.0
    assert DEFAULT.rekey_on_receive_after == 165.0
    assert DEFAULT.zero_keys_after == 540.0
    assert DEFAULT.max_attempts == 18


@pytest.mark.parametrize("reject", [18.0, 1.8])
def test_timings_can_be_compressed(reject: float) -> None:
    scale = reject / 180.0
    timings = Timings(reject_after_time=reject, keepalive_timeout=10.0 * scale, rekey_timeout=5.0 * scale)
    assert timings.rekey_on_receive_after == pytest.approx(165.0 * scale)
    assert timings.zero_keys_after == pytest.approx(540.0 * scale)
