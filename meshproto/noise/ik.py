"""The control channel's handshake, Noise IK (reference §3.1–§3.3, §3.6). All integers are BIG-endian.

Initiation, node to coordinator, 101 bytes, in an HTTP header:

     0   2  protocol version: the node's capability version
     2   1  type, 0x01
     3   2  length of the rest, 96
     5  32  ephemeral public key, clear
    37  48  machine public key, sealed
    85  16  tag of an empty payload

Response, coordinator to node, 51 bytes, first bytes of the upgraded stream:

     0   1  type, 0x02
     1   2  length of the rest, 48
     3  32  ephemeral public key, clear
    35  16  tag of an empty payload

Instead of a response the coordinator may send type 0x03, a length and a text: unauthenticated, only to be
shown to people.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

from meshproto.keys import KEY_SIZE, MachinePrivate, MachinePublic
from meshproto.noise.records import Transport
from meshproto.noise.symmetric import NoiseError, SymmetricState
from meshproto.primitives import TAG_SIZE, WeakPublicKey, x25519

INITIATION_TYPE = 1
RESPONSE_TYPE = 2
ERROR_TYPE = 3

_INITIATION_HEADER = struct.Struct(">HBH")
_HEADER = struct.Struct(">BH")
_SEALED_KEY_SIZE = KEY_SIZE + TAG_SIZE
INITIATION_SIZE = _INITIATION_HEADER.size + KEY_SIZE + _SEALED_KEY_SIZE + TAG_SIZE
RESPONSE_SIZE = _HEADER.size + KEY_SIZE + TAG_SIZE
MAX_ERROR_TEXT = 256
"""Characters of a coordinator's error text that are passed on."""

Entropy = Callable[[int], bytes]


class CoordinatorRefused(NoiseError):
    """The coordinator answered with an error frame; its text is unauthenticated and must only be shown."""


class Accepted(NamedTuple):
    """What the coordinator has after a valid initiation."""

    response: bytes
    transport: Transport
    machine: MachinePublic
    protocol_version: int


def _prologue(protocol_version: int) -> bytes:
    return b"Tailscale Control Protocol v%d" % protocol_version


def _start(server: MachinePublic, protocol_version: int) -> SymmetricState:
    state = SymmetricState()
    state.mix_hash(_prologue(protocol_version))
    state.mix_hash(server.raw)
    return state


def _mix_dh(state: SymmetricState, private: MachinePrivate, public: bytes) -> None:
    try:
        state.mix_key(x25519(private.raw, public))
    except WeakPublicKey as error:
        raise NoiseError("handshake message holds a weak public key") from error


class Initiator:
    """The node's side of one handshake: one `initiation`, one `consume_response`, then it is spent."""

    def __init__(
        self, machine: MachinePrivate, server: MachinePublic, protocol_version: int, entropy: Entropy
    ) -> None:
        """`server`: the key that `/key` gave. `entropy(n)` must be a cryptographic source."""
        self._machine = machine
        self._ephemeral = MachinePrivate.generate(entropy)
        self._server = server
        self._protocol_version = protocol_version
        self._awaiting_response: SymmetricState | None = None
        self._initiated = False

    def initiation(self) -> bytes:
        """The first message. Raises NoiseError the second time, for it would repeat a key."""
        if self._initiated:
            raise NoiseError("an initiator starts one handshake only")
        self._initiated = True
        state = _start(self._server, self._protocol_version)
        ephemeral = self._ephemeral.public.raw
        state.mix_hash(ephemeral)
        _mix_dh(state, self._ephemeral, self._server.raw)
        sealed_machine = state.encrypt_and_hash(self._machine.public.raw)
        _mix_dh(state, self._machine, self._server.raw)
        tag = state.encrypt_and_hash(b"")
        self._awaiting_response = state
        body = ephemeral + sealed_machine + tag
        return _INITIATION_HEADER.pack(self._protocol_version, INITIATION_TYPE, len(body)) + body

    def consume_response(self, message: bytes) -> Transport:
        """The established connection. Raises NoiseError, after which a new handshake is needed."""
        state, self._awaiting_response = self._awaiting_response, None
        if state is None:
            raise NoiseError("no handshake is waiting for a response")
        ephemeral, tag = _parse_response(message)
        state.mix_hash(ephemeral)
        _mix_dh(state, self._ephemeral, ephemeral)
        _mix_dh(state, self._machine, ephemeral)
        state.decrypt_and_hash(tag)
        to_server, to_node = state.split()
        return Transport(to_server, to_node, state.hash)


class Responder:
    """The coordinator's side. Keeps nothing from one handshake to the next."""

    def __init__(self, server: MachinePrivate, entropy: Entropy) -> None:
        """`entropy(n)` must be a cryptographic source."""
        self._server = server
        self._entropy = entropy

    def consume_initiation(self, message: bytes) -> Accepted:
        """Answers an initiation; any machine key and protocol version is accepted. Raises NoiseError."""
        protocol_version, remote_ephemeral, sealed_machine, tag = _parse_initiation(message)
        state = _start(self._server.public, protocol_version)
        state.mix_hash(remote_ephemeral)
        _mix_dh(state, self._server, remote_ephemeral)
        machine = MachinePublic(state.decrypt_and_hash(sealed_machine))
        _mix_dh(state, self._server, machine.raw)
        state.decrypt_and_hash(tag)
        ephemeral = MachinePrivate.generate(self._entropy)
        state.mix_hash(ephemeral.public.raw)
        _mix_dh(state, ephemeral, remote_ephemeral)
        _mix_dh(state, ephemeral, machine.raw)
        body = ephemeral.public.raw + state.encrypt_and_hash(b"")
        to_server, to_node = state.split()
        return Accepted(
            _HEADER.pack(RESPONSE_TYPE, len(body)) + body,
            Transport(to_node, to_server, state.hash),
            machine,
            protocol_version,
        )


def _parse_initiation(message: bytes) -> tuple[int, bytes, bytes, bytes]:
    if len(message) != INITIATION_SIZE:
        raise NoiseError("handshake initiation has the wrong size")
    protocol_version, message_type, length = _INITIATION_HEADER.unpack_from(message)
    if message_type != INITIATION_TYPE:
        raise NoiseError("handshake message is not an initiation")
    if length != INITIATION_SIZE - _INITIATION_HEADER.size:
        raise NoiseError("handshake initiation states the wrong length")
    body = message[_INITIATION_HEADER.size :]
    machine_end = KEY_SIZE + _SEALED_KEY_SIZE
    return protocol_version, body[:KEY_SIZE], body[KEY_SIZE:machine_end], body[machine_end:]


def _parse_response(message: bytes) -> tuple[bytes, bytes]:
    reader = ResponseReader()
    complete = reader.receive_data(message)
    if complete is None or reader.trailing:
        raise NoiseError("handshake response has the wrong size")
    body = complete[_HEADER.size :]
    return body[:KEY_SIZE], body[KEY_SIZE:]


def error_frame(text: str) -> bytes:
    """What a coordinator sends in place of a response, for people to read."""
    encoded = text[:MAX_ERROR_TEXT].encode()
    return _HEADER.pack(ERROR_TYPE, len(encoded)) + encoded


class ResponseReader:
    """Takes the upgraded stream as it arrives until the handshake response is complete."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def receive_data(self, data: bytes) -> bytes | None:
        """The response once it is complete, else None; later bytes are in `trailing`.

        Raises CoordinatorRefused on an error frame, and NoiseError on anything that is neither.
        """
        self._buffer += data
        if len(self._buffer) < _HEADER.size:
            return None
        message_type, length = _HEADER.unpack_from(self._buffer)
        if message_type not in (RESPONSE_TYPE, ERROR_TYPE):
            raise NoiseError("handshake message is not a response")
        if message_type == RESPONSE_TYPE and length != RESPONSE_SIZE - _HEADER.size:
            raise NoiseError("handshake response states the wrong length")
        end = _HEADER.size + length
        if len(self._buffer) < end:
            return None
        if message_type == ERROR_TYPE:
            raise CoordinatorRefused(_printable(self._buffer[_HEADER.size : end]))
        return bytes(self._buffer[:end])

    @property
    def trailing(self) -> bytes:
        """What came after the response: the first records, for `Transport.receive_data`."""
        return bytes(self._buffer[RESPONSE_SIZE:])


def _printable(text: bytes | bytearray) -> str:
    decoded = text[: 4 * MAX_ERROR_TEXT].decode(errors="replace")[:MAX_ERROR_TEXT]
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in decoded
    )
