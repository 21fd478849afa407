"""The messages of disco, as they are inside the box (reference §2.2). All integers are big-endian.

    0   1  type
    1   1  version, 0
    2   …  body

    type                                     body
    0x01  Ping                               TxID 12 ‖ node key 32, optional ‖ zeros
    0x02  Pong                               TxID 12 ‖ observed source address 18
    0x03  CallMeMaybe                        address 18 × n
    0x04  BindUDPRelayEndpoint               VNI 4 ‖ generation 4 ‖ remote disco key 32 ‖ challenge 32
    0x05  BindUDPRelayEndpointChallenge      the same
    0x06  BindUDPRelayEndpointAnswer         the same
    0x07  CallMeMaybeVia                     relay endpoint
    0x08  AllocateUDPRelayEndpointRequest    client disco key 32 × 2 ‖ generation 4
    0x09  AllocateUDPRelayEndpointResponse   generation 4 ‖ relay endpoint

0x03, 0x07, 0x08 and 0x09 count over DERP only; 0x04 to 0x06 go between a client and a peer relay, under a
Geneve header that says control.

    address         IP 16 (IPv4 as ::ffff:a.b.c.d) ‖ port 2
    relay endpoint  server disco key 32 ‖ client disco key 32 × 2, sorted ‖ Lamport ID 8 ‖ VNI 4 ‖
                    bind lifetime 8 ‖ steady-state lifetime 8, both in ns ‖ address 18 × n

What follows a body is ignored, so that later versions can add fields; the version matters to CallMeMaybe
only. A parser that ends in `_untrusted` raises MalformedMessage and nothing else.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, Final, TypeAlias, TypeVar

from meshproto.addresses import AddrPort
from meshproto.keys import KEY_SIZE, DiscoPublic, NodePublic

TX_ID_SIZE: Final = 12
ADDRESS_SIZE: Final = 18
CHALLENGE_SIZE: Final = 32
NO_CHALLENGE: Final = bytes(CHALLENGE_SIZE)

_ADDRESS: Final = struct.Struct(">16sH")
_BIND: Final = struct.Struct(">II32s32s")
_RELAY_ENDPOINT: Final = struct.Struct(">32s32s32sQIQQ")
_GENERATION: Final = struct.Struct(">I")
assert _ADDRESS.size == ADDRESS_SIZE
assert _BIND.size == 72
assert _RELAY_ENDPOINT.size == 124

_V4_MAPPED: Final = bytes(10) + b"\xff\xff"
_NANOSECONDS: Final = 1_000_000_000


class MalformedMessage(ValueError):
    """The bytes are not a message of the type that they begin with."""


class UnknownMessage(MalformedMessage):
    """A type that we do not know: of a later version, to be dropped."""


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you there, and how far? To be answered by a Pong to where it came from."""

    TYPE: ClassVar[int] = 0x01
    tx_id: bytes
    node_key: NodePublic | None = None
    """Allegedly the sender's: nothing proves it. It tells nodes that share a disco key apart."""
    padding: int = 0
    """Bytes after the node key, or after the TxID without one: how a path's MTU is probed."""

    def encode(self) -> bytes:
        node_key = self.node_key.raw if self.node_key is not None else b""
        return _head(self.TYPE) + self.tx_id + node_key + bytes(self.padding)


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to the Ping with this TxID, which its sender saw come from `source`."""

    TYPE: ClassVar[int] = 0x02
    tx_id: bytes
    source: AddrPort

    def encode(self) -> bytes:
        return _head(self.TYPE) + self.tx_id + encode_address(self.source)


@dataclass(frozen=True, slots=True)
class CallMeMaybe:
    """I have just pinged you at your endpoints: ping me at mine, what you send may now get through."""

    TYPE: ClassVar[int] = 0x03
    endpoints: tuple[AddrPort, ...]

    def encode(self) -> bytes:
        return _head(self.TYPE) + _encode_addresses(self.endpoints)


@dataclass(frozen=True, slots=True)
class _Bind:
    """One step of a client's handshake with a peer relay."""

    TYPE: ClassVar[int]
    vni: int
    generation: int
    """Not zero, another one for each handshake of the client."""
    remote_key: DiscoPublic
    """Of the node to be reached through the relay."""
    challenge: bytes = NO_CHALLENGE

    def encode(self) -> bytes:
        body = _BIND.pack(self.vni, self.generation, self.remote_key.raw, self.challenge)
        return _head(self.TYPE) + body


class BindUDPRelayEndpoint(_Bind):
    """A client asks; its `challenge` means nothing."""

    __slots__ = ()
    TYPE: ClassVar[int] = 0x04


class BindUDPRelayEndpointChallenge(_Bind):
    """The relay wants to see this challenge come back from where the client claims to be."""

    __slots__ = ()
    TYPE: ClassVar[int] = 0x05


class BindUDPRelayEndpointAnswer(_Bind):
    """It comes back; from now on the relay forwards."""

    __slots__ = ()
    TYPE: ClassVar[int] = 0x06


@dataclass(frozen=True, slots=True)
class RelayEndpoint:
    """What a peer relay has set aside for two clients."""

    server_key: DiscoPublic
    client_keys: tuple[DiscoPublic, DiscoPublic]
    lamport_id: int
    """Grows with every allocation of the relay: the greater one is newer."""
    vni: int
    bind_lifetime: float
    """Seconds in which the handshake must be complete."""
    steady_state_lifetime: float
    """Seconds of silence after which it ends."""
    addresses: tuple[AddrPort, ...]

    def encode(self) -> bytes:
        first, second = sorted(self.client_keys)
        head = _RELAY_ENDPOINT.pack(
            self.server_key.raw,
            first.raw,
            second.raw,
            self.lamport_id,
            self.vni,
            round(self.bind_lifetime * _NANOSECONDS),
            round(self.steady_state_lifetime * _NANOSECONDS),
        )
        return head + _encode_addresses(self.addresses)


@dataclass(frozen=True, slots=True)
class CallMeMaybeVia:
    """Meet me at this peer relay: I have allocated there for both of us."""

    TYPE: ClassVar[int] = 0x07
    endpoint: RelayEndpoint

    def encode(self) -> bytes:
        return _head(self.TYPE) + self.endpoint.encode()


@dataclass(frozen=True, slots=True)
class AllocateUDPRelayEndpointRequest:
    """To a peer that relays: set something aside for these two."""

    TYPE: ClassVar[int] = 0x08
    client_keys: tuple[DiscoPublic, DiscoPublic]
    generation: int

    def encode(self) -> bytes:
        first, second = sorted(self.client_keys)
        return _head(self.TYPE) + first.raw + second.raw + _GENERATION.pack(self.generation)


@dataclass(frozen=True, slots=True)
class AllocateUDPRelayEndpointResponse:
    """The answer to the request of the same generation."""

    TYPE: ClassVar[int] = 0x09
    generation: int
    endpoint: RelayEndpoint

    def encode(self) -> bytes:
        return _head(self.TYPE) + _GENERATION.pack(self.generation) + self.endpoint.encode()


_BindStep = TypeVar("_BindStep", bound=_Bind)

Message: TypeAlias = (
    Ping
    | Pong
    | CallMeMaybe
    | BindUDPRelayEndpoint
    | BindUDPRelayEndpointChallenge
    | BindUDPRelayEndpointAnswer
    | CallMeMaybeVia
    | AllocateUDPRelayEndpointRequest
    | AllocateUDPRelayEndpointResponse
)


def parse_untrusted(plaintext: bytes) -> Message:
    """The message that an opened box holds. Raises MalformedMessage (UnknownMessage for a foreign type)."""
    if len(plaintext) < 2:
        raise MalformedMessage("no type")
    kind, version = plaintext[0], plaintext[1]
    parse = _PARSERS.get(kind)
    if parse is None:
        raise UnknownMessage(f"type {kind:#04x}")
    return parse(version, plaintext[2:])


def encode_address(address: AddrPort) -> bytes:
    """18 bytes. Raises ValueError when the host is no IP address."""
    packed = ipaddress.ip_address(address.host).packed
    return _ADDRESS.pack(packed if len(packed) == 16 else _V4_MAPPED + packed, address.port)


def _head(kind: int, version: int = 0) -> bytes:
    return bytes((kind, version))


def _encode_addresses(addresses: Iterable[AddrPort]) -> bytes:
    return b"".join(map(encode_address, addresses))


def _decode_address(raw: bytes, port: int) -> AddrPort:
    """IPv4 comes out as such: a dual-stack sender may have written it either way."""
    if raw.startswith(_V4_MAPPED):
        return AddrPort(str(ipaddress.IPv4Address(raw[12:])), port)
    return AddrPort(str(ipaddress.IPv6Address(raw)), port)


def _decode_addresses(body: bytes) -> tuple[AddrPort, ...]:
    return tuple(_decode_address(raw, port) for raw, port in _ADDRESS.iter_unpack(body))


def _parse_ping(version: int, body: bytes) -> Ping:
    if len(body) < TX_ID_SIZE:
        raise MalformedMessage("a ping without TxID")
    tx_id, rest = body[:TX_ID_SIZE], body[TX_ID_SIZE:]
    if len(rest) < KEY_SIZE:
        return Ping(tx_id, None, len(rest))
    return Ping(tx_id, NodePublic(rest[:KEY_SIZE]), len(rest) - KEY_SIZE)


def _parse_pong(version: int, body: bytes) -> Pong:
    if len(body) < TX_ID_SIZE + ADDRESS_SIZE:
        raise MalformedMessage("a pong without address")
    return Pong(body[:TX_ID_SIZE], _decode_address(*_ADDRESS.unpack_from(body, TX_ID_SIZE)))


def _parse_call_me_maybe(version: int, body: bytes) -> CallMeMaybe:
    """A list that is not whole, or of a later version, is an empty one: the call alone is worth hearing."""
    if version != 0 or len(body) % ADDRESS_SIZE:
        return CallMeMaybe(())
    return CallMeMaybe(_decode_addresses(body))


def _parse_bind(kind: type[_BindStep]) -> Callable[[int, bytes], _BindStep]:
    def parse(version: int, body: bytes) -> _BindStep:
        if len(body) < _BIND.size:
            raise MalformedMessage("a relay handshake cut short")
        vni, generation, remote_key, challenge = _BIND.unpack_from(body)
        return kind(vni, generation, DiscoPublic(remote_key), challenge)

    return parse


def _parse_relay_endpoint(body: bytes) -> RelayEndpoint:
    """Addresses are counted by what is there; a piece of one at the end is trailing bytes."""
    if len(body) < _RELAY_ENDPOINT.size + ADDRESS_SIZE:
        raise MalformedMessage("a relay endpoint cut short, or without address")
    server, first, second, lamport, vni, bind, steady = _RELAY_ENDPOINT.unpack_from(body)
    addresses = body[_RELAY_ENDPOINT.size :]
    return RelayEndpoint(
        DiscoPublic(server),
        (DiscoPublic(first), DiscoPublic(second)),
        lamport,
        vni,
        bind / _NANOSECONDS,
        steady / _NANOSECONDS,
        _decode_addresses(addresses[: len(addresses) // ADDRESS_SIZE * ADDRESS_SIZE]),
    )


def _parse_call_me_maybe_via(version: int, body: bytes) -> CallMeMaybeVia:
    return CallMeMaybeVia(_parse_relay_endpoint(body))


def _parse_allocate_request(version: int, body: bytes) -> AllocateUDPRelayEndpointRequest:
    if len(body) < 2 * KEY_SIZE + _GENERATION.size:
        raise MalformedMessage("an allocation request cut short")
    keys = DiscoPublic(body[:KEY_SIZE]), DiscoPublic(body[KEY_SIZE : 2 * KEY_SIZE])
    return AllocateUDPRelayEndpointRequest(keys, *_GENERATION.unpack_from(body, 2 * KEY_SIZE))


def _parse_allocate_response(version: int, body: bytes) -> AllocateUDPRelayEndpointResponse:
    if len(body) < _GENERATION.size:
        raise MalformedMessage("an allocation response cut short")
    generation: int = _GENERATION.unpack_from(body)[0]
    return AllocateUDPRelayEndpointResponse(generation, _parse_relay_endpoint(body[_GENERATION.size :]))


_PARSERS: Final[dict[int, Callable[[int, bytes], Message]]] = {
    Ping.TYPE: _parse_ping,
    Pong.TYPE: _parse_pong,
    CallMeMaybe.TYPE: _parse_call_me_maybe,
    BindUDPRelayEndpoint.TYPE: _parse_bind(BindUDPRelayEndpoint),
    BindUDPRelayEndpointChallenge.TYPE: _parse_bind(BindUDPRelayEndpointChallenge),
    BindUDPRelayEndpointAnswer.TYPE: _parse_bind(BindUDPRelayEndpointAnswer),
    CallMeMaybeVia.TYPE: _parse_call_me_maybe_via,
    AllocateUDPRelayEndpointRequest.TYPE: _parse_allocate_request,
    AllocateUDPRelayEndpointResponse.TYPE: _parse_allocate_response,
}
