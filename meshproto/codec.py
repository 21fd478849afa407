"""Messages as JSON, and the framing of the map stream (reference §0, §8.1).

A map stream is a row of messages, each a uint32 LITTLE-endian length and a payload: JSON, or one complete
zstd frame of it where the request asked for that. Every message is compressed on its own.
"""

from __future__ import annotations

import re
import struct
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, TypeVar

import msgspec
import zstandard

from meshproto.addresses import (
    AddrPort,
    AddrPorts,
    IPAddress,
    IPNetwork,
    OptionalIPAddress,
    parse_address,
    parse_prefix,
)
from meshproto.gotime import OptionalTime, Time, none_if_zero, parse_time
from meshproto.keys import PublicKey
from meshproto.messages import MapResponse, Message
from meshproto.nulls import without_nulls

MAX_MAP_RESPONSE_SIZE = 64 * 1024 * 1024
"""Bytes of JSON in one map response: ours to choose, far above any real tailnet's map."""

COMPRESSION_LEVEL = 1
"""Zstd level of map responses: they are short-lived and many, so time counts more than size."""

_LENGTH = struct.Struct("<I")
_PATH = re.compile(r" - at (?:`key` in )?`(\$[^`]*)`$")

Kind = TypeVar("Kind")
AnyMessage = TypeVar("AnyMessage", bound=Message)


class MalformedMessage(ValueError):
    """The bytes are not the message they should be. `path` is the JSON path of the fault, `$` if unknown."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        match = _PATH.search(reason)
        self.path = match.group(1) if match else "$"


def _to_json(value: Any) -> Any:
    if isinstance(value, PublicKey | IPv4Address | IPv6Address | IPv4Network | IPv6Network):
        return str(value)
    if isinstance(value, AddrPorts):
        return [str(item) for item in value]
    raise TypeError(f"no JSON form for {type(value).__name__}")


def _addr_ports(texts: Any) -> AddrPorts:
    if not isinstance(texts, list):
        raise ValueError("Expected `array` of ip:port")
    return AddrPorts(AddrPort.parse(_text(text)) for text in texts)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("Expected `str`")
    return value


_FROM_JSON: dict[Any, Any] = {
    Time: lambda value: parse_time(_text(value)),
    OptionalTime: lambda value: None if value is None else none_if_zero(parse_time(_text(value))),
    IPAddress: lambda value: parse_address(_text(value)),
    IPNetwork: lambda value: parse_prefix(_text(value)),
    OptionalIPAddress: lambda value: parse_address(_text(value)) if value else None,
    AddrPorts: _addr_ports,
}


def _from_json(kind: Any, value: Any) -> Any:
    reader = _FROM_JSON.get(kind)
    return reader(value) if reader is not None else kind.parse(_text(value))


_encoder = msgspec.json.Encoder(enc_hook=_to_json)


def encode(message: Message) -> bytes:
    """The message as compact JSON. Raises TypeError for a value that its class does not allow."""
    return _encoder.encode(message)


def pre_encoded(message: AnyMessage) -> AnyMessage:
    """A stand-in for `message` that holds its JSON, to be placed in other messages and encoded with them.

    Encoding a peer once and placing it in many map responses is what this is for. The stand-in has none of
    the message's attributes.
    """
    stand_in: Any = msgspec.Raw(encode(message))
    placed: AnyMessage = stand_in
    return placed


def decode(data: bytes, kind: type[Kind]) -> Kind:
    """The message in `data`. Unknown fields are ignored, missing ones are zero.

    Raises MalformedMessage, and nothing else whatever the bytes.
    """
    try:
        try:
            return msgspec.json.decode(data, type=kind, dec_hook=_from_json)
        except msgspec.ValidationError:
            if b"null" not in data:
                raise
            return _decode_with_nulls(data, kind)
    except (ValueError, RecursionError) as error:
        raise MalformedMessage(f"{kind.__name__}: {error}") from error


def _decode_with_nulls(data: bytes, kind: type[Kind]) -> Kind:
    # Slower, and seldom needed: hence not in the type of every field.
    value = without_nulls(msgspec.json.decode(data), msgspec.inspect.type_info(kind))
    return msgspec.convert(value, kind, dec_hook=_from_json, str_keys=True)


def frame_map_response(json: bytes, compress: bool) -> bytes:
    """One encoded message, framed for the map stream."""
    payload = zstandard.ZstdCompressor(level=COMPRESSION_LEVEL).compress(json) if compress else json
    return _LENGTH.pack(len(payload)) + payload


def _decompress(frame: bytes, max_size: int) -> bytes:
    try:
        size = zstandard.get_frame_parameters(frame).content_size
        if size != zstandard.CONTENTSIZE_UNKNOWN and size > max_size:
            raise MalformedMessage(f"map response of {size} bytes, limit is {max_size}")
        return zstandard.ZstdDecompressor().decompress(
            frame, max_output_size=max_size, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise MalformedMessage(f"map response is not one zstd frame: {error}") from error


class MapStreamReader:
    """Takes the body of a map poll as it arrives and gives the messages in it.

    After MalformedMessage the reader is dead and raises it again: the stream cannot be resynchronised.
    """

    def __init__(self, compressed: bool, max_size: int = MAX_MAP_RESPONSE_SIZE) -> None:
        """`compressed`: the request asked for zstd. `max_size` bounds a message on the wire and unpacked."""
        self._compressed = compressed
        self._max_size = max_size
        self._buffer = bytearray()
        self._failure: MalformedMessage | None = None

    def receive_data(self, data: bytes) -> list[MapResponse]:
        """The messages that `data` completes, in order. Raises MalformedMessage."""
        if self._failure is not None:
            raise self._failure
        self._buffer += data
        responses: list[MapResponse] = []
        try:
            while (payload := self._next_payload()) is not None:
                responses.append(decode(payload, MapResponse))
        except MalformedMessage as failure:
            self._failure = failure
            self._buffer.clear()
            raise
        return responses

    def _next_payload(self) -> bytes | None:
        if len(self._buffer) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer)
        if not 0 < length <= self._max_size:
            raise MalformedMessage(f"map response of {length} bytes on the wire, limit is {self._max_size}")
        end = _LENGTH.size + length
        if len(self._buffer) < end:
            return None
        payload = bytes(self._buffer[_LENGTH.size : end])
        del self._buffer[:end]
        return _decompress(payload, self._max_size) if self._compressed else payload
