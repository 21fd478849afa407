"""What client and relay tell each other at login: JSON in a box (nat-traversal reference §1.4).

The box proves that the client has the private half of the key it claims. There is no challenge: TLS is what
keeps the proof from being replayed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from derp.frames import FrameError
from meshproto.box import NONCE_SIZE, OVERHEAD, Box
from meshproto.keys import KEY_SIZE, NodePrivate, NodePublic
from meshproto.primitives import DecryptionFailed, WeakPublicKey

PROTOCOL_VERSION = 2
MESH_KEY_SIZE = 32
MIN_CLIENT_INFO_SIZE = KEY_SIZE + NONCE_SIZE
MAX_CLIENT_INFO_SIZE = 16 * 1024
"""Bytes that a stranger may make a relay keep. Clients send about 200; Tailscale's relay takes 256 KiB."""
MAX_SERVER_INFO_SIZE = NONCE_SIZE + 1024 * 1024

Entropy = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class ClientInfo:
    """What a client says of itself. `mesh_key` is shown by relays of the same region to each other."""

    version: int = PROTOCOL_VERSION
    mesh_key: bytes | None = None
    can_ack_pings: bool = False
    is_prober: bool = False
    app_name: str = ""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a relay says of itself. The limits are those that it asks a client to keep; 0 for none."""

    version: int = PROTOCOL_VERSION
    bytes_per_second: int = 0
    burst_bytes: int = 0


def seal_client_info(info: ClientInfo, key: NodePrivate, server: NodePublic, entropy: Entropy) -> bytes:
    """The payload of ClientInfo. Raises FrameError if `server` is not a usable key."""
    members: dict[str, Any] = {"version": info.version}
    if info.mesh_key is not None:
        members["meshKey"] = info.mesh_key.hex()
    members["CanAckPings"] = info.can_ack_pings
    if info.is_prober:
        members["IsProber"] = True
    if info.app_name:
        members["AppName"] = info.app_name
    return key.public.raw + _seal(members, _box(key, server), entropy)


def open_client_info_untrusted(payload: bytes, server: NodePrivate) -> tuple[NodePublic, ClientInfo]:
    """Who the client is, proven, and what it says. Raises FrameError and nothing else."""
    if len(payload) < MIN_CLIENT_INFO_SIZE:
        raise FrameError("ClientInfo is too short")
    key = NodePublic(payload[:KEY_SIZE])
    members = _open(payload[KEY_SIZE:], _box(server, key))
    return key, ClientInfo(
        version=_member(members, "version", int, 0),
        mesh_key=_mesh_key(_member(members, "meshKey", str, "")),
        can_ack_pings=_member(members, "CanAckPings", bool, False),
        is_prober=_member(members, "IsProber", bool, False),
        app_name=_member(members, "AppName", str, ""),
    )


def seal_server_info(info: ServerInfo, key: NodePrivate, client: NodePublic, entropy: Entropy) -> bytes:
    """The payload of ServerInfo."""
    members = {"version": info.version}
    if info.bytes_per_second:
        members["TokenBucketBytesPerSecond"] = info.bytes_per_second
    if info.burst_bytes:
        members["TokenBucketBytesBurst"] = info.burst_bytes
    return _seal(members, _box(key, client), entropy)


def open_server_info_untrusted(payload: bytes, client: NodePrivate, server: NodePublic) -> ServerInfo:
    """Raises FrameError and nothing else."""
    members = _open(payload, _box(client, server))
    return ServerInfo(
        version=_member(members, "version", int, 0),
        bytes_per_second=max(0, _member(members, "TokenBucketBytesPerSecond", int, 0)),
        burst_bytes=max(0, _member(members, "TokenBucketBytesBurst", int, 0)),
    )


def parse_mesh_key(text: str) -> bytes:
    """64 hex digits, as the relays of a region are given them. Raises ValueError."""
    key = bytes.fromhex(text.strip())
    if len(key) != MESH_KEY_SIZE:
        raise ValueError(f"a mesh key has {2 * MESH_KEY_SIZE} hex digits")
    return key


def _mesh_key(text: str) -> bytes | None:
    if not text:
        return None
    try:
        return parse_mesh_key(text)
    except ValueError as error:
        raise FrameError("mesh key is malformed") from error


def _box(private: NodePrivate, public: NodePublic) -> Box:
    try:
        return Box(private, public)
    except WeakPublicKey as error:
        raise FrameError("the other side's key is not usable") from error


def _seal(members: dict[str, Any], box: Box, entropy: Entropy) -> bytes:
    return box.seal(json.dumps(members, separators=(",", ":")).encode(), entropy(NONCE_SIZE))


def _open(sealed: bytes, box: Box) -> dict[str, Any]:
    if len(sealed) < OVERHEAD:
        raise FrameError("login is too short")
    try:
        members = json.loads(box.open(sealed))
    except DecryptionFailed as error:
        raise FrameError("login does not fit the key that it claims") from error
    except (ValueError, RecursionError) as error:
        raise FrameError("login is not JSON") from error
    if not isinstance(members, dict):
        raise FrameError("login is not a JSON object")
    return members


def _member(members: dict[str, Any], name: str, kind: type[Any], default: Any) -> Any:
    value = members.get(name)
    if value is None:
        return default
    if type(value) is not kind:
        raise FrameError(f"login: {name} is not of type {kind.__name__}")
    return value
