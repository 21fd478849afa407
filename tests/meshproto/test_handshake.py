"""Noise IK of the control channel: vectors, every byte tampered with, and nothing ever repeated."""

from __future__ import annotations

import base64
import itertools
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproto.keys import MachinePrivate, MachinePublic
from meshproto.noise import (
    INITIATION_SIZE,
    RESPONSE_SIZE,
    CoordinatorRefused,
    Initiator,
    NoiseError,
    Responder,
    ResponseReader,
    error_frame,
)
from meshproto.noise.symmetric import SymmetricState
from meshproto.primitives import x25519
from tests.meshproto.feeding import Feeding, every_feeding
from tests.meshproto.noise_vectors import (
    MACHINE,
    SERVER,
    VECTORS,
    VERSION,
    connected,
    initiator,
    raw,
    responder,
)

LOW_ORDER_POINTS = [bytes(32), (1).to_bytes(32, "little"), (2**255 - 20).to_bytes(32, "little")]


def flipped(message: bytes, index: int, bit: int = 0) -> bytes:
    return message[:index] + bytes([message[index] ^ (1 << bit)]) + message[index + 1 :]


def test_public_keys_of_the_vectors() -> None:
    assert MACHINE.public.raw == raw("machine_public")
    assert SERVER.public.raw == raw("server_public")


def test_symmetric_state_of_the_vectors() -> None:
    state = SymmetricState()
    assert state.hash == state.chaining_key == raw("h_after_name")
    state.mix_hash(b"Tailscale Control Protocol v%d" % VERSION)
    assert state.hash == raw("h_after_prologue")
    state.mix_hash(SERVER.public.raw)
    assert state.hash == raw("h_after_server_static")
    ephemeral = MachinePrivate(raw("client_ephemeral_private"))
    state.mix_hash(ephemeral.public.raw)
    state.mix_key(x25519(ephemeral.raw, SERVER.public.raw))
    assert state.chaining_key == raw("ck_after_es")
    assert state._key == raw("k_after_es")
    state.encrypt_and_hash(MACHINE.public.raw)
    state.mix_key(x25519(MACHINE.raw, SERVER.public.raw))
    state.encrypt_and_hash(b"")
    assert state.hash == raw("h_after_message_1")


def test_a_key_of_the_handshake_seals_one_message_only() -> None:
    state = SymmetricState()
    with pytest.raises(NoiseError, match="repeat"):
        state.encrypt_and_hash(b"")
    state.mix_key(bytes(32))
    state.encrypt_and_hash(b"first")
    with pytest.raises(NoiseError, match="repeat"):
        state.encrypt_and_hash(b"second")


def test_messages_of_the_vectors() -> None:
    node = initiator()
    initiation = node.initiation()
    assert initiation == raw("message_1")
    assert len(initiation) == INITIATION_SIZE == 101
    assert base64.b64encode(initiation).decode() == VECTORS["handshake_header"]
    accepted = responder().consume_initiation(initiation)
    assert accepted.response == raw("message_2")
    assert len(accepted.response) == RESPONSE_SIZE == 51
    assert (accepted.machine, accepted.protocol_version) == (MACHINE.public, VERSION)
    transport = node.consume_response(accepted.response)
    assert transport.handshake_hash == accepted.transport.handshake_hash == raw("handshake_hash")


def test_split_of_the_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = []
    split = SymmetricState.split

    def recorded(state: SymmetricState) -> tuple[bytes, bytes]:
        splits.append(split(state))
        return splits[-1]

    monkeypatch.setattr(SymmetricState, "split", recorded)
    connected()
    assert splits == [(raw("k1"), raw("k2"))] * 2


@pytest.mark.parametrize("bit", [0, 7])
@pytest.mark.parametrize("index", range(INITIATION_SIZE))
def test_tampered_initiation_fails_and_leaves_the_responder_usable(index: int, bit: int) -> None:
    # Its entropy has one ephemeral key: a rejected initiation must not have taken it.
    coordinator = responder()
    with pytest.raises(NoiseError):
        coordinator.consume_initiation(flipped(raw("message_1"), index, bit))
    assert coordinator.consume_initiation(raw("message_1")).response == raw("message_2")


@pytest.mark.parametrize("bit", [0, 7])
@pytest.mark.parametrize("index", range(RESPONSE_SIZE))
def test_tampered_response_fails_and_ends_the_initiator(index: int, bit: int) -> None:
    node = initiator()
    node.initiation()
    with pytest.raises(NoiseError):
        node.consume_response(flipped(raw("message_2"), index, bit))
    with pytest.raises(NoiseError, match="no handshake"):
        node.consume_response(raw("message_2"))


@given(st.binary(max_size=2 * INITIATION_SIZE))
def test_any_initiation_bytes(message: bytes) -> None:
    with pytest.raises(NoiseError):
        responder().consume_initiation(message)


@given(st.binary(max_size=2 * RESPONSE_SIZE))
def test_any_response_bytes(message: bytes) -> None:
    node = initiator()
    node.initiation()
    with pytest.raises(NoiseError):
        node.consume_response(message)


@pytest.mark.parametrize("change", [-1, 1])
def test_wrong_sizes(change: int) -> None:
    def resized(message: bytes) -> bytes:
        return message[:change] if change < 0 else message + bytes(change)

    with pytest.raises(NoiseError, match="size"):
        responder().consume_initiation(resized(raw("message_1")))
    node = initiator()
    node.initiation()
    with pytest.raises(NoiseError, match="size"):
        node.consume_response(resized(raw("message_2")))


@pytest.mark.parametrize("point", LOW_ORDER_POINTS)
def test_weak_ephemeral_keys_are_refused(point: bytes) -> None:
    message = raw("message_1")
    with pytest.raises(NoiseError, match="weak"):
        responder().consume_initiation(message[:5] + point + message[37:])
    node = initiator()
    node.initiation()
    message = raw("message_2")
    with pytest.raises(NoiseError, match="weak"):
        node.consume_response(message[:3] + point + message[35:])


def test_weak_server_key_is_refused() -> None:
    with pytest.raises(NoiseError, match="weak"):
        initiator(server=MachinePublic.zero()).initiation()


def test_initiation_for_another_coordinator_fails() -> None:
    other = Responder(MachinePrivate.generate(os.urandom), os.urandom)
    with pytest.raises(NoiseError, match="authenticate"):
        other.consume_initiation(raw("message_1"))


def test_response_to_another_initiation_fails() -> None:
    first = Initiator(MACHINE, SERVER.public, VERSION, os.urandom)
    second = Initiator(MACHINE, SERVER.public, VERSION, os.urandom)
    first.initiation()
    accepted = Responder(SERVER, os.urandom).consume_initiation(second.initiation())
    with pytest.raises(NoiseError, match="authenticate"):
        first.consume_response(accepted.response)


@pytest.mark.parametrize("version", [0, 1, 113, 65535])
def test_any_protocol_version_is_accepted(version: int) -> None:
    node = initiator(version=version)
    accepted = responder().consume_initiation(node.initiation())
    assert accepted.protocol_version == version
    node.consume_response(accepted.response)


def test_an_initiator_is_for_one_handshake() -> None:
    node = initiator()
    with pytest.raises(NoiseError, match="no handshake"):
        node.consume_response(raw("message_2"))
    node.initiation()
    with pytest.raises(NoiseError, match="one handshake"):
        node.initiation()
    node.consume_response(raw("message_2"))
    with pytest.raises(NoiseError, match="no handshake"):
        node.consume_response(raw("message_2"))


def test_no_bytes_repeat_across_handshakes() -> None:
    """Headers are constant; of the rest no eight bytes in a row occur twice, records included."""
    coordinator = Responder(SERVER, os.urandom)
    seen: set[bytes] = set()
    for _ in range(40):
        node = Initiator(MACHINE, SERVER.public, VERSION, os.urandom)
        initiation = node.initiation()
        accepted = coordinator.consume_initiation(initiation)
        transport = node.consume_response(accepted.response)
        sent = [initiation[5:], accepted.response[3:]]
        sent += [transport.seal(b"same words")[3:], accepted.transport.seal(b"same words")[3:]]
        chunks = list(itertools.chain.from_iterable(windows(part) for part in sent))
        assert len(set(chunks)) == len(chunks)
        assert seen.isdisjoint(chunks)
        seen.update(chunks)


def windows(part: bytes) -> list[bytes]:
    return [part[start : start + 8] for start in range(len(part) - 7)]


def test_neither_message_shows_the_machine_key() -> None:
    messages = raw("message_1") + raw("message_2")
    assert not set(windows(MACHINE.public.raw)) & set(windows(messages))
    assert not set(windows(SERVER.public.raw)) & set(windows(messages))


@every_feeding
def test_response_reader_finds_the_response(feed: Feeding) -> None:
    reader = ResponseReader()
    answers = [reader.receive_data(part) for part in feed(raw("message_2"))]
    assert answers[-1] == raw("message_2")
    assert reader.trailing == b""


def test_response_reader_keeps_what_follows() -> None:
    reader = ResponseReader()
    assert reader.receive_data(raw("message_2") + b"records") == raw("message_2")
    assert reader.trailing == b"records"


@every_feeding
def test_error_frame_is_shown_as_text(feed: Feeding) -> None:
    reader = ResponseReader()
    parts = list(feed(error_frame("version too old")))
    with pytest.raises(CoordinatorRefused, match=r"^version too old$"):
        [reader.receive_data(part) for part in parts]


def test_error_frame_layout() -> None:
    assert error_frame("no") == b"\x03\x00\x02no"


def test_error_text_is_printable_and_short() -> None:
    with pytest.raises(CoordinatorRefused) as caught:
        ResponseReader().receive_data(b"\x03\x01\x00" + b"\x1b[2J\xff" + b"x" * 251)
    assert str(caught.value).isprintable()
    with pytest.raises(CoordinatorRefused) as caught:
        ResponseReader().receive_data(b"\x03\xff\xff" + b"x" * 65535)
    assert len(str(caught.value)) == 256


def test_initiator_sees_an_error_frame_too() -> None:
    node = initiator()
    node.initiation()
    with pytest.raises(CoordinatorRefused, match="wrong handshake"):
        node.consume_response(error_frame("wrong handshake initiation size"))


@pytest.mark.parametrize("start", [b"\x04\x00\x30", b"HTTP", b"\x02\x00\x31", b"\x01\x00\x60"])
def test_response_reader_refuses_anything_else_at_once(start: bytes) -> None:
    with pytest.raises(NoiseError):
        ResponseReader().receive_data(start)
