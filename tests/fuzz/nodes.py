"""Whole cores behind a UDP socket: WireGuard, disco, both ends of STUN. What cannot fail must not."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Sequence

from meshnode.disco.box import SharedKeys, is_envelope
from meshnode.disco.events import PeerInfo
from meshnode.disco.geneve import DISCO, GeneveHeader
from meshnode.disco.manager import Manager
from meshnode.wireguard import Device, PeerConfig
from meshnode.wireguard import messages as wireguard
from meshnode.wireguard.cookie import mac1_key
from meshproto.addresses import AddrPort
from meshproto.keys import DiscoPrivate, NodePrivate
from meshproto.primitives import blake2s_mac
from stun.messages import TransportAddress, encode_binding_request, encode_mapped
from stun.responder import AddressPair, Responder
from stun.transactions import Transactions
from tests.fuzz import datagrams
from tests.fuzz.streams import bytes_of_one
from tests.fuzz.target import Input, Target

_OURS = NodePrivate(bytes(range(32)))
_THEIRS = NodePrivate(bytes(range(32, 64)))
_OUR_DISCO = DiscoPrivate(bytes(range(64, 96)))
_THEIR_DISCO = DiscoPrivate(bytes(range(96, 128)))
_WALL = 1_800_000_000.0


def _with_mac1(message: bytes) -> bytes:
    body = message[: -wireguard.MACS_SIZE]
    return body + blake2s_mac(mac1_key(_OURS.public), body) + message[-16:]


def _device(private: NodePrivate, peer: NodePrivate) -> Device:
    device = Device(private, entropy=random.Random(1).randbytes, wall=lambda: _WALL)
    everywhere = frozenset({ipaddress.ip_network("0.0.0.0/0")})
    device.set_peers([PeerConfig(peer.public, everywhere)], 0.0)
    return device


def _wireguard(data: bytes) -> None:
    """Receives of some datagrams: as they are, or with a mac1 that lets them past the first gate."""
    device = _device(_OURS, _THEIRS)
    device.initiate(_THEIRS.public, 0.0)
    source = Input(data)
    now = 0.0
    while source:
        kind, stride = source.number(), source.number()
        received = source.take(source.number())
        if kind & 1 and len(received) in (wireguard.INITIATION_SIZE, wireguard.RESPONSE_SIZE):
            received = _with_mac1(received)
        out = memoryview(bytearray(len(received)))
        device.decapsulate(memoryview(received), stride, ("192.0.2.1", kind), out, now)
        now += kind / 8
        device.handle_timeout(now)
        for outgoing in device.take_datagrams():
            assert len(outgoing.datagram) >= 32
        device.take_events()


def _wireguard_seeds() -> Sequence[bytes]:
    peer = _device(_THEIRS, _OURS)
    peer.initiate(_OURS.public, 0.0)
    messages = [outgoing.datagram for outgoing in peer.take_datagrams()]
    plain = datagrams.TARGETS[0].seeds()
    return [b"".join(bytes([1, len(one), len(one)]) + one for one in (*messages, *plain))]


def _disco(data: bytes) -> None:
    """Messages: as they are, or sealed by the peer's key; over UDP, under Geneve, from a relay."""
    manager = Manager(_OUR_DISCO, _OURS.public, entropy=random.Random(1).randbytes)
    endpoint = AddrPort("192.0.2.1", 41641)
    info = PeerInfo(_THEIRS.public, _THEIR_DISCO.public, (endpoint,), 1)
    manager.set_peers([info], 0.0)
    manager.set_own_endpoints([AddrPort("198.51.100.1", 1)], 0.0)
    manager.set_reachability(0.0, has_derp=True)
    sealer = SharedKeys(_THEIR_DISCO, bytes_of_one)
    source = Input(data)
    now = 0.0
    while source:
        kind = source.number()
        message = source.take(source.number())
        datagram = message if kind & 3 == 3 else sealer.seal(_OUR_DISCO.public, message)
        if not is_envelope(datagram):
            continue
        if kind & 4:
            header = GeneveHeader(DISCO, source.number(), bool(kind & 8))
            manager.receive_geneve(header.encode() + datagram, endpoint, now)
        elif kind & 8:
            manager.receive_derp(datagram, _THEIRS.public, 1, now)
        else:
            manager.receive_udp(datagram, endpoint, now)
        if kind & 16:
            manager.ping(_THEIRS.public, source.number(2), now)
        now += (kind >> 5) / 2
        manager.handle_timeout(now)
        manager.take_datagrams()
        manager.take_events()
        manager.status(_THEIRS.public, now)


def _disco_seeds() -> Sequence[bytes]:
    messages = next(target for target in datagrams.TARGETS if target.name == "disco_messages").seeds()
    return [b"".join(bytes([kind, len(one)]) + one for one in messages) for kind in (0, 0x14, 0x28, 0x4C)]


def _stun(data: bytes) -> None:
    """A responder with two addresses, and a client with requests in flight."""
    here, there = TransportAddress("192.0.2.1", 3478), TransportAddress("198.51.100.1", 1000)
    pair = AddressPair(here, TransportAddress("192.0.2.2", 3479))
    responder = Responder((pair,))
    client = Transactions(bytes)
    client.start(here, 0.0)
    source = Input(data)
    now = 0.0
    for piece in source.pieces():
        responder.respond(piece, there, here, now)
        client.receive(piece, here, now)
        now += 0.5
        client.handle_timeout(now)
        client.take_datagrams()


def _stun_seeds() -> Sequence[bytes]:
    request = encode_binding_request(bytes(12))
    answer = encode_mapped(TransportAddress("2001:db8::1", 1), request[4:20])
    wish = encode_binding_request(bytes(12), change_port=True)
    return [b"".join(bytes([len(one)]) + one for one in (request, wish, answer))]


TARGETS = [
    Target("wireguard_device", _wireguard, _wireguard_seeds),
    Target("disco_manager", _disco, _disco_seeds),
    Target("stun_ends", _stun, _stun_seeds),
]
