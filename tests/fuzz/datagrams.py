"""Parsers of single datagrams and packets: WireGuard, disco, STUN, NAT-PMP, PCP, SSDP, ICMP, TSMP."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address

from meshnode import tsmp_messages
from meshnode.disco import demux, geneve
from meshnode.disco import messages as disco
from meshnode.disco.box import is_envelope, sender_untrusted
from meshnode.netcheck import echo
from meshnode.portmap import natpmp, pcp, ssdp
from meshnode.wireguard import messages as wireguard
from meshproto.addresses import AddrPort
from meshproto.keys import DiscoPublic, NodePublic
from stun import messages as stun
from tests.fuzz.target import Target, parser

_KEY = bytes(range(1, 33))
_ADDRESS = AddrPort("192.0.2.1", 41641)


def _wireguard_seeds() -> Sequence[bytes]:
    sizes = (
        (1, wireguard.INITIATION_SIZE),
        (2, wireguard.RESPONSE_SIZE),
        (3, wireguard.COOKIE_REPLY_SIZE),
        (4, 32),
    )
    return [bytes([kind, 0, 0, 0]) + bytes(size - 4) for kind, size in sizes]


def _wireguard(data: bytes) -> None:
    kind = wireguard.message_type(data)
    parses = (
        (1, wireguard.parse_initiation_untrusted),
        (2, wireguard.parse_response_untrusted),
        (3, wireguard.parse_cookie_reply_untrusted),
    )
    for wanted, parse in parses:
        try:
            message = parse(data)
        except wireguard.MalformedMessage:
            continue
        assert kind == wanted
        assert message is not None
    if len(data) in (wireguard.INITIATION_SIZE, wireguard.RESPONSE_SIZE):
        wireguard.sender_index_untrusted(data)


def _disco_messages() -> Sequence[bytes]:
    key, tx_id = DiscoPublic(_KEY), bytes(12)
    bind = (7, 1, key, bytes(32))
    endpoint = disco.RelayEndpoint(key, (key, key), 5, 9, 1.5, 2.5, (_ADDRESS,))
    messages = (
        disco.Ping(tx_id, NodePublic(_KEY), 10),
        disco.Pong(tx_id, _ADDRESS),
        disco.CallMeMaybe((_ADDRESS, AddrPort("2001:db8::1", 1))),
        disco.BindUDPRelayEndpoint(*bind),
        disco.BindUDPRelayEndpointChallenge(*bind),
        disco.BindUDPRelayEndpointAnswer(*bind),
        disco.CallMeMaybeVia(endpoint),
        disco.AllocateUDPRelayEndpointRequest((key, key), 5),
        disco.AllocateUDPRelayEndpointResponse(5, endpoint),
    )
    return [message.encode() for message in messages]


def _disco(data: bytes) -> None:
    """What has one form only comes out of it as it went in."""
    message = disco.parse_untrusted(data)
    if isinstance(message, disco.Ping | disco.Pong | disco.CallMeMaybe):
        assert disco.parse_untrusted(message.encode()) == message


def _demux_seeds() -> Sequence[bytes]:
    envelope = bytes.fromhex("5453f09f92ac") + _KEY + bytes(60)
    headers = (geneve.GeneveHeader(geneve.DISCO, 5, True), geneve.GeneveHeader(geneve.WIREGUARD, 5))
    stun_request = stun.encode_binding_request(bytes(12))
    return [envelope, *(header.encode() + envelope for header in headers), stun_request]


def _demux(data: bytes) -> None:
    """A view and bytes are the same, and what is one protocol's is not another's."""
    view = memoryview(data)
    protocol = demux.classify(view)
    assert protocol == demux.classify(data)
    assert demux.classify_relayed(view) == demux.classify_relayed(data)
    assert (protocol is demux.Protocol.STUN) <= stun.looks_like_stun(data)
    header = geneve.read_header(data)
    if header is not None:
        assert geneve.read_header(header.encode()) == header
    if is_envelope(data):
        sender_untrusted(data)


def _stun_requests() -> Sequence[bytes]:
    return [
        stun.encode_binding_request(bytes(12)),
        stun.encode_binding_request(bytes(12), change_address=True, change_port=True),
        stun.encode(stun.MessageType.BINDING_REQUEST, bytes(16), [(3, bytes(4)), (0x8022, b"name")]),
    ]


def _stun_responses() -> Sequence[bytes]:
    identifier = stun.COOKIE + bytes(12)
    addresses = [stun.TransportAddress("192.0.2.1", 1), stun.TransportAddress("2001:db8::1", 65535)]
    error = stun.encode(stun.MessageType.BINDING_ERROR, identifier, [(9, b"\0\0\4\x14No\0\0")])
    return [error, *(stun.encode_mapped(address, identifier) for address in addresses)]


def _nat_pmp_seeds() -> Sequence[bytes]:
    return [
        bytes([0, 128, 0, 0, 0, 0, 0, 9, 192, 0, 2, 1]),
        bytes([0, 129]) + bytes(14),
        bytes([0, 128, 0, 3]),
    ]


def _pcp_seeds() -> Sequence[bytes]:
    mapping = bytes(12) + bytes([17, 0, 0, 0]) + bytes(20)
    request = pcp.MapRequest(bytes(12), IPv4Address("192.0.2.1"), 1, 7200).encode()
    return [bytes([2, 0x81, 0, 0]) + bytes(20) + mapping, bytes([0, 0x81, 0, 1]), request]


def _ssdp_seeds() -> Sequence[bytes]:
    device = "urn:schemas-upnp-org:device:InternetGatewayDevice:1"
    answer = (
        f"HTTP/1.1 200 OK\r\nST: {device}\r\nUSN: uuid:1::{device}\r\nLOCATION: http://192.0.2.1:80/x\r\n\r\n"
    )
    notice = f"NOTIFY * HTTP/1.1\r\nNT: {device}\r\nNTS: ssdp:alive\r\nBOOTID.UPNP.ORG: 1\r\n\r\n"
    return [answer.encode(), notice.encode()]


def _ssdp(data: bytes) -> None:
    answer = ssdp.parse_answer_untrusted(data)
    ssdp.parse_notice_untrusted(data)
    if answer is not None:
        ssdp.gateway_url(IPv4Address("192.0.2.1"), answer.location)


def _echo_seeds() -> Sequence[bytes]:
    reply = bytearray(echo.echo_request(4, 1, 2, b"data"))
    reply[0] = 0
    return [bytes([0x45]) + bytes(19) + bytes(reply), bytes(reply), b"\x4f"]


def _echo(data: bytes) -> None:
    for message in (data, echo.ipv4_payload_untrusted(data)):
        for version in (4, 6):
            echo.is_reply_untrusted(message, version, 2, b"data", identifier=1)
            echo.is_reply_untrusted(message, version, 2, b"data", identifier=None)


def _tsmp_seeds() -> Sequence[bytes]:
    return [tsmp_messages.Ping(bytes(8)).encode(), tsmp_messages.Pong(bytes(8), 80).encode()]


TARGETS = [
    Target("wireguard_messages", _wireguard, _wireguard_seeds),
    parser("disco_messages", _disco, _disco_messages, disco.MalformedMessage),
    Target("demux", _demux, _demux_seeds),
    parser("stun_request", stun.parse_request_untrusted, _stun_requests, stun.MalformedMessage),
    parser("stun_response", stun.parse_response_untrusted, _stun_responses, stun.MalformedMessage),
    parser("nat_pmp", natpmp.parse_untrusted, _nat_pmp_seeds),
    parser("pcp", pcp.parse_untrusted, _pcp_seeds),
    Target("ssdp", _ssdp, _ssdp_seeds),
    Target("icmp_echo", _echo, _echo_seeds),
    parser("tsmp", tsmp_messages.parse_untrusted, _tsmp_seeds),
]
