"""What client and relay say in their boxes, and every way of saying it wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derp.frames import FrameError
from derp.login import (
    MAX_CLIENT_INFO_SIZE,
    ClientInfo,
    ServerInfo,
    open_client_info_untrusted,
    open_server_info_untrusted,
    parse_mesh_key,
    seal_client_info,
    seal_server_info,
)
from meshproto.box import Box
from meshproto.keys import NodePublic
from tests.derp.keys import ALICE, BOB, MESH_KEY, RELAY, zeros


def sealed_json(members: Any) -> bytes:
    text = members if isinstance(members, bytes) else json.dumps(members).encode()
    return ALICE.public.raw + Box(ALICE, RELAY.public).seal(text, bytes(24))


def plaintext(payload: bytes) -> str:
    return Box(RELAY, ALICE.public).open(payload[32:]).decode()


def test_client_info_on_the_wire() -> None:
    payload = seal_client_info(ClientInfo(can_ack_pings=True), ALICE, RELAY.public, zeros)
    assert payload[:32] == ALICE.public.raw
    assert payload[32:56] == bytes(24)
    assert plaintext(payload) == '{"version":2,"CanAckPings":true}'
    assert len(payload) == 32 + 24 + 16 + 32


def test_everything_a_client_can_say() -> None:
    info = ClientInfo(2, MESH_KEY, can_ack_pings=True, is_prober=True, app_name="probe")
    payload = seal_client_info(info, ALICE, RELAY.public, zeros)
    assert json.loads(plaintext(payload)) == {
        "version": 2,
        "meshKey": MESH_KEY.hex(),
        "CanAckPings": True,
        "IsProber": True,
        "AppName": "probe",
    }
    assert open_client_info_untrusted(payload, RELAY) == (ALICE.public, info)


def test_server_info() -> None:
    for info, text in [
        (ServerInfo(), b'{"version":2}'),
        (
            ServerInfo(2, 1000, 5000),
            b'{"version":2,"TokenBucketBytesPerSecond":1000,"TokenBucketBytesBurst":5000}',
        ),
    ]:
        payload = seal_server_info(info, RELAY, ALICE.public, zeros)
        assert Box(ALICE, RELAY.public).open(payload) == text
        assert open_server_info_untrusted(payload, ALICE, RELAY.public) == info


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({}, ClientInfo(version=0)),
        ({"version": 3, "Unknown": [1]}, ClientInfo(version=3)),
        ({"version": 2, "meshKey": None, "AppName": None}, ClientInfo()),
        ({"version": 2, "meshKey": ""}, ClientInfo()),
    ],
)
def test_what_is_left_out_or_new(members: dict[str, Any], expected: ClientInfo) -> None:
    assert open_client_info_untrusted(sealed_json(members), RELAY) == (ALICE.public, expected)


@pytest.mark.parametrize(
    "members",
    [
        [],
        "text",
        {"version": "2"},
        {"version": True},
        {"CanAckPings": 1},
        {"meshKey": "zz"},
        {"meshKey": "ab" * 31},
        {"meshKey": 5},
        b"",
        b"\xff\xfe",
        b"[" * 10_000,
        b'{"version":' + b"9" * 6000 + b"}",
    ],
)
def test_nonsense_in_a_good_box(members: Any) -> None:
    with pytest.raises(FrameError):
        open_client_info_untrusted(sealed_json(members), RELAY)


def test_key_must_fit_the_box() -> None:
    payload = seal_client_info(ClientInfo(), ALICE, RELAY.public, zeros)
    with pytest.raises(FrameError, match="does not fit"):
        open_client_info_untrusted(BOB.public.raw + payload[32:], RELAY)
    with pytest.raises(FrameError, match="does not fit"):
        open_client_info_untrusted(payload, BOB)
    with pytest.raises(FrameError, match="not usable"):
        open_client_info_untrusted(bytes(32) + payload[32:], RELAY)
    with pytest.raises(FrameError, match="not usable"):
        seal_client_info(ClientInfo(), ALICE, NodePublic.zero(), zeros)


def test_any_changed_byte_is_noticed() -> None:
    payload = seal_client_info(ClientInfo(), ALICE, RELAY.public, zeros)
    for index in range(len(payload)):
        # Not the top bit: curve points are written with 255 of the 256.
        changed = payload[:index] + bytes([payload[index] ^ 0x01]) + payload[index + 1 :]
        with pytest.raises(FrameError):
            open_client_info_untrusted(changed, RELAY)


@given(st.binary(max_size=200))
def test_any_bytes(payload: bytes) -> None:
    with pytest.raises(FrameError):
        open_client_info_untrusted(payload, RELAY)
    with pytest.raises(FrameError):
        open_server_info_untrusted(payload, ALICE, RELAY.public)


def test_largest_login_holds_what_clients_send() -> None:
    info = ClientInfo(2, MESH_KEY, can_ack_pings=True, is_prober=True, app_name="x" * 1000)
    assert len(seal_client_info(info, ALICE, RELAY.public, zeros)) < MAX_CLIENT_INFO_SIZE / 10


def test_mesh_key_as_people_write_it() -> None:
    assert parse_mesh_key(MESH_KEY.hex() + "\n") == MESH_KEY
    for wrong in ("", "ab", "zz" * 32, MESH_KEY.hex() + "00"):
        with pytest.raises(ValueError):
            parse_mesh_key(wrong)
