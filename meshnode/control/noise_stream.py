"""The control connection below HTTP/2: key fetch, upgrade, Noise handshake, and the sealed byte stream.

`fetch_server_key` asks `GET /key` for the coordinator's Noise key; `open_noise_stream` upgrades `/ts2021` and
performs the handshake as this machine (control protocol §2.1, §2.3, §3, §4).
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Callable
from http import HTTPStatus

from meshnode.control import errors, http1
from meshnode.control.dial import MarkSocket, Streams, dial
from meshnode.control.server_url import ServerURL
from meshproto.capver import CURRENT_CAPABILITY_VERSION
from meshproto.codec import MalformedMessage, decode
from meshproto.early import EarlyPayloadReader
from meshproto.keys import MachinePrivate, MachinePublic
from meshproto.messages import OverTLSPublicKeyResponse
from meshproto.noise import CoordinatorRefused, Initiator, NoiseError, ResponseReader, Transport

ANSWER_TIMEOUT_S = 10.0
"""For the answer to `/key`, and for the upgrade with its handshake."""
READ_SIZE = 64 * 1024
UPGRADE_PROTOCOL = "tailscale-control-protocol"
USER_AGENT = "meshnode"

Entropy = Callable[[int], bytes]


async def fetch_server_key(
    server: ServerURL, mark: MarkSocket, tls: ssl.SSLContext | None = None
) -> MachinePublic:
    """The coordinator's Noise key. Raises ControlError, of the kind that says what answered instead."""
    target = f"/key?v={CURRENT_CAPABILITY_VERSION}"
    headers = {
        "Host": server.authority,
        "User-Agent": USER_AGENT,
        "Accept": "application/json",
        "Connection": "close",
    }
    reader, writer = await dial(server, mark, tls)
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            writer.write(http1.encode_request("GET", target, headers))
            head = await http1.read_head(reader)
            body = await http1.read_body(reader, head)
    except TimeoutError as error:
        raise errors.no_answer(str(server), ANSWER_TIMEOUT_S) from error
    except http1.NotHTTP as error:
        raise errors.not_a_coordinator(str(server), "/key", "something other than HTTP") from error
    except OSError as error:
        raise errors.not_a_coordinator(str(server), "/key", "a closed connection") from error
    finally:
        writer.close()
    return parse_server_key_untrusted(server, head, body)


def parse_server_key_untrusted(server: ServerURL, head: http1.Head, body: bytes) -> MachinePublic:
    """The Noise key in a reply to `/key`. Raises NotACoordinator, or ServerTooOld for a bare legacy key."""
    if head.status != HTTPStatus.OK:
        raise errors.not_a_coordinator(str(server), "/key", _describe(head, body))
    text = body.strip()
    if len(text) == 64 and all(digit in b"0123456789abcdefABCDEF" for digit in text):
        raise errors.ServerTooOld(
            f"{server} speaks only a version of the control protocol that is gone; upgrade it"
        )
    try:
        key = decode(body, OverTLSPublicKeyResponse).public_key
    except MalformedMessage as error:
        raise errors.not_a_coordinator(str(server), "/key", _describe(head, body)) from error
    if key.is_zero:
        raise errors.ServerTooOld(f"{server} gives no Noise key at /key; upgrade it to a current version")
    return key


def _describe(head: http1.Head, body: bytes) -> str:
    """What came instead of an answer, for a sentence: `answers /key with …`."""
    if location := head.headers.get("location"):
        return f"HTTP {head.status} and sends the caller to {location[:200]}"
    if b"HTTPS server" in body:
        return f"HTTP {head.status}, because that is an HTTPS port (write https:// instead)"
    is_page = "html" in head.headers.get("content-type", "") or body.lstrip()[:1] == b"<"
    if head.status == HTTPStatus.OK:
        return "a web page" if is_page else "something else than a key"
    return f"HTTP {head.status} ({errors.phrase(head.status)})" + (" and a web page" if is_page else "")


class NoiseStream:
    """The bytes inside Noise. One reader and one writer at a time."""

    def __init__(self, streams: Streams, transport: Transport, first: bytes) -> None:
        """`first` is what came behind the handshake's response, still sealed."""
        self._reader, self._writer = streams
        self._transport = transport
        self._early = EarlyPayloadReader()
        self._sealed = first

    async def receive(self) -> bytes:
        """What came, at least one byte, without the early payload; b"" at the end. Raises ConnectionLost."""
        try:
            while True:
                sealed = self._sealed or await self._reader.read(READ_SIZE)
                self._sealed = b""
                if not sealed:
                    return b""
                if data := self._early.receive_data(self._transport.receive_data(sealed)):
                    return data
        except (NoiseError, MalformedMessage) as error:
            raise errors.ConnectionLost(f"the control connection is damaged: {error}") from error
        except OSError as error:
            raise errors.ConnectionLost(f"the connection to the coordinator broke: {error}") from error

    async def send(self, data: bytes) -> None:
        """Raises ConnectionLost."""
        try:
            self._writer.write(self._transport.seal(data))
            await self._writer.drain()
        except (NoiseError, OSError) as error:
            raise errors.ConnectionLost(f"the connection to the coordinator broke: {error}") from error

    @property
    def local_host(self) -> str:
        """The address of this host that the connection is made from."""
        return str(self._writer.get_extra_info("sockname", ("",))[0])

    async def close(self) -> None:
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            pass  # it was broken already


async def open_noise_stream(
    server: ServerURL,
    server_key: MachinePublic,
    machine_key: MachinePrivate,
    *,
    mark: MarkSocket,
    entropy: Entropy,
    tls: ssl.SSLContext | None = None,
) -> NoiseStream:
    """A connection on which HTTP/2 can begin. Raises ControlError."""
    initiator = Initiator(machine_key, server_key, CURRENT_CAPABILITY_VERSION, entropy)
    streams = await dial(server, mark, tls)
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            await _upgrade(server, streams, initiator.initiation())
            transport, first = await _finish_handshake(server, streams[0], initiator)
    except TimeoutError as error:
        streams[1].close()
        raise errors.no_answer(str(server), ANSWER_TIMEOUT_S) from error
    except BaseException:
        streams[1].close()
        raise
    return NoiseStream(streams, transport, first)


async def _upgrade(server: ServerURL, streams: Streams, initiation: bytes) -> None:
    reader, writer = streams
    headers = {
        "Host": server.authority,
        "User-Agent": USER_AGENT,
        "Content-Length": "0",
        "Connection": "upgrade",
        "Upgrade": UPGRADE_PROTOCOL,
        "X-Tailscale-Handshake": base64.b64encode(initiation).decode(),
    }
    try:
        writer.write(http1.encode_request("POST", "/ts2021", headers))
        head = await http1.read_head(reader)
        if head.status != HTTPStatus.SWITCHING_PROTOCOLS:
            raise errors.not_a_coordinator(str(server), "/ts2021", _describe(head, b""))
        if head.headers.get("upgrade") != UPGRADE_PROTOCOL:
            raise errors.not_a_coordinator(str(server), "/ts2021", "another protocol")
    except http1.NotHTTP as error:
        raise errors.not_a_coordinator(str(server), "/ts2021", "something other than HTTP") from error
    except OSError as error:
        raise errors.ConnectionLost(f"{server} broke off the upgrade: {error}") from error


async def _finish_handshake(
    server: ServerURL, reader: asyncio.StreamReader, initiator: Initiator
) -> tuple[Transport, bytes]:
    responses = ResponseReader()
    try:
        while (response := responses.receive_data(data := await reader.read(READ_SIZE))) is None:
            if not data:
                raise errors.ServerTooOld(
                    f"{server} ended the connection during the handshake; it may not serve this version of "
                    "meshnode: compare the versions of both"
                )
        return initiator.consume_response(response), responses.trailing
    except CoordinatorRefused as error:
        raise errors.HandshakeFailed(f"{server} refused the handshake: {error}") from error
    except NoiseError as error:
        raise errors.HandshakeFailed(f"the handshake with {server} failed: {error}") from error
    except OSError as error:
        raise errors.ConnectionLost(f"{server} broke off the handshake: {error}") from error
