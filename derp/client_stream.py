"""What a client puts around DERP's bytes: nothing after an upgrade to DERP, or the messages of a WebSocket.

Both begin with a request on a fresh connection, and neither has anything to do with sockets.
"""

from __future__ import annotations

from typing import Protocol

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from derp.errors import CannotConnect, UpgradeRefused
from derp.frames import FrameError
from derp.relay_node import RelayNode
from derp.upgrade import SWITCHING, HeadReader, encode_request, parse_response_untrusted

SUBPROTOCOL = Subprotocol("derp")
MAX_MESSAGE_SIZE = 16 * 1024 * 1024
"""Bytes. A relay puts everything that waits for us into one message."""


class ClientStream(Protocol):
    """See the module."""

    def data_to_send(self, payload: bytes) -> bytes:
        """The bytes that carry `payload`, behind whatever has to go out first: the request, or a reply."""

    def receive_data(self, data: bytes) -> bytes:
        """The DERP bytes that `data` completes.

        Raises UpgradeRefused when the request was answered with a no, and CannotConnect or FrameError when
        the answer is none.
        """


class PlainStream:
    """After an upgrade to DERP there is nothing in between. With a fast start there is no answer either."""

    def __init__(self, node: RelayNode, ideal_node: str, *, fast_start: bool) -> None:
        self._request = encode_request(node.host_header, fast_start=fast_start, ideal_node=ideal_node)
        self._head = None if fast_start else HeadReader()

    def data_to_send(self, payload: bytes) -> bytes:
        request, self._request = self._request, b""
        return request + payload if request else payload

    def receive_data(self, data: bytes) -> bytes:
        if self._head is None:
            return data
        complete = self._head.receive_data(data)
        if complete is None:
            return b""
        self._head = None
        head, rest = complete
        response = parse_response_untrusted(head)
        if response.status != SWITCHING:
            raise UpgradeRefused(response.status, response.reason)
        return rest


class WebSocketStream:
    """For proxies that let no other upgrade pass. The boundaries of messages mean nothing."""

    def __init__(self, node: RelayNode, ideal_node: str) -> None:
        uri = parse_uri(f"{'wss' if node.uses_tls else 'ws'}://{node.host_header}/derp")
        self._protocol = ClientProtocol(uri, subprotocols=[SUBPROTOCOL], max_size=MAX_MESSAGE_SIZE)
        request = self._protocol.connect()
        if ideal_node:
            request.headers["Ideal-Node"] = ideal_node
        self._protocol.send_request(request)

    def data_to_send(self, payload: bytes) -> bytes:
        if payload and self._protocol.state is State.OPEN:
            self._protocol.send_binary(payload)
        return b"".join(self._protocol.data_to_send())

    def receive_data(self, data: bytes) -> bytes:
        self._protocol.receive_data(data)
        payload = b"".join(self._payload(event) for event in self._protocol.events_received())
        if self._protocol.handshake_exc is not None:
            raise CannotConnect(f"does not answer as a WebSocket: {self._protocol.handshake_exc}")
        if self._protocol.parser_exc is not None:
            raise FrameError(f"no WebSocket: {self._protocol.parser_exc}")
        return payload

    def _payload(self, event: object) -> bytes:
        if isinstance(event, Response):
            self._check(event)
        elif isinstance(event, Frame) and event.opcode in (Opcode.BINARY, Opcode.CONT):
            return bytes(event.data)
        return b""

    def _check(self, response: Response) -> None:
        refusal = self._protocol.handshake_exc
        if isinstance(refusal, InvalidStatus):
            raise UpgradeRefused(response.status_code, response.reason_phrase)
        if isinstance(refusal, InvalidHandshake):
            raise CannotConnect(f"does not answer as a WebSocket: {refusal}")
        if self._protocol.subprotocol != SUBPROTOCOL:
            raise CannotConnect("answers as a WebSocket, but not for DERP")
