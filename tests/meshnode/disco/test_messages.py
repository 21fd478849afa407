"""Every message byte by byte, what parsers forgive, and that they raise nothing but MalformedMessage.

The hex is written out from the layout in the reference's §2.2, not made by the code.
"""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.disco import messages
from meshnode.disco.messages import (
    AllocateUDPRelayEndpointRequest,
    AllocateUDPRelayEndpointResponse,
    BindUDPRelayEndpoint,
    BindUDPRelayEndpointAnswer,
    BindUDPRelayEndpointChallenge,
    CallMeMaybe,
    CallMeMaybeVia,
    MalformedMessage,
    Message,
    Ping,
    Pong,
    RelayEndpoint,
    UnknownMessage,
    parse_untrusted,
)
from meshproto.addresses import AddrPort
from meshproto.keys import DiscoPublic, NodePublic

TX_ID = bytes(range(1, 13))
TX_ID_HEX = "0102030405060708090a0b0c"
NODE_KEY = NodePublic(b"\xee" * 32)
DISCO_1, DISCO_2, DISCO_3 = (DiscoPublic(bytes([byte]) * 32) for byte in (0x11, 0x22, 0x33))
IPV4 = AddrPort("2.3.4.5", 1234)
IPV4_HEX = "00000000000000000000ffff02030405" + "04d2"
IPV6 = AddrPort("2001::3456", 789)
IPV6_HEX = "20010000000000000000000000003456" + "0315"
CHALLENGE = b"\x5a" * 32
ENDPOINT = RelayEndpoint(
    server_key=DISCO_3,
    client_keys=(DISCO_1, DISCO_2),
    lamport_id=7,
    vni=0x00ABCDEF,
    bind_lifetime=30.0,
    steady_state_lifetime=300.0,
    addresses=(IPV4, IPV6),
)
ENDPOINT_HEX = (
    "33" * 32
    + "11" * 32
    + "22" * 32
    + "0000000000000007"
    + "00abcdef"
    + "00000006fc23ac00"  # 30 s in ns
    + "00000045d964b800"  # 300 s
    + IPV4_HEX
    + IPV6_HEX
)
BIND_HEX = "00abcdef" + "00000001" + "22" * 32

CASES: dict[str, tuple[Message, str]] = {
    "ping with a node key": (Ping(TX_ID, NODE_KEY), "0100" + TX_ID_HEX + "ee" * 32),
    "ping without": (Ping(TX_ID), "0100" + TX_ID_HEX),
    "ping with padding": (Ping(TX_ID, NODE_KEY, 3), "0100" + TX_ID_HEX + "ee" * 32 + "000000"),
    "pong, IPv4": (Pong(TX_ID, IPV4), "0200" + TX_ID_HEX + IPV4_HEX),
    "pong, IPv6": (Pong(TX_ID, IPV6), "0200" + TX_ID_HEX + IPV6_HEX),
    "call me maybe": (CallMeMaybe((IPV4, IPV6)), "0300" + IPV4_HEX + IPV6_HEX),
    "call me maybe, nowhere": (CallMeMaybe(()), "0300"),
    "bind": (
        BindUDPRelayEndpoint(0xABCDEF, 1, DISCO_2),
        "0400" + BIND_HEX + "00" * 32,
    ),
    "challenge": (
        BindUDPRelayEndpointChallenge(0xABCDEF, 1, DISCO_2, CHALLENGE),
        "0500" + BIND_HEX + "5a" * 32,
    ),
    "answer": (
        BindUDPRelayEndpointAnswer(0xABCDEF, 1, DISCO_2, CHALLENGE),
        "0600" + BIND_HEX + "5a" * 32,
    ),
    "call me maybe via": (CallMeMaybeVia(ENDPOINT), "0700" + ENDPOINT_HEX),
    "allocate": (
        AllocateUDPRelayEndpointRequest((DISCO_1, DISCO_2), 9),
        "0800" + "11" * 32 + "22" * 32 + "00000009",
    ),
    "allocated": (AllocateUDPRelayEndpointResponse(9, ENDPOINT), "0900" + "00000009" + ENDPOINT_HEX),
}
SIZES = {  # of the whole datagram, reference §2.2
    "ping with a node key": 124,
    "pong, IPv4": 110,
    "call me maybe": 80 + 2 * 18,
    "bind": 152,
    "challenge": 152,
    "answer": 152,
    "call me maybe via": 204 + 2 * 18,
    "allocate": 148,
    "allocated": 208 + 2 * 18,
}
OVERHEAD_WITHOUT_TYPE = 78


@pytest.mark.parametrize("name", CASES)
def test_encoded_and_parsed(name: str) -> None:
    message, encoded = CASES[name]
    assert message.encode().hex() == encoded
    assert parse_untrusted(bytes.fromhex(encoded)) == message


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_those_of_the_reference(name: str) -> None:
    assert len(CASES[name][0].encode()) + OVERHEAD_WITHOUT_TYPE == SIZES[name]


@pytest.mark.parametrize("name", sorted(CASES.keys() - {"call me maybe", "call me maybe, nowhere"}))
def test_trailing_bytes_are_of_a_later_version(name: str) -> None:
    message, encoded = CASES[name]
    parsed = parse_untrusted(bytes.fromhex(encoded) + b"\xff" * 5)
    if isinstance(message, Ping):
        assert isinstance(parsed, Ping)
        assert parsed.tx_id == message.tx_id
        assert parsed.node_key == message.node_key
        assert parsed.padding == message.padding + 5
    else:
        assert parsed == message


@pytest.mark.parametrize("name", sorted(CASES.keys() - {"call me maybe", "call me maybe, nowhere"}))
def test_cut_short_is_malformed_or_says_less(name: str) -> None:
    message, encoded = CASES[name]
    whole = bytes.fromhex(encoded)
    for length in range(len(whole)):
        with contextlib.suppress(MalformedMessage):
            parsed = parse_untrusted(whole[:length])
            assert type(parsed) is type(message)
            assert isinstance(parsed, Ping | CallMeMaybeVia | AllocateUDPRelayEndpointResponse), length


def test_a_call_with_half_an_address_is_an_empty_one() -> None:
    assert parse_untrusted(bytes.fromhex("0300" + IPV4_HEX + "00")) == CallMeMaybe(())


def test_a_call_of_a_later_version_is_an_empty_one() -> None:
    assert parse_untrusted(bytes.fromhex("0301" + IPV4_HEX)) == CallMeMaybe(())


def test_a_node_key_cut_short_is_padding() -> None:
    assert parse_untrusted(bytes.fromhex("0100" + TX_ID_HEX + "ee" * 31)) == Ping(TX_ID, None, 31)


def test_a_relay_endpoint_needs_an_address() -> None:
    with pytest.raises(MalformedMessage):
        parse_untrusted(bytes.fromhex("0700" + ENDPOINT_HEX[: 2 * 124]))


def test_client_keys_are_sorted() -> None:
    swapped = AllocateUDPRelayEndpointRequest((DISCO_2, DISCO_1), 9)
    assert swapped.encode().hex() == CASES["allocate"][1]


@pytest.mark.parametrize("kind", [0x00, 0x0A, 0xFF])
def test_unknown_types(kind: int) -> None:
    with pytest.raises(UnknownMessage):
        parse_untrusted(bytes([kind, 0]) + bytes(100))


@given(st.binary(max_size=400))
def test_any_bytes(plaintext: bytes) -> None:
    with contextlib.suppress(MalformedMessage):
        message = parse_untrusted(plaintext)
        assert message.encode()[:1] == plaintext[:1]


@given(st.sampled_from(sorted(CASES)), st.binary(max_size=400))
def test_any_body_of_each_type(name: str, body: bytes) -> None:
    with contextlib.suppress(MalformedMessage):
        message = parse_untrusted(bytes([CASES[name][0].TYPE, 0]) + body)
        assert parse_untrusted(message.encode()).encode() == message.encode()


@given(st.ip_addresses(), st.integers(0, 65535))
def test_addresses_come_back(address: object, port: int) -> None:
    pong = Pong(TX_ID, AddrPort(str(address), port))
    parsed = parse_untrusted(pong.encode())
    assert isinstance(parsed, Pong)
    assert messages.encode_address(parsed.source) == messages.encode_address(pong.source)
