"""Which handshake messages get past the gate, and the limits per source that it keeps."""

from __future__ import annotations

import ipaddress
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.dataplane import Verdict, cookie, is_handshake
from meshnode.dataplane.ratelimit import RateLimiter
from meshproto.primitives import blake2s_mac
from tests.meshnode.dataplane.kernels import KERNELS, Kernel
from tests.meshnode.dataplane.models import SlowRateLimiter

MAC1_KEY = bytes(range(32))
SECRETS = [bytes([number]) * 32 for number in range(3)]
SIZES = {1: 148, 2: 92}
HERE, THERE, THIRD = bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2]), bytes([192, 0, 2, 3])
SIX = ipaddress.IPv6Address("2001:db8::1").packed
SAME_NETWORK = ipaddress.IPv6Address("2001:db8::2").packed
OTHER_NETWORK = ipaddress.IPv6Address("2001:db8:0:1::1").packed
LOOKS_LIKE_SIX = SIX[:4]
"""The IPv4 address whose bytes are those that the network of SIX begins with; the rest of that is zero."""
NAME = b"derp-3"

LOADED = 0
ROOM = 64


def handshake(kind: int = 1, given: bytes | None = None, mac1_key: bytes = MAC1_KEY) -> bytes:
    """With a valid mac1, and a mac2 if a cookie is `given`."""
    body = bytes([kind, 0, 0, 0]) + bytes(range(SIZES[kind] - 36))
    message = body + blake2s_mac(mac1_key, body)
    return message + (blake2s_mac(given, message) if given is not None else bytes(16))


def flipped(message: bytes, position: int) -> bytes:
    changed = bytearray(message)
    changed[position] ^= 0x10
    return bytes(changed)


def gate_of(kernel: Kernel, room: int) -> Any:
    gate = kernel.Gate(MAC1_KEY)
    gate.set_secret(SECRETS[1])
    gate.set_room(room)
    return gate


def proof(address: bytes = HERE, port: int = 1, secret: bytes = SECRETS[1], kind: int = 1) -> bytes:
    return handshake(kind, cookie(secret, address, port))


def verdicts(gate: Any, count: int, message: bytes, address: bytes = HERE, now: float = 0.0) -> list[Verdict]:
    return [gate.judge(message, address, 1, now) for _ in range(count)]


@pytest.mark.parametrize("kind", [1, 2])
class TestEveryMessage:
    def test_with_room_mac1_is_enough(self, kernel: Kernel, kind: int) -> None:
        gate = gate_of(kernel, ROOM)
        assert gate.judge(handshake(kind), HERE, 1, 0.0) is Verdict.ADMIT
        assert not gate.is_loaded(0.0)

    @pytest.mark.parametrize("room", [ROOM, LOADED])
    def test_a_wrong_size(self, kernel: Kernel, kind: int, room: int) -> None:
        message = proof(kind=kind)
        for wrong in (message[:4], message[:-1], message + b"\0", message[1:4].rjust(4, message[:1]) + b"x"):
            assert gate_of(kernel, room).judge(wrong, HERE, 1, 0.0) is Verdict.INVALID_LENGTH

    def test_a_flipped_bit_is_a_wrong_mac1(self, kernel: Kernel, kind: int) -> None:
        message = handshake(kind)
        for position in (1, 4, len(message) - 33, len(message) - 32, len(message) - 17):
            for room in (ROOM, LOADED):
                gate = gate_of(kernel, room)
                assert gate.judge(flipped(message, position), HERE, 1, 0.0) is Verdict.INVALID_MAC1
                assert not gate.is_loaded(0.0)  # it would not have waited

    def test_a_mac1_of_another_key(self, kernel: Kernel, kind: int) -> None:
        message = handshake(kind, mac1_key=bytes(32))
        assert gate_of(kernel, ROOM).judge(message, HERE, 1, 0.0) is Verdict.INVALID_MAC1

    def test_nobody_looks_at_mac2_while_there_is_room(self, kernel: Kernel, kind: int) -> None:
        wrong = handshake(kind)[:-16] + bytes([7]) * 16
        assert verdicts(gate_of(kernel, ROOM), ROOM, wrong) == [Verdict.ADMIT] * ROOM


class TestLoad:
    def test_room_is_used_up_by_what_is_admitted_only(self, kernel: Kernel) -> None:
        gate = gate_of(kernel, 2)
        forged = flipped(handshake(), 50)
        assert verdicts(gate, 5, forged) == [Verdict.INVALID_MAC1] * 5
        assert verdicts(gate, 2, handshake(), THERE) == [Verdict.ADMIT] * 2
        assert not gate.is_loaded(0.0)
        assert verdicts(gate, 2, handshake()) == [Verdict.ADMIT, Verdict.REPLY]
        assert gate.is_loaded(0.0)

    def test_lingers_for_a_second(self, kernel: Kernel) -> None:
        gate = gate_of(kernel, LOADED)
        verdicts(gate, 2, handshake(), now=1.0)
        gate.set_room(ROOM)
        assert gate.is_loaded(1.75)
        assert gate.judge(handshake(), HERE, 1, 1.75) is Verdict.REPLY
        assert not gate.is_loaded(2.0)
        assert verdicts(gate, ROOM, handshake(), now=2.0) == [Verdict.ADMIT] * ROOM

    def test_room_is_kept_while_it_lingers(self, kernel: Kernel) -> None:
        """Who proved himself or tries for the first time does not take it from those after the load."""
        gate = gate_of(kernel, LOADED)
        verdicts(gate, 1, handshake())
        gate.set_room(1)
        assert gate.judge(proof(), HERE, 1, 0.5) is Verdict.ADMIT
        assert gate.judge(handshake(), THERE, 1, 0.5) is Verdict.ADMIT
        assert gate.judge(handshake(), HERE, 1, 1.0) is Verdict.ADMIT
        assert not gate.is_loaded(1.0)

    def test_less_than_no_room(self, kernel: Kernel) -> None:
        gate = gate_of(kernel, -400)
        assert verdicts(gate, 2, handshake()) == [Verdict.ADMIT, Verdict.REPLY]


class TestUnderLoad:
    def test_one_try_without_proof_then_five_replies_then_silence(self, kernel: Kernel) -> None:
        gate = gate_of(kernel, LOADED)
        expected = [Verdict.ADMIT, *[Verdict.REPLY] * 5, *[Verdict.UNDER_LOAD] * 3]
        assert verdicts(gate, 9, handshake()) == expected
        assert verdicts(gate, 9, handshake(), THERE) == expected
        assert verdicts(gate, 9, handshake(), NAME) == expected

    def test_the_next_try_is_after_five_seconds(self, kernel: Kernel) -> None:
        gate = gate_of(kernel, LOADED)
        verdicts(gate, 1, handshake())
        assert gate.judge(handshake(), HERE, 1, 4.75) is Verdict.REPLY
        assert gate.judge(handshake(), HERE, 1, 5.0) is Verdict.ADMIT

    def test_replies_come_at_two_a_second(self, kernel: Kernel) -> None:
        gate = gate_of(kernel, LOADED)
        verdicts(gate, 1 + 5, handshake())
        found = [gate.judge(handshake(), HERE, 1, step / 64) for step in range(1, 129)]
        assert found.count(Verdict.REPLY) == 4
        assert set(found) == {Verdict.REPLY, Verdict.UNDER_LOAD}

    def test_proof_is_good_for_five_at_once_and_twenty_a_second(self, kernel: Kernel) -> None:
        gate = gate_of(kernel, LOADED)
        assert verdicts(gate, 7, proof()) == [Verdict.ADMIT] * 5 + [Verdict.RATE_LIMITED] * 2
        assert gate.judge(proof(THERE), THERE, 1, 0.0) is Verdict.ADMIT
        found = [gate.judge(proof(), HERE, 1, step / 64) for step in range(1, 65)]
        assert found.count(Verdict.ADMIT) == 20

    def test_the_first_try_is_left_to_who_has_proof(self, kernel: Kernel) -> None:
        gate = gate_of(kernel, LOADED)
        verdicts(gate, 7, proof())
        assert verdicts(gate, 2, handshake()) == [Verdict.ADMIT, Verdict.REPLY]

    @pytest.mark.parametrize(
        ("message", "why"),
        [
            (proof(port=2), "another port"),
            (proof(THERE), "another address"),
            (proof(secret=SECRETS[0]), "an old secret"),
            (flipped(proof(), -1), "a flipped bit"),
            (proof()[:-16] + b"\xff" * 16, "nonsense"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_what_is_no_proof(self, kernel: Kernel, message: bytes, why: str) -> None:
        gate = gate_of(kernel, LOADED)
        assert verdicts(gate, 2, message) == [Verdict.ADMIT, Verdict.REPLY], why

    def test_the_proof_of_a_response(self, kernel: Kernel) -> None:
        gate = gate_of(kernel, LOADED)
        assert verdicts(gate, 6, proof(kind=2)) == [Verdict.ADMIT] * 5 + [Verdict.RATE_LIMITED]

    def test_a_new_secret_ends_old_proof(self, kernel: Kernel) -> None:
        gate = gate_of(kernel, LOADED)
        verdicts(gate, 1, handshake())
        assert gate.judge(proof(), HERE, 1, 0.0) is Verdict.ADMIT
        gate.set_secret(SECRETS[2])
        assert gate.judge(proof(), HERE, 1, 0.0) is Verdict.REPLY
        assert gate.judge(proof(secret=SECRETS[2]), HERE, 1, 0.0) is Verdict.ADMIT

    def test_an_ipv6_network_is_one_source_but_each_address_proves_itself(self, kernel: Kernel) -> None:
        gate = gate_of(kernel, LOADED)
        assert gate.judge(handshake(), SIX, 1, 0.0) is Verdict.ADMIT
        assert gate.judge(handshake(), SAME_NETWORK, 1, 0.0) is Verdict.REPLY
        assert gate.judge(handshake(), OTHER_NETWORK, 1, 0.0) is Verdict.ADMIT
        assert gate.judge(proof(SIX), SAME_NETWORK, 1, 0.0) is Verdict.REPLY
        assert verdicts(gate, 3, proof(SIX), SIX) == [Verdict.ADMIT] * 3
        found = verdicts(gate, 3, proof(SAME_NETWORK), SAME_NETWORK)
        assert found == [Verdict.ADMIT, Verdict.ADMIT, Verdict.RATE_LIMITED]

    def test_sources_whose_bytes_begin_alike(self, kernel: Kernel) -> None:
        gate = gate_of(kernel, LOADED)
        for address in (SIX, LOOKS_LIKE_SIX, NAME, NAME + b"\0"):
            assert gate.judge(handshake(), address, 1, 0.0) is Verdict.ADMIT

    def test_so_many_sources_are_remembered(self, kernel: Kernel) -> None:
        gate = gate_of(kernel, LOADED)
        found = [gate.judge(handshake(), number.to_bytes(4, "big"), 1, 0.0) for number in range(8192 + 2)]
        assert found == [Verdict.ADMIT] * 8192 + [Verdict.REPLY] * 2
        assert gate.judge(handshake(), b"\xff\0\0\0", 1, 5.0) is Verdict.ADMIT


def test_keys_have_a_size() -> None:
    for kernel in KERNELS:
        if kernel.name == "native":
            with pytest.raises(ValueError, match="32 bytes"):
                kernel.Gate(bytes(31))
            with pytest.raises(ValueError, match="32 bytes"):
                kernel.Gate(bytes(32)).set_secret(bytes(33))


@pytest.mark.parametrize("kind", [1, 2])
def test_what_is_the_gates_business(kind: int) -> None:
    assert is_handshake(bytes([kind, 0, 0, 0]))
    assert is_handshake(memoryview(handshake(kind)))
    for other in (b"", bytes([kind, 0, 0]), bytes([kind, 0, 0, 1]), bytes([kind + 2, 0, 0, 0]), bytes(148)):
        assert not is_handshake(other)


def test_a_cookie_is_of_a_secret_an_address_and_a_port() -> None:
    made = {
        cookie(secret, address, port)
        for secret in SECRETS
        for address in (HERE, THERE, SIX, NAME)
        for port in (1, 256, 65535)
    }
    assert len(made) == 3 * 4 * 3
    assert {len(one) for one in made} == {16}


# --- both judge alike ---

SOURCES = st.sampled_from(
    [HERE, THERE, SIX, SAME_NETWORK, OTHER_NETWORK, LOOKS_LIKE_SIX, NAME, bytes(range(50)), b""]
)
PORTS = st.sampled_from([1, 2, 65535])
PROOFS = st.one_of(
    st.none(),
    st.builds(cookie, st.sampled_from(SECRETS), SOURCES, PORTS),
    st.just(b"\xff" * 16),
)
MESSAGES = st.builds(handshake, st.sampled_from([1, 2]), PROOFS)
NEARLY = st.one_of(
    MESSAGES,
    MESSAGES,
    MESSAGES,
    st.builds(flipped, MESSAGES, st.sampled_from([4, 50, -40, -20, -1])),
    st.builds(lambda message, size: message[:size], MESSAGES, st.integers(4, 148)),
    st.builds(lambda message: message + b"\0", MESSAGES),
)
JUDGE = st.tuples(st.just("judge"), NEARLY, SOURCES, PORTS, st.integers(1, 20))
PROVED = st.builds(
    lambda kind, secret, address, port, times: (
        "judge",
        proof(address, port, secret, kind),
        address,
        port,
        times,
    ),
    st.sampled_from([1, 2]),
    st.sampled_from(SECRETS[1:]),
    SOURCES,
    PORTS,
    st.integers(1, 20),
)
STEPS = st.one_of(
    JUDGE,
    PROVED,
    st.tuples(st.just("set_room"), st.sampled_from([-5, 0, 0, 0, 1, 3, 64])),
    st.tuples(st.just("set_secret"), st.sampled_from(SECRETS[1:])),
    st.tuples(st.just("wait"), st.sampled_from([1, 8, 64, 128, 640, 5000])),
)


@given(st.lists(STEPS, max_size=60))
def test_twins(steps: list[tuple[Any, ...]]) -> None:
    """Where there is only one, that it judges at all."""
    gates = [gate_of(kernel, LOADED) for kernel in KERNELS]
    ticks = 0
    for name, *arguments in steps:
        if name == "wait":
            ticks += arguments[0]
            continue
        now = ticks / 128  # exact in binary: no rounding to argue about
        outcomes = []
        for gate in gates:
            if name == "judge":
                message, address, port, times = arguments
                outcomes.append([gate.judge(message, address, port, now) for _ in range(times)])
            else:
                getattr(gate, name)(*arguments)
            outcomes.append([gate.is_loaded(now)])
        half = len(outcomes) // len(gates)
        assert outcomes[:half] == outcomes[-half:]


def test_a_long_flood_through_both() -> None:
    """More sources than are remembered, and a sweep every now and then."""
    gates: list[Any] = [gate_of(kernel, LOADED) for kernel in KERNELS]
    message = handshake()
    for number in range(12_000):
        address, now = os.urandom(4), number / 1024
        assert len({gate.judge(message, address, 1, now) for gate in gates}) == 1


# --- the limit per source ---

LIMITS: dict[str, tuple[float, float, float]] = {"fast": (20.0, 5.0, 1.0), "slow": (0.25, 1.0, 5.0)}


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
class TestRateLimiter:
    @given(
        steps=st.lists(
            st.tuples(
                st.sampled_from([0, 1, 5, 30, 500]), st.sampled_from([HERE, THERE, SIX, SAME_NETWORK, NAME])
            ),
            max_size=80,
        )
    )
    def test_matches_its_slow_twin(
        self, limits: tuple[float, float, float], steps: list[tuple[int, bytes]]
    ) -> None:
        rate, burst, _ = limits
        limiter, twin, ticks = RateLimiter(*limits), SlowRateLimiter(rate, burst), 0
        for wait, address in steps:
            ticks += wait
            now = ticks / 128  # exact in binary: no rounding to argue about
            assert limiter.allow(address, now) == twin.allow(address, now)

    def test_one_flooder_does_not_use_up_the_others_share(self, limits: tuple[float, float, float]) -> None:
        limiter = RateLimiter(*limits)
        assert sum(limiter.allow(HERE, 0.0) for _ in range(1000)) == limits[1]
        assert limiter.allow(THERE, 0.0)

    def test_an_ipv6_network_is_one_source(self, limits: tuple[float, float, float]) -> None:
        limiter = RateLimiter(*limits)
        assert sum(limiter.allow(SIX[:8] + bytes(7) + bytes([k]), 0.0) for k in range(100)) == limits[1]
        assert limiter.allow(OTHER_NETWORK, 0.0)

    def test_a_name_is_a_source_too(self, limits: tuple[float, float, float]) -> None:
        limiter = RateLimiter(*limits)
        assert sum(limiter.allow(b"derp-1", 0.0) for _ in range(10)) == limits[1]
        assert limiter.allow(b"derp-2", 0.0)

    def test_bounded_and_forgetful(self, limits: tuple[float, float, float]) -> None:
        limiter = RateLimiter(*limits, max_sources=10)
        found = [limiter.allow(bytes([192, 0, 2, host]), 0.0) for host in range(12)]
        assert found == [True] * 10 + [False] * 2
        assert limiter.allow(bytes([192, 0, 2, 200]), limits[2] * 1.5)
        assert len(limiter) == 1
