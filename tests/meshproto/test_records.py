"""Records after the handshake: vectors, framing, counters, and a death that lasts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproto.noise import MAX_FRAME_SIZE, MAX_PLAINTEXT_SIZE, NoiseError, Transport
from meshproto.noise.records import COUNTER_LIMIT
from tests.meshproto.feeding import Feeding, every_feeding
from tests.meshproto.noise_vectors import VECTORS, connected, raw

TO_SERVER = VECTORS["to_server"]
TO_NODE = VECTORS["to_node"]


def stream(records: list[dict[str, str]]) -> bytes:
    return b"".join(bytes.fromhex(record["frame"]) for record in records)


def words(records: list[dict[str, str]]) -> bytes:
    return b"".join(bytes.fromhex(record["plaintext"]) for record in records)


def test_records_of_the_vectors() -> None:
    node, coordinator = connected()
    for record in TO_SERVER:
        assert node.seal_record(bytes.fromhex(record["plaintext"])).hex() == record["frame"]
    for record in TO_NODE:
        assert coordinator.seal_record(bytes.fromhex(record["plaintext"])).hex() == record["frame"]
    frame = coordinator.seal(VECTORS["early_json"].encode())
    assert len(frame) == 114
    assert frame.hex().startswith(VECTORS["early_json_frame_starts"])
    assert frame.hex().endswith(VECTORS["early_json_frame_ends"])


@every_feeding
def test_vectors_are_opened(feed: Feeding) -> None:
    node, coordinator = connected()
    assert b"".join(coordinator.receive_data(part) for part in feed(stream(TO_SERVER))) == words(TO_SERVER)
    assert b"".join(node.receive_data(part) for part in feed(stream(TO_NODE))) == words(TO_NODE)


def test_little_endian_counter_is_refused() -> None:
    _, coordinator = connected()
    coordinator.receive_data(bytes.fromhex(TO_SERVER[0]["frame"]))
    with pytest.raises(NoiseError, match="authenticate"):
        coordinator.receive_data(bytes.fromhex(TO_SERVER[1]["little_endian_frame"]))


def test_trailing_part_of_a_record_is_kept() -> None:
    node, coordinator = connected()
    first, second = node.seal(b"first"), node.seal(b"second")
    assert coordinator.receive_data(first + second[:-1]) == b"first"
    assert coordinator.receive_data(second[-1:]) == b"second"


@pytest.mark.parametrize(
    "size", [1, MAX_PLAINTEXT_SIZE - 1, MAX_PLAINTEXT_SIZE, MAX_PLAINTEXT_SIZE + 1, 100_000]
)
def test_long_writes_are_chopped(size: int) -> None:
    node, coordinator = connected()
    sealed = node.seal(bytes(size))
    records = -(-size // MAX_PLAINTEXT_SIZE)
    assert len(sealed) == size + records * 19
    assert sealed[1:3] == (min(size, MAX_PLAINTEXT_SIZE) + 16).to_bytes(2, "big")
    assert coordinator.receive_data(sealed) == bytes(size)


def test_largest_record_fills_the_frame() -> None:
    node, _ = connected()
    assert MAX_PLAINTEXT_SIZE == 4077
    assert len(node.seal_record(bytes(MAX_PLAINTEXT_SIZE))) == MAX_FRAME_SIZE
    with pytest.raises(ValueError, match="4077"):
        node.seal_record(bytes(MAX_PLAINTEXT_SIZE + 1))


def test_nothing_seals_to_nothing() -> None:
    node, _ = connected()
    assert node.seal(b"") == b""


@given(st.lists(st.binary(max_size=9000), max_size=4), st.data())
def test_any_writes_in_any_pieces(writes: list[bytes], data: st.DataObject) -> None:
    node, coordinator = connected()
    sealed = b"".join(node.seal(write) for write in writes)
    opened = b""
    while sealed:
        cut = data.draw(st.integers(1, len(sealed)))
        opened += coordinator.receive_data(sealed[:cut])
        sealed = sealed[cut:]
    assert opened == b"".join(writes)


@pytest.mark.parametrize("index", range(3 + 5 + 16))
def test_a_tampered_record_ends_the_receiving_side(index: int) -> None:
    node, coordinator = connected()
    frame = bytearray(node.seal(b"hello"))
    frame[index] ^= 1
    with pytest.raises(NoiseError):
        coordinator.receive_data(bytes(frame) + bytes(300))  # enough for a length that became longer
    with pytest.raises(NoiseError):
        coordinator.receive_data(node.seal(b"again"))
    assert node.receive_data(coordinator.seal(b"the other direction lives")) == b"the other direction lives"


@pytest.mark.parametrize("header", ["040000", "04000f", "040ffe", "04ffff", "010030", "000010", "050010"])
def test_impossible_headers_are_refused_before_their_body(header: str) -> None:
    _, coordinator = connected()
    with pytest.raises(NoiseError):
        coordinator.receive_data(bytes.fromhex(header))


def test_replayed_reordered_and_reflected_records_are_refused() -> None:
    node, coordinator = connected()
    first, second = node.seal(b"first"), node.seal(b"second")
    with pytest.raises(NoiseError):
        node.receive_data(first)
    with pytest.raises(NoiseError):
        connected()[1].receive_data(second)
    coordinator.receive_data(first)
    with pytest.raises(NoiseError):
        coordinator.receive_data(first)


def test_the_last_counter_is_never_used() -> None:
    node, coordinator = connected()
    node._send_counter = coordinator._receive_counter = COUNTER_LIMIT - 1
    assert coordinator.receive_data(node.seal(b"last")) == b"last"
    with pytest.raises(NoiseError, match="exhausted"):
        node.seal(b"one more")
    node._send_counter = COUNTER_LIMIT - 1
    with pytest.raises(NoiseError, match="exhausted"):
        coordinator.receive_data(node.seal(b"one more"))


@given(st.binary(max_size=6000))
def test_any_bytes(data: bytes) -> None:
    _, coordinator = connected()
    try:
        assert coordinator.receive_data(data) == b""
    except NoiseError:
        return
    assert len(coordinator._buffer) < MAX_FRAME_SIZE


def test_keys_do_not_show() -> None:
    transport = Transport(raw("k1"), raw("k2"), raw("handshake_hash"))
    assert VECTORS["k1"] not in repr(transport)
