"""The cores of NAT-PMP and PCP: bytes against the RFCs and a real gateway, and any bytes at all."""

from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.portmap import natpmp, pcp
from meshproto.addresses import AddrPort

CLIENT = IPv4Address("192.168.50.2")
NONCE = bytes(range(12))

ports = st.integers(0, 65535)
seconds = st.integers(0, 2**32 - 1)
ipv4 = st.ip_addresses(v=4)


# NAT-PMP


def test_nat_pmp_requests_are_those_of_the_rfc() -> None:
    assert natpmp.address_request() == bytes.fromhex("0000")
    assert natpmp.map_request(41641, 41641, 7200) == bytes.fromhex("0001 0000 a2a9 a2a9 00001c20")
    assert natpmp.map_request(41641, 0, 0) == bytes.fromhex("0001 0000 a2a9 0000 00000000")


def test_nat_pmp_replies_of_a_real_gateway() -> None:
    address = natpmp.parse_untrusted(bytes.fromhex("0080 0000 00000001 19007114"))
    assert address == natpmp.AddressReply(0, 1, IPv4Address("25.0.113.20"))
    mapping = natpmp.parse_untrusted(bytes.fromhex("0081 0000 00000001 a2a9 a2aa 00001c20"))
    assert mapping == natpmp.MapReply(0, 1, 41641, 41642, 7200)


@pytest.mark.parametrize(
    ("datagram", "parsed"),
    [
        ("0080 0000 00000001 00000000", natpmp.AddressReply(0, 1, None)),  # not connected yet
        ("0080 0003 00000001", natpmp.AddressReply(3, 1, None)),
        ("0080 0003 00000001 19007114", natpmp.AddressReply(3, 1, None)),
        ("0081 0002 00000005", natpmp.MapReply(2, 5, 0, 0, 0)),
        ("0080 0000 00000001 19007114 ffff", natpmp.AddressReply(0, 1, IPv4Address("25.0.113.20"))),
    ],
)
def test_nat_pmp_replies_that_are_short_or_long(datagram: str, parsed: object) -> None:
    assert natpmp.parse_untrusted(bytes.fromhex(datagram)) == parsed


@pytest.mark.parametrize(
    "datagram",
    [
        "",
        "0080 0000 000000",
        "0080 0000 00000001 190071",
        "0081 0000 00000001 a2a9 a2a9 00001c",
        "0082 0000 00000001 a2a9 a2a9 00001c20",  # TCP
        "0000 0000 00000001 19007114",  # a request
        "0280 0000 00000001 19007114",
    ],
)
def test_what_is_no_nat_pmp_reply_to_us(datagram: str) -> None:
    assert natpmp.parse_untrusted(bytes.fromhex(datagram)) is None


@given(result=st.integers(0, 65535), epoch=seconds, internal=ports, external=ports, lifetime=seconds)
def test_any_nat_pmp_mapping_comes_through(
    result: int, epoch: int, internal: int, external: int, lifetime: int
) -> None:
    datagram = struct.pack(">BBHIHHI", 0, 0x81, result, epoch, internal, external, lifetime)
    assert natpmp.parse_untrusted(datagram) == natpmp.MapReply(result, epoch, internal, external, lifetime)


# PCP


def request(**changes: object) -> pcp.MapRequest:
    base = pcp.MapRequest(NONCE, CLIENT, 41641, 7200, AddrPort("25.0.113.20", 41642))
    return replace(base, **changes)  # type: ignore[arg-type]


def answer(asked: pcp.MapRequest, *, result: int = 0, epoch: int = 1, lifetime: int = 7200) -> bytes:
    """What a server makes of the request itself, as RFC 6887 §8.3 has it: by changing some of its fields."""
    data = bytearray(asked.encode())
    data[1] |= 0x80
    data[3] = result
    struct.pack_into(">II12x", data, 4, lifetime, epoch)
    return bytes(data)


def test_pcp_requests_are_those_of_the_rfc() -> None:
    head = "02{:02x}0000 {:08x} 00000000000000000000ffffc0a83202"
    assert pcp.announce_request(CLIENT) == bytes.fromhex(head.format(0, 0))
    body = "000102030405060708090a0b 11000000 a2a9 a2aa 00000000000000000000ffff19007114"
    assert request().encode() == bytes.fromhex(head.format(1, 7200) + body)
    wishless = replace(request(), suggested=pcp.ANYTHING).encode()
    assert wishless[-18:] == bytes.fromhex("0000 00000000000000000000ffff00000000")


def test_pcp_replies_of_a_real_gateway() -> None:
    announce = bytes.fromhex("0280 0000 00000000 00000001 000000000000000000000000")
    assert pcp.parse_untrusted(announce) == pcp.Reply(0, 0, 0, 1)
    mapped = bytes.fromhex(
        "0281 0000 00001c20 00000001 000000000000000000000000"
        "6e6e6e6e6e6e6e6e6e6e6e6e 11000000 a2aa a2aa 00000000000000000000ffff19007114"
    )
    assert pcp.parse_untrusted(mapped) == pcp.Reply(
        1, 0, 7200, 1, pcp.Mapped(b"n" * 12, 41642, 41642, IPv4Address("25.0.113.20"))
    )


@pytest.mark.parametrize(
    "datagram",
    [
        "0001 0001 00000001",  # RFC 6886 §3.5, without the bit of a reply: not one
        "02800000",
        "0281 0000 00001c20 00000001 000000000000000000000000 6e6e",
        "0281 0000 00001c20 00000001 000000000000000000000000"
        "6e6e6e6e6e6e6e6e6e6e6e6e 06000000 a2aa a2aa 00000000000000000000ffff19007114",  # TCP
        "03810000 00001c20",
    ],
)
def test_what_is_no_pcp_reply_to_us(datagram: str) -> None:
    assert pcp.parse_untrusted(bytes.fromhex(datagram)) is None


@pytest.mark.parametrize(
    "datagram",
    [
        "0080 0001 00000009",  # NAT-PMP only
        "0181 0001 00000000 00000009 000000000000000000000000",  # a draft of PCP
        "0281 0001 00000000 00000009 000000000000000000000000",
    ],
)
def test_a_gateway_without_our_version_answers_any_request(datagram: str) -> None:
    reply = pcp.parse_untrusted(bytes.fromhex(datagram))
    assert reply is not None
    assert reply.result == pcp.Result.UNSUPP_VERSION
    assert request().is_answered_by(reply)


def test_an_error_without_its_body_is_read_but_answers_nobody() -> None:
    reply = pcp.parse_untrusted(bytes.fromhex("0281 0008 0000001e 00000001 000000000000000000000000"))
    assert reply == pcp.Reply(1, pcp.Result.NO_RESOURCES, 30, 1)
    assert not request().is_answered_by(reply)


@pytest.mark.parametrize("change", [{"nonce": b"x" * 12}, {"internal_port": 1}])
def test_an_answer_to_somebody_elses_request_is_not_ours(change: dict[str, object]) -> None:
    for result in pcp.Result:
        if result is not pcp.Result.UNSUPP_VERSION:
            reply = pcp.parse_untrusted(answer(request(**change), result=result))
            assert reply is not None
            assert not request().is_answered_by(reply)


@given(
    nonce=st.binary(min_size=12, max_size=12),
    client=ipv4,
    port=ports,
    lifetime=seconds,
    external=ipv4,
    external_port=ports,
    epoch=seconds,
    result=st.sampled_from(pcp.Result),
)
def test_any_answer_to_a_pcp_request_comes_through(
    nonce: bytes,
    client: IPv4Address,
    port: int,
    lifetime: int,
    external: IPv4Address,
    external_port: int,
    epoch: int,
    result: pcp.Result,
) -> None:
    asked = pcp.MapRequest(nonce, client, port, lifetime, AddrPort(str(external), external_port))
    reply = pcp.parse_untrusted(answer(asked, result=result, epoch=epoch, lifetime=lifetime))
    assert reply == pcp.Reply(1, result, lifetime, epoch, pcp.Mapped(nonce, port, external_port, external))
    assert asked.is_answered_by(reply)


def test_an_external_ipv6_address_stays_one() -> None:
    data = bytearray(answer(request()))
    data[-16:] = IPv6Address("2001:db8::1").packed
    reply = pcp.parse_untrusted(bytes(data))
    assert reply is not None
    assert reply.mapped is not None
    assert reply.mapped.external_address == IPv6Address("2001:db8::1")


def test_longer_than_a_pcp_message_can_be() -> None:
    assert pcp.parse_untrusted(answer(request()) + bytes(1100 - 60)) is not None
    assert pcp.parse_untrusted(answer(request()) + bytes(1100 - 59)) is None


# Anything at all


@given(st.binary(max_size=80))
def test_any_datagram_is_a_reply_or_nothing(datagram: bytes) -> None:
    natpmp.parse_untrusted(datagram)
    pcp.parse_untrusted(datagram)


@given(
    data=st.binary(max_size=70), version=st.sampled_from([0, 1, 2]), operation=st.sampled_from([0x80, 0x81])
)
def test_any_rest_after_a_head_that_fits_is_a_reply_or_nothing(
    data: bytes, version: int, operation: int
) -> None:
    datagram = bytes([version, operation]) + data
    reply = pcp.parse_untrusted(datagram)
    if reply is not None:
        request().is_answered_by(reply)
    natpmp.parse_untrusted(datagram)
