"""The wire format: RFC 5769's samples, what Tailscale sends, and every way of being malformed."""

from __future__ import annotations

import contextlib
from binascii import crc32

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stun.messages import (
    COOKIE,
    Attribute,
    BindingError,
    BindingResponse,
    MalformedMessage,
    MessageType,
    TransportAddress,
    add_fingerprint,
    encode,
    encode_address,
    encode_binding_request,
    encode_mapped,
    encode_xor_address,
    is_plain_tailscale_request,
    looks_like_stun,
    parse_request_untrusted,
    parse_response_untrusted,
)
from tests.stun import vectors

IDENTIFIER = COOKIE + vectors.TRANSACTION_ID
hosts = st.ip_addresses().filter(lambda ip: getattr(ip, "ipv4_mapped", None) is None).map(str)
addresses = st.builds(TransportAddress, hosts, st.integers(0, 65535))


def success(*attributes: tuple[int, bytes]) -> bytes:
    return encode(MessageType.BINDING_SUCCESS, IDENTIFIER, attributes)


def test_sample_request() -> None:
    message = parse_request_untrusted(vectors.REQUEST)
    assert message.message_type == MessageType.BINDING_REQUEST
    assert message.transaction_id == vectors.TRANSACTION_ID
    assert message.has_cookie
    assert [hex(kind) for kind, _ in message.attributes] == [
        "0x8022",
        "0x24",
        "0x8029",
        "0x6",
        "0x8",
        "0x8028",
    ]
    assert message.get(Attribute.SOFTWARE) == b"STUN test client"
    assert message.get(0x0006) == b"evtj:h6vY"
    assert message.get(0x9999) is None


@pytest.mark.parametrize(
    ("response", "address"),
    [
        (vectors.IPV4_RESPONSE, vectors.IPV4_ADDRESS),
        (vectors.IPV6_RESPONSE, vectors.IPV6_ADDRESS),
    ],
)
def test_sample_responses(response: bytes, address: TransportAddress) -> None:
    assert parse_response_untrusted(response) == BindingResponse(vectors.TRANSACTION_ID, address)
    parse_request_untrusted(response)  # the strict parser agrees that FINGERPRINT is right
    assert encode_xor_address(address, IDENTIFIER) in response


def test_any_changed_byte_of_a_fingerprinted_message_is_noticed() -> None:
    for index in range(len(vectors.REQUEST) - 8):
        changed = bytearray(vectors.REQUEST)
        changed[index] ^= 0x01
        with pytest.raises(MalformedMessage):
            parse_request_untrusted(bytes(changed))


def test_request_as_tailscale_sends_it() -> None:
    request = encode_binding_request(bytes(range(12)))
    head = vectors.TAILSCALE_REQUEST
    checksum = crc32(head[:-4]) ^ 0x5354554E
    assert request == head + checksum.to_bytes(4, "big")
    assert len(request) == 40


def test_request_for_another_source() -> None:
    request = encode_binding_request(bytes(12), change_address=True, change_port=True)
    assert len(request) == 48
    assert parse_request_untrusted(request).get(Attribute.CHANGE_REQUEST) == bytes([0, 0, 0, 6])
    request = encode_binding_request(bytes(12), change_port=True)
    assert parse_request_untrusted(request).get(Attribute.CHANGE_REQUEST) == bytes([0, 0, 0, 2])


@given(addresses)
def test_any_address_arrives(address: TransportAddress) -> None:
    xored = success((Attribute.XOR_MAPPED_ADDRESS, encode_xor_address(address, IDENTIFIER)))
    plain = success((Attribute.MAPPED_ADDRESS, encode_address(address)))
    draft = success((Attribute.XOR_MAPPED_ADDRESS_DRAFT, encode_xor_address(address, IDENTIFIER)))
    for datagram in (xored, plain, draft):
        response = parse_response_untrusted(datagram)
        assert isinstance(response, BindingResponse)
        assert response.mapped_address == address


def test_xor_mapped_address_goes_before_mapped_address() -> None:
    mapped, other = TransportAddress("192.0.2.1", 1), TransportAddress("192.0.2.2", 2)
    datagram = success(
        (Attribute.MAPPED_ADDRESS, encode_address(other)),
        (Attribute.XOR_MAPPED_ADDRESS, encode_xor_address(mapped, IDENTIFIER)),
    )
    assert parse_response_untrusted(datagram).mapped_address == mapped  # type: ignore[union-attr]


def test_ipv4_in_ipv6_clothes_is_ipv4() -> None:
    dressed = TransportAddress("::ffff:192.0.2.7", 1)
    assert encode_address(dressed) == encode_address(TransportAddress("192.0.2.7", 1))
    value = bytes.fromhex("00020001") + bytes(10) + b"\xff\xff" + bytes([192, 0, 2, 7])
    response = parse_response_untrusted(success((Attribute.MAPPED_ADDRESS, value)))
    assert response.mapped_address.host == "192.0.2.7"  # type: ignore[union-attr]


def test_zone_of_a_link_local_address_stays_here() -> None:
    assert encode_address(TransportAddress("fe80::1%eth0", 1)) == encode_address(
        TransportAddress("fe80::1", 1)
    )


def test_response_is_read_leniently() -> None:
    """Bytes after the declared end, an unpadded end, foreign and broken optional attributes."""
    mapped = (Attribute.XOR_MAPPED_ADDRESS, encode_xor_address(vectors.IPV4_ADDRESS, IDENTIFIER))
    expected = BindingResponse(vectors.TRANSACTION_ID, vectors.IPV4_ADDRESS)
    assert parse_response_untrusted(success(mapped) + b"junk") == expected
    assert parse_response_untrusted(success(mapped, (0x7777, b"?"), (0x8028, bytes(4)))) == expected
    assert parse_response_untrusted(success(mapped, (Attribute.OTHER_ADDRESS, b"\0\1"))) == expected
    unpadded = success(mapped) + bytes.fromhex("8022000178")
    assert parse_response_untrusted(unpadded[:2] + b"\x00\x11" + unpadded[4:]) == expected


def test_error_response() -> None:
    value = bytes([0, 0, 4, 20]) + b"Unknown Attribute"
    datagram = encode(MessageType.BINDING_ERROR, IDENTIFIER, [(Attribute.ERROR_CODE, value)])
    assert parse_response_untrusted(datagram) == BindingError(vectors.TRANSACTION_ID, 420)


GOOD = success((Attribute.MAPPED_ADDRESS, encode_address(vectors.IPV4_ADDRESS)))


@pytest.mark.parametrize(
    "datagram",
    [
        pytest.param(b"", id="empty"),
        pytest.param(GOOD[:19], id="shorter than a header"),
        pytest.param(GOOD[:-1], id="cut short"),
        pytest.param(b"\x40" + GOOD[1:], id="top bits"),
        pytest.param(GOOD[:4] + bytes(4) + GOOD[8:], id="no cookie"),
        pytest.param(b"\x00\x01" + GOOD[2:], id="a request"),
        pytest.param(success(), id="no address"),
        pytest.param(success((Attribute.MAPPED_ADDRESS, b"")), id="empty address"),
        pytest.param(success((Attribute.MAPPED_ADDRESS, bytes.fromhex("0003000101020304"))), id="family"),
        pytest.param(success((Attribute.MAPPED_ADDRESS, bytes.fromhex("0002000101020304"))), id="size"),
        pytest.param(success((Attribute.XOR_MAPPED_ADDRESS, bytes(100))), id="huge address"),
        pytest.param(encode(MessageType.BINDING_ERROR, IDENTIFIER, []), id="error without a code"),
    ],
)
def test_no_response(datagram: bytes) -> None:
    with pytest.raises(MalformedMessage):
        parse_response_untrusted(datagram)


@pytest.mark.parametrize(
    "datagram",
    [
        pytest.param(vectors.REQUEST[:-1], id="cut short"),
        pytest.param(vectors.REQUEST + bytes(4), id="longer than it says"),
        pytest.param(encode_binding_request(bytes(12))[:-4] + bytes(4), id="wrong FINGERPRINT"),
        pytest.param(add_fingerprint(add_fingerprint(GOOD)), id="two FINGERPRINTs"),
        pytest.param(bytes.fromhex("00010001") + IDENTIFIER + b"x", id="length no multiple of 4"),
        pytest.param(bytes.fromhex("00010004") + IDENTIFIER + bytes.fromhex("80220001"), id="overrun"),
    ],
)
def test_strict_parser_refuses(datagram: bytes) -> None:
    with pytest.raises(MalformedMessage):
        parse_request_untrusted(datagram)


def test_fingerprint_must_be_last() -> None:
    early = add_fingerprint(encode(MessageType.BINDING_REQUEST, IDENTIFIER, []))
    late = early[:2] + b"\x00\x10" + early[4:] + bytes.fromhex("8022000478787878")
    with pytest.raises(MalformedMessage, match="last"):
        parse_request_untrusted(late)


@given(st.binary(max_size=200))
@example(b"\x01\x01\x00\x04" + COOKIE + bytes(12) + b"\x00\x20\x00\x00")
def test_any_bytes(datagram: bytes) -> None:
    for parse in (parse_request_untrusted, parse_response_untrusted):
        with contextlib.suppress(MalformedMessage):
            parse(datagram)
    looks_like_stun(datagram)


@given(st.lists(st.tuples(st.integers(0, 0xFFFF).filter(lambda k: k != 0x8028), st.binary(max_size=40))))
def test_any_attributes_arrive(attributes: list[tuple[int, bytes]]) -> None:
    message = encode(MessageType.BINDING_REQUEST, IDENTIFIER, attributes)
    for datagram in (message, add_fingerprint(message)):
        parsed = parse_request_untrusted(datagram)
        assert list(parsed.attributes)[: len(attributes)] == attributes


def test_telling_stun_from_what_shares_the_socket() -> None:
    assert looks_like_stun(encode_binding_request(bytes(12)))
    assert looks_like_stun(memoryview(vectors.IPV4_RESPONSE))
    assert looks_like_stun(bytearray(encode(MessageType.BINDING_ERROR, IDENTIFIER, [])))
    assert not looks_like_stun(bytes([1, 0, 0, 0]) + COOKIE + bytes(140))  # WireGuard, unlucky index
    assert not looks_like_stun(bytes([4, 0, 0, 0]) + COOKIE + bytes(28))
    assert not looks_like_stun("TS💬".encode() + bytes(100))
    assert not looks_like_stun(vectors.REQUEST[:19])


@given(st.binary(min_size=12, max_size=12))
def test_plain_request_of_tailscale(transaction_id: bytes) -> None:
    request = encode_binding_request(transaction_id)
    assert is_plain_tailscale_request(request)
    assert not is_plain_tailscale_request(encode_binding_request(transaction_id, change_port=True))
    for index in range(len(request)):
        changed = bytearray(request)
        changed[index] ^= 1
        assert not is_plain_tailscale_request(bytes(changed))
        assert not is_plain_tailscale_request(request[:index])


@pytest.mark.parametrize("address", [vectors.IPV4_ADDRESS, vectors.IPV6_ADDRESS])
def test_usual_response(address: TransportAddress) -> None:
    identifier = COOKIE + vectors.TRANSACTION_ID
    mapped = (Attribute.XOR_MAPPED_ADDRESS, encode_xor_address(address, identifier))
    response = encode_mapped(address, identifier)
    assert response == encode(MessageType.BINDING_SUCCESS, identifier, [mapped])
    assert parse_response_untrusted(response) == BindingResponse(vectors.TRANSACTION_ID, address)
