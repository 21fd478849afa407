"""JSON and the map stream under honest and hostile input."""

from __future__ import annotations

import contextlib
import json
import struct
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshproto.addresses import AddrPort
from meshproto.codec import (
    MalformedMessage,
    MapStreamReader,
    decode,
    encode,
    frame_map_response,
    pre_encoded,
)
from meshproto.keys import NodePublic
from meshproto.messages import (
    DERPAdmitClientRequest,
    MapRequest,
    MapResponse,
    Message,
    Node,
    RegisterRequest,
)
from tests.meshproto.feeding import Feeding, every_feeding
from tests.meshproto.message_strategies import MESSAGE_TYPES, fields_of, messages_of
from tests.meshproto.noise_vectors import raw

KEEP_ALIVE = MapResponse(keep_alive=True)
RESPONSES = [
    MapResponse(node=Node(id=1, name="a.", endpoints=(AddrPort("2001:db8::1", 1),)), domain="x" * 3000),
    KEEP_ALIVE,
    MapResponse(peers_removed=(2, 3)),
]


@pytest.mark.parametrize("kind", MESSAGE_TYPES)
@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_round_trip(kind: type[Message], data: st.DataObject) -> None:
    message = data.draw(messages_of(kind))
    text = encode(message)
    again = decode(text, kind)
    assert again == message
    assert encode(again) == text


# Every name that means something, so that made-up documents get past the first level.
NAMES = sorted({field.encode_name for kind in MESSAGE_TYPES for field in fields_of(kind)})
plausible_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from(["", "1.2.3.4/40", "::1", "1.2.3.4:70000", "0001-01-01T00:00:00+09:00", "nodekey:00"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*NAMES, "1", "-1", "*"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=400)
@given(st.binary(max_size=60), st.sampled_from(MESSAGE_TYPES))
def test_any_bytes_raise_malformed_message_only(data: bytes, kind: type[Message]) -> None:
    with contextlib.suppress(MalformedMessage):
        decode(data, kind)


@settings(max_examples=600, suppress_health_check=[HealthCheck.too_slow])
@given(plausible_json, st.sampled_from([MapResponse, MapRequest, RegisterRequest]))
def test_any_json_raises_malformed_message_only(value: Any, kind: type[Message]) -> None:
    with contextlib.suppress(MalformedMessage):
        encode(decode(json.dumps(value).encode(), kind))


@settings(max_examples=200)
@given(st.data())
def test_damaged_messages_raise_malformed_message_only(data: st.DataObject) -> None:
    text = bytearray(encode(data.draw(st.sampled_from(RESPONSES))))
    text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(MalformedMessage):
        decode(bytes(text), MapResponse)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('{"Peers":[{},{"Key":""}]}', "$.Peers[1].Key"),
        ('{"Peers":[{"Key":null},{"Key":""}]}', "$.Peers[1].Key"),
        ('{"Node":{"Key":"mkey:%s"}}' % ("0" * 64), "$.Node.Key"),
        ('{"Node":{"Key":5}}', "$.Node.Key"),
        ('{"Node":{"AllowedIPs":["10.0.0.0/8","10.0.0.1"]}}', "$.Node.AllowedIPs[1]"),
        ('{"Node":{"Endpoints":["1.2.3.4"]}}', "$.Node.Endpoints"),
        ('{"Node":{"Endpoints":"1.2.3.4:5"}}', "$.Node.Endpoints"),
        ('{"Node":{"Endpoints":[["1.2.3.4",5]]}}', "$.Node.Endpoints"),
        ('{"Node":{"KeyExpiry":""}}', "$.Node.KeyExpiry"),
        ('{"ControlTime":0}', "$.ControlTime"),
        ('{"ControlTime":"2026-09-01 10:00:00"}', "$.ControlTime"),
        ('{"Peers":[null]}', "$.Peers[0]"),
        ('{"PeersRemoved":["nodekey:00"]}', "$.PeersRemoved[0]"),
        ('{"PeersRemoved":[9223372036854775808]}', "$.PeersRemoved[0]"),
        ('{"OnlineChange":{"x":true}}', "$.OnlineChange"),
        (
            '{"DERPMap":{"Regions":{"1":{"Nodes":[{"STUNPort":"x"}]}}}}',
            "$.DERPMap.Regions[...].Nodes[0].STUNPort",
        ),
        ('{"PingRequest":{"Payload":"?"}}', "$.PingRequest.Payload"),
        ("[]", "$"),
        ("null", "$"),
        ("{", "$"),
        ("", "$"),
        ('{"Peers":' + "[" * 100_000, "$.Peers[0]"),
        ('{"Node":{"CapMap":{"x":' + "[" * 100_000, "$"),
        ('{"Unknown":' + "[" * 100_000, "$"),
    ],
)
def test_the_fault_is_named(text: str, path: str) -> None:
    with pytest.raises(MalformedMessage) as caught:
        decode(text.encode(), MapResponse)
    assert caught.value.path == path
    assert "MapResponse" in str(caught.value)


def test_invalid_utf8_is_malformed() -> None:
    with pytest.raises(MalformedMessage):
        decode(b'{"Domain":"\xff"}', MapResponse)


def test_a_rejected_key_does_not_show() -> None:
    with pytest.raises(MalformedMessage) as caught:
        decode(b'{"NodeKey":"privkey:c0ffee"}', RegisterRequest)
    assert "c0ffee" not in str(caught.value)


def test_addresses_of_both_families() -> None:
    request = decode(
        b'{"NodePublic":"nodekey:%s","Source":"2001:db8::1"}' % (b"ab" * 32), DERPAdmitClientRequest
    )
    assert request.source == ip_address("2001:db8::1")
    assert request.node_public == NodePublic(b"\xab" * 32)


@pytest.mark.parametrize("value", [object(), {1, 2}.__iter__(), AddrPort])
def test_values_without_json_form_are_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        encode(Node(name=value))


def test_nanoseconds_are_cut() -> None:
    response = decode(b'{"ControlTime":"2026-08-22T17:48:56.999999999+02:00"}', MapResponse)
    assert response.control_time == datetime(2026, 8, 22, 15, 48, 56, 999999, tzinfo=UTC)
    assert encode(response) == b'{"ControlTime":"2026-08-22T15:48:56.999999Z"}'


def test_pre_encoded_peers() -> None:
    peer = Node(id=2, endpoints=(AddrPort("192.0.2.9", 1),))
    response = MapResponse(peers=(pre_encoded(peer), Node(id=3)))
    assert encode(response) == encode(MapResponse(peers=(peer, Node(id=3))))


# --- the map stream


@every_feeding
@pytest.mark.parametrize("compress", [False, True])
def test_stream(feed: Feeding, compress: bool) -> None:
    stream = b"".join(frame_map_response(encode(response), compress) for response in RESPONSES)
    reader = MapStreamReader(compress)
    assert [response for part in feed(stream) for response in reader.receive_data(part)] == RESPONSES


@pytest.mark.parametrize("compress", [False, True])
def test_stream_with_part_of_the_next_message(compress: bool) -> None:
    first, second = (frame_map_response(encode(response), compress) for response in RESPONSES[:2])
    reader = MapStreamReader(compress)
    assert reader.receive_data(first + second[:-1]) == RESPONSES[:1]
    assert reader.receive_data(second[-1:]) == RESPONSES[1:2]


def test_length_is_little_endian() -> None:
    assert frame_map_response(b"x" * 258, compress=False)[:4] == b"\x02\x01\x00\x00"


def test_keep_alive_of_the_vectors() -> None:
    assert MapStreamReader(compressed=True).receive_data(raw("keep_alive_frame")) == [KEEP_ALIVE]


def test_frame_states_its_size() -> None:
    """A receiver can refuse a bomb before it unpacks it."""
    frame = frame_map_response(encode(RESPONSES[0]), compress=True)
    assert zstandard.get_frame_parameters(frame[4:]).content_size == len(encode(RESPONSES[0]))


def streamed(json_text: bytes) -> bytes:
    """A zstd frame that does not state its content size."""
    compressor = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    return compressor.compress(json_text) + compressor.flush()


def test_frame_without_a_size_is_read() -> None:
    payload = streamed(encode(RESPONSES[0]))
    assert zstandard.get_frame_parameters(payload).content_size == zstandard.CONTENTSIZE_UNKNOWN
    stream = struct.pack("<I", len(payload)) + payload
    assert MapStreamReader(compressed=True).receive_data(stream) == RESPONSES[:1]


BOMB = b" " * 1_000_000


@pytest.mark.parametrize("payload", [zstandard.compress(BOMB), streamed(BOMB)])
def test_zstd_bombs_are_refused(payload: bytes) -> None:
    reader = MapStreamReader(compressed=True, max_size=100_000)
    with pytest.raises(MalformedMessage):
        reader.receive_data(struct.pack("<I", len(payload)) + payload)


@pytest.mark.parametrize("length", [0, 1001, 2**32 - 1])
def test_lengths_out_of_bounds_are_refused_at_once(length: int) -> None:
    with pytest.raises(MalformedMessage):
        MapStreamReader(compressed=False, max_size=1000).receive_data(struct.pack("<I", length))


@pytest.mark.parametrize(
    "payload",
    [
        b'{"KeepAlive":true}',
        zstandard.compress(b'{"KeepAlive":true}') + b"x",
        zstandard.compress(b'{"KeepAlive":true}')[:-1],
        zstandard.compress(b"[]"),
        b"\x28\xb5\x2f\xfd",
    ],
)
def test_anything_but_one_zstd_frame_of_json_ends_the_stream(payload: bytes) -> None:
    reader = MapStreamReader(compressed=True)
    with pytest.raises(MalformedMessage):
        reader.receive_data(struct.pack("<I", len(payload)) + payload)
    with pytest.raises(MalformedMessage):
        reader.receive_data(raw("keep_alive_frame"))


@settings(max_examples=200)
@given(st.binary(max_size=100), st.booleans())
def test_any_stream_bytes(data: bytes, compressed: bool) -> None:
    reader = MapStreamReader(compressed, max_size=1000)
    with contextlib.suppress(MalformedMessage):
        reader.receive_data(struct.pack("<I", len(data)) + data)
    with contextlib.suppress(MalformedMessage):
        reader.receive_data(data)


@given(st.binary(max_size=60))
def test_any_bytes_after_a_zstd_magic(data: bytes) -> None:
    payload = b"\x28\xb5\x2f\xfd" + data
    with contextlib.suppress(MalformedMessage):
        MapStreamReader(True, max_size=1000).receive_data(struct.pack("<I", len(payload)) + payload)
