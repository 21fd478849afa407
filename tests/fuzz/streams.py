"""Cores that are fed a stream, in whatever pieces: Noise, HTTP/2 in it, the map poll, DERP from both ends.

Where a cipher stands before the interesting part, the target seals what it was given, as an authentic but
hostile other end would.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Sequence

import h2.config
import h2.connection
import zstandard

from coordinator.channel import ChannelClosed, MachineChannel, Request, StreamGone
from derp import frames, login
from derp.client_core import ClientCore
from derp.client_stream import PlainStream, WebSocketStream
from derp.errors import CannotConnect
from derp.frames import FrameError
from derp.relay_node import RelayNode
from derp.server_core import ServerCore
from derp.session import Arrival, SessionClosed
from meshnode.control.errors import ConnectionLost
from meshnode.control.http2 import Http2Client
from meshproto.box import NONCE_SIZE, Box
from meshproto.codec import MalformedMessage, MapStreamReader, frame_map_response
from meshproto.early import MAGIC, EarlyPayloadReader
from meshproto.keys import MachinePrivate, NodePrivate
from meshproto.noise.ik import Initiator, Responder, ResponseReader, error_frame
from meshproto.noise.records import Transport
from meshproto.noise.symmetric import NoiseError
from tests.fuzz.target import Input, Target, parser

_SERVER = NodePrivate(bytes(range(32, 64)))
_CLIENT = NodePrivate(bytes(range(64, 96)))
_STRANGER = NodePrivate(bytes(range(96, 128)))
_MACHINE = MachinePrivate(bytes(range(1, 33)))
_HASH = bytes(32)
_KEYS = (bytes(range(32)), bytes(range(32, 64)))


def _whole(*parts: bytes) -> bytes:
    """The parts as one piece of `Input.pieces`."""
    return b"\xff" + b"".join(parts)


# --- the control connection ---


def _initiation(data: bytes) -> None:
    Responder(_MACHINE, bytes_of_one).consume_initiation(data)


def bytes_of_one(length: int) -> bytes:
    """Entropy that is none, so that a run can be repeated."""
    return b"\1" * length


def _initiation_seeds() -> Sequence[bytes]:
    initiator = Initiator(MachinePrivate(_KEYS[1]), _MACHINE.public, 100, bytes_of_one)
    return [initiator.initiation()]


def _response(data: bytes) -> None:
    """As a stream, and as the message that it may be."""
    initiator = Initiator(MachinePrivate(_KEYS[1]), _MACHINE.public, 100, bytes_of_one)
    initiator.initiation()
    reader = ResponseReader()
    for piece in Input(data).pieces():
        response = reader.receive_data(piece)
        if response is not None:
            initiator.consume_response(response)
            return


def _response_seeds() -> Sequence[bytes]:
    accepted = Responder(_MACHINE, bytes_of_one).consume_initiation(_initiation_seeds()[0])
    return [_whole(accepted.response, b"more"), _whole(error_frame("no\x1b[1m"))]


def _records(data: bytes) -> None:
    """The pieces are what arrives; of the last, authentic records are made before it is let in."""
    sender, receiver = Transport(*_KEYS, _HASH), Transport(_KEYS[1], _KEYS[0], _HASH)
    pieces = Input(data).pieces()
    if pieces:
        plaintext = pieces.pop()
        assert receiver.receive_data(sender.seal(plaintext)) == plaintext
    for piece in pieces:
        receiver.receive_data(piece)


def _record_seeds() -> Sequence[bytes]:
    record = Transport(*_KEYS, _HASH).seal(b"x")
    return [bytes([len(record)]) + record + b"\xfflast", _whole(bytes(5000))]


def _early(data: bytes) -> None:
    reader = EarlyPayloadReader()
    for piece in Input(data).pieces():
        reader.receive_data(piece)


def _early_seeds() -> Sequence[bytes]:
    said = json.dumps({"nodeKeyChallenge": "chalpub:" + "1" * 64}).encode()
    return [_whole(struct.pack(">5sI", MAGIC, len(said)), said, b"PRI"), _whole(b"PRI * HTTP/2.0")]


def _map_stream(data: bytes) -> None:
    source = Input(data)
    reader = MapStreamReader(compressed=bool(source.number() & 1), max_size=1 << 20)
    for piece in source.pieces():
        reader.receive_data(piece)


def _map_stream_seeds() -> Sequence[bytes]:
    said = b'{"KeepAlive": true}'
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 21))
    return [
        b"\0" + _whole(frame_map_response(said, False), frame_map_response(said, False)),
        b"\1" + _whole(frame_map_response(said, True)),
        b"\1" + _whole(struct.pack("<I", len(bomb)), bomb),
    ]


def _channel(data: bytes) -> None:
    """HTTP/2 of a machine that got in, and a server that answers everything."""
    machine = Transport(_KEYS[0], _KEYS[1], _HASH)
    channel = MachineChannel(Transport(_KEYS[1], _KEYS[0], _HASH), 0.0)
    now = 0.0
    try:
        for piece in Input(data).pieces():
            for event in channel.receive_data(machine.seal(piece), now):
                if isinstance(event, Request):
                    _answer(channel, event.stream_id, now)
            channel.data_to_send()
            now += 1.0
            channel.handle_timeout(now)
    except ChannelClosed:
        channel.data_to_send()


def _answer(channel: MachineChannel, stream_id: int, now: float) -> None:
    try:
        channel.respond(stream_id, 200, [("content-type", "text/plain")])
        channel.send(stream_id, bytes(min(100, channel.sendable(stream_id))))
        channel.finish(stream_id, now)
    except StreamGone:
        pass


def _channel_seeds() -> Sequence[bytes]:
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    client.initiate_connection()
    headers = [(":method", "POST"), (":scheme", "https"), (":authority", "x"), (":path", "/machine/map")]
    client.send_headers(1, headers)
    client.send_data(1, b"{}", end_stream=True)
    client.ping(bytes(8))
    client.send_headers(3, headers, end_stream=True)
    client.reset_stream(3)
    return [_whole(client.data_to_send())]


class _Pieces:
    """A byte stream with an end."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = iter(pieces)

    async def receive(self) -> bytes:
        await asyncio.sleep(0)
        return next((piece for piece in self._pieces if piece), b"")

    async def send(self, data: bytes) -> None: ...

    async def close(self) -> None: ...


async def _ask(pieces: list[bytes]) -> None:
    client = Http2Client(_Pieces(pieces), "x")
    try:
        await client.start()
        response = await client.request("POST", "/machine/map", b"{}")
        await response.read(1 << 20)
    except ConnectionLost:
        pass
    finally:
        await client.close()


def _http2_client(data: bytes) -> None:
    """What a coordinator sends, and then it is gone: so nobody waits for more."""
    with asyncio.Runner() as runner:
        runner.run(asyncio.wait_for(_ask(Input(data).pieces()), 30))


def _http2_client_seeds() -> Sequence[bytes]:
    server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    server.initiate_connection()
    server.receive_data(_channel_seeds()[0][1:])
    server.send_headers(1, [(":status", "200"), ("x", "y")])
    server.send_data(1, b"answer", end_stream=True)
    server.ping(bytes(8))
    return [_whole(server.data_to_send())]


# --- DERP ---


def _login_seeds() -> Sequence[bytes]:
    client = login.seal_client_info(login.ClientInfo(), _CLIENT, _SERVER.public, bytes_of_one)
    server = login.seal_server_info(login.ServerInfo(2), _SERVER, _CLIENT.public, bytes_of_one)
    large = b'{"version": ' + b"9" * 5000 + b', "meshKey": "zz"}'
    return [client, server, b'{"version": 2, "CanAckPings": true, "meshKey": "' + b"0" * 64 + b'"}', large]


def _logins(data: bytes) -> None:
    """As it is, and sealed by the key that it should be from."""
    sealed = Box(_CLIENT, _SERVER.public).seal(data, bytes(NONCE_SIZE))
    for client_info in (data, _CLIENT.public.raw + sealed):
        try:
            login.open_client_info_untrusted(client_info, _SERVER)
        except FrameError:
            pass
    for server_info in (data, sealed):
        try:
            login.open_server_info_untrusted(server_info, _CLIENT, _SERVER.public)
        except FrameError:
            pass


def _client_frames() -> bytes:
    peer = _STRANGER.public
    return b"".join(
        (
            frames.recv_packet(peer.raw, b"packet"),
            frames.recv_packet(peer.raw, b"packet"),
            frames.peer_gone(peer.raw, frames.PeerGoneReason.NOT_HERE),
            frames.peer_present(frames.PeerPresent(peer, "192.0.2.1", 1)),
            frames.ping(bytes(8)),
            frames.pong(bytes(8)),
            frames.health("bad"),
            frames.restarting(1, 2),
            frames.KEEP_ALIVE,
            frames.encode(0xEE, b"of a later version"),
        )
    )


def _derp_client(data: bytes) -> None:
    """What a relay sends. The first byte: logged in already, or from the first frame on."""
    source = Input(data)
    core = ClientCore(_CLIENT, 0.0, entropy=bytes_of_one)
    now = 0.0
    try:
        if source.number() & 1:
            core.receive_data(frames.server_key(_SERVER.public), now)
            info = login.seal_server_info(login.ServerInfo(2), _SERVER, _CLIENT.public, bytes_of_one)
            core.receive_data(frames.encode(frames.FrameType.SERVER_INFO, info), now)
            core.set_writable(True)
        for piece in source.pieces():
            core.receive_data(piece, now)
            core.data_to_send()
            now += 1.0
    except FrameError:
        core.data_to_send()


def _derp_client_seeds() -> Sequence[bytes]:
    info = login.seal_server_info(login.ServerInfo(2), _SERVER, _CLIENT.public, bytes_of_one)
    hello = frames.server_key(_SERVER.public) + frames.encode(frames.FrameType.SERVER_INFO, info)
    return [b"\1" + _whole(_client_frames()), b"\0" + _whole(hello, _client_frames())]


def _derp_server(data: bytes) -> None:
    """What a client sends, while another is there. The first byte: what it is, if it has logged in."""
    source = Input(data)
    core = ServerCore(_SERVER, entropy=bytes_of_one, mesh_key=bytes(32))
    kind = source.number()
    other = core.connect(Arrival("192.0.2.1", 1), 0.0)
    other.receive_data(_hello(_STRANGER, is_mesh_peer=True), 0.0)
    session = core.connect(Arrival("192.0.2.2", 2), 0.0)
    now = 0.0
    try:
        if kind & 1:
            session.receive_data(_hello(_CLIENT, is_mesh_peer=bool(kind & 2)), now)
        for piece in source.pieces():
            session.receive_data(piece, now)
            now += 1.0
            for ready in core.take_ready():
                ready.take_output(now)
    except SessionClosed:
        session.close()
    other.receive_data(frames.send_packet(_CLIENT.public.raw, b"x"), now)
    other.close()
    core.take_closed()


def _hello(key: NodePrivate, *, is_mesh_peer: bool) -> bytes:
    info = login.ClientInfo(mesh_key=bytes(32) if is_mesh_peer else None, can_ack_pings=True)
    sealed = login.seal_client_info(info, key, _SERVER.public, bytes_of_one)
    return frames.encode(frames.FrameType.CLIENT_INFO, sealed)


def _derp_server_seeds() -> Sequence[bytes]:
    peer = _STRANGER.public.raw
    said = b"".join(
        (
            frames.send_packet(peer, b"packet"),
            frames.note_preferred(True),
            frames.ping(bytes(8)),
            frames.pong(bytes(8)),
            frames.WATCH_CONNS,
            frames.forward_packet(_CLIENT.public.raw, peer, b"packet"),
            frames.close_peer(peer),
        )
    )
    return [
        b"\1" + _whole(said),
        b"\3" + _whole(said),
        b"\0" + _whole(_hello(_CLIENT, is_mesh_peer=False), said),
    ]


def _carriers(data: bytes) -> None:
    """What a relay answers to the request for an upgrade, and what comes through it."""
    pieces = Input(data).pieces()
    node = RelayNode("relay.example")
    for stream in (PlainStream(node, "", fast_start=False), WebSocketStream(node, "")):
        try:
            stream.data_to_send(b"")
            for piece in pieces:
                stream.receive_data(piece)
                stream.data_to_send(b"x")
        except (CannotConnect, FrameError):
            pass


def _carrier_seeds() -> Sequence[bytes]:
    upgraded = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\nrest"
    accept = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x"
    return [
        _whole(upgraded),
        _whole(b"HTTP/1.1 101 X\r\n", accept, b"\r\n\r\n\x82\x01x"),
        _whole(b"HTTP/1.1 403 No\r\n\r\n"),
    ]


TARGETS = [
    parser("noise_initiation", _initiation, _initiation_seeds, NoiseError),
    parser("noise_response", _response, _response_seeds, NoiseError),
    parser("noise_records", _records, _record_seeds, NoiseError),
    parser("early_payload", _early, _early_seeds, MalformedMessage),
    parser("map_stream", _map_stream, _map_stream_seeds, MalformedMessage),
    Target("machine_channel", _channel, _channel_seeds),
    Target("http2_client", _http2_client, _http2_client_seeds),
    Target("derp_logins", _logins, _login_seeds),
    Target("derp_client", _derp_client, _derp_client_seeds),
    Target("derp_server", _derp_server, _derp_server_seeds),
    Target("derp_carriers", _carriers, _carrier_seeds),
]
