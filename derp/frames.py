"""DERP frames on the wire (nat-traversal reference §1.4, §1.5). All integers are big-endian.

    0  1  type
    1  4  length n of the payload
    5  n  payload

Login. `box` is crypto_box with its nonce in front, of JSON (see `login`):

    ServerKey     0x01  server   "DERP🔑" 8, server's public key 32
    ClientInfo    0x02  client   node key 32, box
    ServerInfo    0x03  server   box

Packets. A relay swaps the destination for the source, so that both frames are equally long:

    SendPacket    0x04  client   destination's node key 32, packet, at most 65536
    RecvPacket    0x05  server   source's node key 32, packet

The connection:

    KeepAlive     0x06  server   nothing; no reply
    NotePreferred 0x07  client   01 this relay is the node's home, 00 it is not
    PeerGone      0x08  server   node key 32, reason 1
    Ping          0x12  both     8 bytes (a server takes up to 1000, and answers the first 8)
    Pong          0x13  both     the ping's 8 bytes
    Health        0x14  server   text of a problem, in UTF-8; nothing when it is over
    Restarting    0x15  server   milliseconds until reconnecting makes sense 4, to keep trying 4

Between the relays of one region, which show each other a mesh key at login:

    PeerPresent   0x09  server   node key 32, IPv6 or mapped IPv4 address 16, port 2, flags 1
    ForwardPacket 0x0a  client   source's node key 32, destination's 32, packet
    WatchConns    0x10  client   nothing; subscribes to PeerPresent and PeerGone
    ClosePeer     0x11  client   node key 32

Unknown types are skipped, and what follows the documented payload is ignored, except where the length must be
exact: NotePreferred, WatchConns, ClosePeer.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from ipaddress import IPv6Address, ip_address

from meshproto.keys import KEY_SIZE, NodePublic

MAGIC = "DERP🔑".encode()
HEADER_SIZE = 5
MAX_PACKET_SIZE = 65536
MAX_CLIENT_FRAME_SIZE = 1024 * 1024
"""Bytes of payload above which a client gives the connection up."""
PING_SIZE = 8
MAX_PING_SIZE = 1000

DISCO_MAGIC = "TS💬".encode()
MIN_DISCO_SIZE = 62
"""Bytes of disco's envelope: magic, key, nonce. A shorter packet is none, whatever it begins with."""

HEADER = struct.Struct(">BI")
"""Type and length of the payload."""
_ADDRESS = struct.Struct(">16sH")
_RESTARTING = struct.Struct(">II")


class FrameType(IntEnum):
    """See the module."""

    SERVER_KEY = 0x01
    CLIENT_INFO = 0x02
    SERVER_INFO = 0x03
    SEND_PACKET = 0x04
    RECV_PACKET = 0x05
    KEEP_ALIVE = 0x06
    NOTE_PREFERRED = 0x07
    PEER_GONE = 0x08
    PEER_PRESENT = 0x09
    FORWARD_PACKET = 0x0A
    WATCH_CONNS = 0x10
    CLOSE_PEER = 0x11
    PING = 0x12
    PONG = 0x13
    HEALTH = 0x14
    RESTARTING = 0x15


class PeerGoneReason(IntEnum):
    """Why a packet to this peer would be lost."""

    DISCONNECTED = 0x00
    NOT_HERE = 0x01


class PresenceFlag(IntFlag):
    """What kind of client is present. None of them: the server is too old to say."""

    REGULAR = 0x01
    MESH_PEER = 0x02
    PROBER = 0x04
    NOT_IDEAL = 0x08


class FrameError(ValueError):
    """The stream breaks the protocol; the connection must be closed. `str()` says how."""


Frame = tuple[int, bytes]
"""A type and its payload."""


NO_FLAGS = PresenceFlag(0)


@dataclass(frozen=True, slots=True)
class PeerPresent:
    """A client of another relay of the region. Old servers say neither address nor flags."""

    key: NodePublic
    host: str | None = None
    port: int = 0
    flags: PresenceFlag = NO_FLAGS


def is_disco(packet: bytes | memoryview) -> bool:
    """Whether a packet is signalling of nodes, and not WireGuard's."""
    return packet[: len(DISCO_MAGIC)] == DISCO_MAGIC and len(packet) >= MIN_DISCO_SIZE


def encode(kind: int, payload: bytes = b"") -> bytes:
    """Any frame."""
    return HEADER.pack(kind, len(payload)) + payload


def server_key(key: NodePublic) -> bytes:
    """The first frame of a connection."""
    return encode(FrameType.SERVER_KEY, MAGIC + key.raw)


def send_packet(destination: bytes, packet: bytes) -> bytes:
    """`destination` is a raw node key."""
    return HEADER.pack(FrameType.SEND_PACKET, KEY_SIZE + len(packet)) + destination + packet


def recv_packet(source: bytes, packet: bytes) -> bytes:
    """`source` is a raw node key."""
    return HEADER.pack(FrameType.RECV_PACKET, KEY_SIZE + len(packet)) + source + packet


def forward_packet(source: bytes, destination: bytes, packet: bytes) -> bytes:
    """Both are raw node keys."""
    length = 2 * KEY_SIZE + len(packet)
    return HEADER.pack(FrameType.FORWARD_PACKET, length) + source + destination + packet


def encode_packets(kind: int, keys: bytes, packets: Sequence[bytes | memoryview]) -> bytes:
    """A frame for each of one or more packets, which are of one length, but the last may be shorter.

    `kind` is that of SendPacket, RecvPacket or ForwardPacket, and `keys` what comes before the packet there.
    """
    size, last = len(packets[0]), packets[-1]
    head = HEADER.pack(kind, len(keys) + size) + keys
    if len(packets) == 1:
        return head + last
    if len(last) == size:
        return head.join((b"", *packets))  # between an empty one and the others: before each of them
    return b"".join((head.join((b"", *packets[:-1])), HEADER.pack(kind, len(keys) + len(last)), keys, last))


def note_preferred(is_home: bool) -> bytes:
    return encode(FrameType.NOTE_PREFERRED, bytes([is_home]))


def peer_gone(key: bytes, reason: PeerGoneReason) -> bytes:
    """`key` is a raw node key."""
    return encode(FrameType.PEER_GONE, key + bytes([reason]))


def peer_present(peer: PeerPresent) -> bytes:
    """All 51 bytes; an unknown address is written as zeros."""
    address = ip_address((peer.host or "::").partition("%")[0])
    mapped = IPv6Address(f"::ffff:{address}") if address.version == 4 else address
    where = _ADDRESS.pack(mapped.packed, peer.port)
    return encode(FrameType.PEER_PRESENT, peer.key.raw + where + bytes([peer.flags]))


def close_peer(key: bytes) -> bytes:
    """`key` is a raw node key."""
    return encode(FrameType.CLOSE_PEER, key)


def ping(data: bytes) -> bytes:
    return encode(FrameType.PING, data)


def pong(data: bytes) -> bytes:
    return encode(FrameType.PONG, data)


def health(problem: str) -> bytes:
    return encode(FrameType.HEALTH, problem.encode())


def restarting(reconnect_in_ms: int, try_for_ms: int) -> bytes:
    return encode(FrameType.RESTARTING, _RESTARTING.pack(reconnect_in_ms, try_for_ms))


KEEP_ALIVE = encode(FrameType.KEEP_ALIVE)
WATCH_CONNS = encode(FrameType.WATCH_CONNS)


def parse_server_key_untrusted(payload: bytes) -> NodePublic:
    """Raises FrameError."""
    if len(payload) < len(MAGIC) + KEY_SIZE or not payload.startswith(MAGIC):
        raise FrameError("not a DERP server")
    return NodePublic(payload[len(MAGIC) : len(MAGIC) + KEY_SIZE])


def parse_peer_gone_untrusted(payload: bytes) -> tuple[NodePublic, int]:
    """The key and the reason, which old servers leave out. Raises FrameError."""
    key = _key(payload)
    return key, payload[KEY_SIZE] if len(payload) > KEY_SIZE else PeerGoneReason.DISCONNECTED


def parse_peer_present_untrusted(payload: bytes) -> PeerPresent:
    """Raises FrameError."""
    key = _key(payload)
    rest = payload[KEY_SIZE:]
    if len(rest) < _ADDRESS.size:
        return PeerPresent(key)
    raw, port = _ADDRESS.unpack_from(rest)
    address = IPv6Address(raw)
    flags = PresenceFlag(rest[_ADDRESS.size]) if len(rest) > _ADDRESS.size else NO_FLAGS
    return PeerPresent(key, str(address.ipv4_mapped or address), port, flags)


def parse_restarting_untrusted(payload: bytes) -> tuple[float, float]:
    """Seconds until reconnecting makes sense, and to keep trying. Raises FrameError."""
    if len(payload) < _RESTARTING.size:
        raise FrameError("Restarting is too short")
    reconnect_in_ms, try_for_ms = _RESTARTING.unpack_from(payload)
    return reconnect_in_ms / 1000, try_for_ms / 1000


def _key(payload: bytes) -> NodePublic:
    if len(payload) < KEY_SIZE:
        raise FrameError("frame is shorter than a key")
    return NodePublic(payload[:KEY_SIZE])
