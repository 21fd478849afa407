"""What the responder answers, with what, and everything it is silent about."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stun.messages import (
    COOKIE,
    Attribute,
    BindingError,
    BindingResponse,
    MessageType,
    TransportAddress,
    add_fingerprint,
    encode,
    encode_binding_request,
    parse_request_untrusted,
    parse_response_untrusted,
)
from stun.ratelimit import MAX_NETWORKS, NetworkLimit
from stun.responder import (
    MAX_AMPLIFICATION,
    REFUSED_PORTS,
    REQUESTS_BURST,
    WISHES_BURST,
    AddressPair,
    DropReason,
    Reply,
    Responder,
)
from tests.stun import vectors
from tests.stun.malformed import malformed_datagrams

IDENTIFIER = COOKIE + vectors.TRANSACTION_ID
SOURCE = TransportAddress("203.0.113.5", 41641)
SOURCE_6 = TransportAddress("2001:db8::5", 41641)
LOCAL = TransportAddress("192.0.2.1", 3478)
LOCAL_6 = TransportAddress("2001:db8:1::1", 3478)
PAIR = AddressPair(LOCAL, TransportAddress("192.0.2.2", 3479))
PAIR_6 = AddressPair(LOCAL_6, TransportAddress("2001:db8:1::2", 3479))
OTHER = PAIR.secondary

GENERIC = encode(MessageType.BINDING_REQUEST, IDENTIFIER, [])
TAILSCALE = encode_binding_request(vectors.TRANSACTION_ID)
# What Debian's stun-client sends: no cookie, one CHANGE-REQUEST.
OLD_IDENTIFIER = bytes.fromhex("01004c290afe07265862674ccdf36012")


def old_request(flags: int) -> bytes:
    change = (Attribute.CHANGE_REQUEST, flags.to_bytes(4, "big"))
    return encode(MessageType.BINDING_REQUEST, OLD_IDENTIFIER, [change])


def change_request(flags: int) -> bytes:
    change = (Attribute.CHANGE_REQUEST, flags.to_bytes(4, "big"))
    return encode(MessageType.BINDING_REQUEST, IDENTIFIER, [change])


def reply_to(
    datagram: bytes, responder: Responder | None = None, *, local: TransportAddress = LOCAL
) -> Reply:
    source = SOURCE_6 if ":" in local.host else SOURCE
    reply = (responder or Responder()).respond(datagram, source, local, 0.0)
    assert isinstance(reply, Reply), reply
    return reply


def drop_of(
    datagram: bytes, responder: Responder | None = None, *, source: TransportAddress = SOURCE
) -> DropReason:
    responder = responder or Responder()
    outcome = responder.respond(datagram, source, LOCAL, 0.0)
    assert isinstance(outcome, DropReason), outcome
    assert responder.drops[outcome] >= 1
    return outcome


@pytest.mark.parametrize("request_", [TAILSCALE, GENERIC, add_fingerprint(GENERIC)])
def test_reply_is_byte_for_byte_tailscales(request_: bytes) -> None:
    responder = Responder()
    ipv4 = reply_to(request_, responder)
    assert ipv4.datagram.hex() == ("0101000c2112a442b7e7a701bc34d686fa87dfae00200008000183bbea12d547")
    assert ipv4.sender == LOCAL
    ipv6 = reply_to(request_, responder, local=LOCAL_6)
    assert len(ipv6.datagram) == 44
    assert parse_response_untrusted(ipv6.datagram) == BindingResponse(vectors.TRANSACTION_ID, SOURCE_6)
    assert responder.answers == {"ipv4": 1, "ipv6": 1}


def test_retransmission_gets_the_same_answer() -> None:
    responder = Responder()
    assert reply_to(GENERIC, responder) == reply_to(GENERIC, responder)


def test_only_tailscale() -> None:
    responder = Responder(only_tailscale=True)
    assert reply_to(TAILSCALE, responder)
    assert drop_of(GENERIC, responder) is DropReason.NOT_TAILSCALE
    assert drop_of(old_request(0), responder) is DropReason.NOT_TAILSCALE
    named = encode(MessageType.BINDING_REQUEST, IDENTIFIER, [(Attribute.SOFTWARE, b"tailnode")])
    assert drop_of(named, responder) is DropReason.NOT_TAILSCALE
    other = [(Attribute.SOFTWARE, b"tailnod")]
    with_fingerprint = add_fingerprint(encode(MessageType.BINDING_REQUEST, IDENTIFIER, other))
    assert drop_of(with_fingerprint, responder) is DropReason.NOT_TAILSCALE


def test_unknown_attributes() -> None:
    """Optional ones are ignored; RFC 5769's sample request needs three that we do not understand."""
    optional = encode(MessageType.BINDING_REQUEST, IDENTIFIER, [(0x8099, b"?")])
    assert isinstance(parse_response_untrusted(reply_to(optional).datagram), BindingResponse)
    reply = reply_to(vectors.REQUEST).datagram
    assert parse_response_untrusted(reply) == BindingError(vectors.TRANSACTION_ID, 420)
    unknown = parse_request_untrusted(reply).get(Attribute.UNKNOWN_ATTRIBUTES)
    assert unknown == bytes.fromhex("000600080024")


@pytest.mark.parametrize("message_type", [t for t in MessageType if t != MessageType.BINDING_REQUEST])
def test_only_requests_are_answered(message_type: MessageType) -> None:
    """Or two servers, and a forged source, would talk to each other for ever."""
    assert drop_of(encode(message_type, IDENTIFIER, [])) is DropReason.NOT_A_BINDING_REQUEST
    assert drop_of(reply_to(GENERIC).datagram) is DropReason.NOT_A_BINDING_REQUEST


@pytest.mark.parametrize("method", [0x0002, 0x0003, 0x0004, 0x0100, 0x3EEF])
def test_only_binding_is_answered(method: int) -> None:
    assert drop_of(encode(method, IDENTIFIER, [])) is DropReason.NOT_A_BINDING_REQUEST


@pytest.mark.parametrize("port", sorted(REFUSED_PORTS))
def test_ports_that_would_answer_back(port: int) -> None:
    assert drop_of(TAILSCALE, source=SOURCE._replace(port=port)) is DropReason.SUSPICIOUS_PORT


def test_no_cookie_is_noise_except_from_the_clients_of_rfc_3489() -> None:
    bare = encode(MessageType.BINDING_REQUEST, OLD_IDENTIFIER, [])
    assert drop_of(bare) is DropReason.NO_MAGIC_COOKIE
    extra = [(Attribute.CHANGE_REQUEST, bytes(4)), (Attribute.SOFTWARE, b"")]
    assert drop_of(encode(MessageType.BINDING_REQUEST, OLD_IDENTIFIER, extra)) is DropReason.NO_MAGIC_COOKIE
    assert drop_of(old_request(1)) is DropReason.NO_MAGIC_COOKIE
    assert drop_of(old_request(8)) is DropReason.NO_MAGIC_COOKIE
    reply = reply_to(old_request(0)).datagram
    assert reply.hex() == (
        "01010018" + OLD_IDENTIFIER.hex() + "000100080001a2a9cb007105" + "0004000800010d96c0000201"
    )


class TestTwoAddresses:
    """RFC 5780."""

    def test_every_answer_says_where_else_to_ask(self) -> None:
        response = parse_response_untrusted(reply_to(GENERIC, Responder((PAIR,))).datagram)
        assert response == BindingResponse(vectors.TRANSACTION_ID, SOURCE, LOCAL, OTHER)

    def test_without_a_second_address_nothing_is_added(self) -> None:
        response = parse_response_untrusted(reply_to(GENERIC).datagram)
        assert response == BindingResponse(vectors.TRANSACTION_ID, SOURCE)

    @pytest.mark.parametrize("local", PAIR.endpoints())
    @pytest.mark.parametrize("flags", [0, 2, 4, 6])
    def test_answer_comes_from_where_the_request_says(self, local: TransportAddress, flags: int) -> None:
        reply = reply_to(change_request(flags), Responder((PAIR, PAIR_6)), local=local)
        response = parse_response_untrusted(reply.datagram)
        assert isinstance(response, BindingResponse)
        assert reply.sender == response.response_origin
        assert (reply.sender.host != local.host) == bool(flags & 4)
        assert (reply.sender.port != local.port) == bool(flags & 2)
        assert reply.sender in PAIR.endpoints()
        assert response.other_address == PAIR.seen_from(local, 6)

    def test_answer_to_rfc_3489(self) -> None:
        reply = reply_to(old_request(6), Responder((PAIR,)))
        assert reply.sender == OTHER
        assert parse_request_untrusted(reply.datagram).attributes == (
            (Attribute.MAPPED_ADDRESS, bytes.fromhex("0001a2a9cb007105")),
            (Attribute.SOURCE_ADDRESS, bytes.fromhex("00010d97c0000202")),
            (Attribute.CHANGED_ADDRESS, bytes.fromhex("00010d97c0000202")),
        )

    def test_change_without_a_second_address(self) -> None:
        """An error for those who know errors; silence, which they take for a filter, for the others."""
        response = parse_response_untrusted(reply_to(change_request(6)).datagram)
        assert response == BindingError(vectors.TRANSACTION_ID, 420)
        assert drop_of(old_request(6)) is DropReason.NO_OTHER_ADDRESS
        assert isinstance(parse_response_untrusted(reply_to(change_request(0)).datagram), BindingResponse)

    def test_answer_to_another_port(self) -> None:
        """RESPONSE-PORT, of the same host only, and where there is a second address only."""
        wanted = (int(Attribute.RESPONSE_PORT), bytes.fromhex("b1a70000"))
        request = encode(MessageType.BINDING_REQUEST, IDENTIFIER, [wanted])
        reply = reply_to(request, Responder((PAIR,)))
        assert (reply.sender, reply.port) == (LOCAL, 0xB1A7)
        response = parse_response_untrusted(reply.datagram)
        assert isinstance(response, BindingResponse)
        assert response.mapped_address == SOURCE
        refused = reply_to(request)
        assert refused.port == SOURCE.port
        assert isinstance(parse_response_untrusted(refused.datagram), BindingError)

    @pytest.mark.parametrize("port", [b"\x00\x35\0\0", b"\x00\x00\0\0", b""])
    def test_another_port_that_would_answer_back(self, port: bytes) -> None:
        request = encode(MessageType.BINDING_REQUEST, IDENTIFIER, [(Attribute.RESPONSE_PORT, port)])
        assert drop_of(request, Responder((PAIR,))) is DropReason.SUSPICIOUS_PORT

    @pytest.mark.parametrize(
        "secondary",
        [
            TransportAddress("192.0.2.1", 3479),
            TransportAddress("192.0.2.2", 3478),
            TransportAddress("2001:db8::1", 3479),
        ],
    )
    def test_what_makes_no_pair(self, secondary: TransportAddress) -> None:
        with pytest.raises(ValueError, match=re.escape(str(LOCAL))):
            AddressPair(LOCAL, secondary)


class TestLimits:
    def test_foreign_requests_per_network(self) -> None:
        responder = Responder()
        for number in range(int(REQUESTS_BURST)):
            source = TransportAddress(f"203.0.113.{number % 256}", 41641)
            assert isinstance(responder.respond(GENERIC, source, LOCAL, 0.0), Reply)
        assert drop_of(GENERIC, responder) is DropReason.RATE_LIMIT
        assert reply_to(TAILSCALE, responder)  # is no use to a flooder, and always answered
        elsewhere = TransportAddress("203.0.114.1", 41641)
        assert isinstance(responder.respond(GENERIC, elsewhere, LOCAL, 0.0), Reply)
        assert isinstance(responder.respond(GENERIC, SOURCE, LOCAL, 0.1), Reply)

    def test_requests_for_another_source(self) -> None:
        responder = Responder((PAIR,))
        tailscale = encode_binding_request(bytes(12), change_port=True)
        for _ in range(int(WISHES_BURST)):
            assert reply_to(tailscale, responder)
        assert drop_of(tailscale, responder) is DropReason.RATE_LIMIT
        assert reply_to(GENERIC, responder)

    def test_memory_of_networks_is_bounded(self) -> None:
        limit = NetworkLimit(1.0, 1.0)
        for number in range(MAX_NETWORKS + 100):
            assert limit.allows(f"10.{number // 256}.{number % 256}.1", 0.0)
        assert len(limit._buckets) == MAX_NETWORKS
        assert not limit.allows("10.16.10.1", 0.0)  # of the last ones
        assert limit.allows("10.0.0.1", 0.0)  # the first one was forgotten

    def test_families_do_not_meet(self) -> None:
        limit = NetworkLimit(1.0, 1.0)
        assert limit.allows("0.1.2.3", 0.0)
        assert limit.allows("0:1:200::1", 0.0)
        assert limit.allows("0:0:102::1%eth0", 0.0)
        assert not limit.allows("0:0:102:ffff::2", 0.0)


def bytes_on_the_wire(datagram: bytes, address: TransportAddress) -> int:
    return len(datagram) + (48 if ":" in address.host else 28)


requests = st.one_of(
    st.sampled_from([GENERIC, TAILSCALE, vectors.REQUEST, old_request(0), old_request(6)]),
    st.integers(0, 7).map(change_request),
    st.lists(st.tuples(st.integers(0, 0x8027), st.binary(max_size=8)), max_size=60).map(
        lambda attributes: encode(MessageType.BINDING_REQUEST, IDENTIFIER, attributes)
    ),
)


@given(requests, st.sampled_from([LOCAL, LOCAL_6]), st.booleans())
def test_a_reply_is_not_much_larger_than_its_request(
    request_: bytes, local: TransportAddress, has_pair: bool
) -> None:
    responder = Responder((PAIR, PAIR_6) if has_pair else ())
    source = SOURCE_6 if ":" in local.host else SOURCE
    reply = responder.respond(request_, source, local, 0.0)
    if isinstance(reply, Reply):
        received = bytes_on_the_wire(request_, source)
        assert bytes_on_the_wire(reply.datagram, source) <= MAX_AMPLIFICATION * received


@given(st.binary(max_size=300), st.sampled_from([SOURCE, SOURCE_6]))
def test_any_bytes(datagram: bytes, source: TransportAddress) -> None:
    assert isinstance(Responder().respond(datagram, source, LOCAL, 0.0), DropReason)


def test_malformed_datagrams_get_silence() -> None:
    responder = Responder((PAIR,))
    for datagram in malformed_datagrams(20_000, random.Random(1)):
        assert isinstance(responder.respond(datagram, SOURCE, LOCAL, 0.0), DropReason)
    assert responder.drops.total() == 20_000
    assert not responder.answers
