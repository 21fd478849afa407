"""Every frame as bytes written down, and the reader under every way of feeding it."""

from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derp import frames
from derp.frame_reader import FrameReader, Packets
from derp.frames import (
    Frame,
    FrameError,
    FrameType,
    PeerGoneReason,
    PeerPresent,
    PresenceFlag,
)
from meshproto.keys import NodePublic
from tests.meshproto.feeding import Feeding, every_feeding

KEY = bytes(range(0x20, 0x40))
OTHER = bytes(range(0x40, 0x60))
KEY_HEX = "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f"
OTHER_HEX = "404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f"

ENCODED = {
    "ServerKey": (frames.server_key(NodePublic(KEY)), "01 00000028 44455250f09f9491" + KEY_HEX),
    "ClientInfo": (frames.encode(FrameType.CLIENT_INFO, KEY + b"box"), "02 00000023" + KEY_HEX + "626f78"),
    "ServerInfo": (frames.encode(FrameType.SERVER_INFO, b"box"), "03 00000003 626f78"),
    "SendPacket": (frames.send_packet(KEY, b"\xaa\xbb"), "04 00000022" + KEY_HEX + "aabb"),
    "RecvPacket": (frames.recv_packet(KEY, b"\xaa\xbb"), "05 00000022" + KEY_HEX + "aabb"),
    "RecvPacket, empty": (frames.recv_packet(KEY, b""), "05 00000020" + KEY_HEX),
    "KeepAlive": (frames.KEEP_ALIVE, "06 00000000"),
    "NotePreferred, home": (frames.note_preferred(True), "07 00000001 01"),
    "NotePreferred, not home": (frames.note_preferred(False), "07 00000001 00"),
    "PeerGone": (frames.peer_gone(KEY, PeerGoneReason.DISCONNECTED), "08 00000021" + KEY_HEX + "00"),
    "PeerGone, not here": (frames.peer_gone(KEY, PeerGoneReason.NOT_HERE), "08 00000021" + KEY_HEX + "01"),
    "PeerPresent": (
        frames.peer_present(PeerPresent(NodePublic(KEY), "192.0.2.1", 41641, PresenceFlag.REGULAR)),
        "09 00000033" + KEY_HEX + "00000000000000000000ffffc0000201 a2a9 01",
    ),
    "PeerPresent, IPv6": (
        frames.peer_present(
            PeerPresent(NodePublic(KEY), "2001:db8::1", 1, PresenceFlag.MESH_PEER | PresenceFlag.NOT_IDEAL)
        ),
        "09 00000033" + KEY_HEX + "20010db8000000000000000000000001 0001 0a",
    ),
    "PeerPresent, no address": (
        frames.peer_present(PeerPresent(NodePublic(KEY))),
        "09 00000033" + KEY_HEX + "00" * 19,
    ),
    "ForwardPacket": (
        frames.forward_packet(KEY, OTHER, b"\xaa"),
        "0a 00000041" + KEY_HEX + OTHER_HEX + "aa",
    ),
    "WatchConns": (frames.WATCH_CONNS, "10 00000000"),
    "ClosePeer": (frames.close_peer(KEY), "11 00000020" + KEY_HEX),
    "Ping": (frames.ping(bytes(range(8))), "12 00000008 0001020304050607"),
    "Pong": (frames.pong(bytes(range(8))), "13 00000008 0001020304050607"),
    "Health": (frames.health("duplicate"), "14 00000009 6475706c6963617465"),
    "Health, well again": (frames.health(""), "14 00000000"),
    "Restarting": (frames.restarting(1500, 60_000), "15 00000008 000005dc 0000ea60"),
}


@pytest.mark.parametrize("name", ENCODED)
def test_encoded_as_written_down(name: str) -> None:
    encoded, expected = ENCODED[name]
    assert encoded.hex() == expected.replace(" ", "")


@pytest.mark.parametrize("kind", FrameType)
def test_every_type_is_written_down(kind: FrameType) -> None:
    assert any(encoded[0] == kind for encoded, _ in ENCODED.values())


def reader() -> FrameReader:
    return FrameReader({int(kind): 1000 for kind in FrameType})


ALL = b"".join(encoded for encoded, _ in ENCODED.values())
ALL_FRAMES = [(encoded[0], encoded[5:]) for encoded, _ in ENCODED.values()]


@every_feeding
def test_reader_cuts_every_frame(feed: Feeding) -> None:
    cutter = reader()
    assert [frame for piece in feed(ALL) for frame in cutter.receive_data(piece)] == ALL_FRAMES


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_beginning_of_a_frame_is_kept(cut: int) -> None:
    cutter = reader()
    packet = frames.recv_packet(KEY, b"packet" * 5)
    assert cutter.receive_data(frames.KEEP_ALIVE + packet[:cut]) == [(FrameType.KEEP_ALIVE, b"")]
    assert cutter.receive_data(packet[cut:] + frames.KEEP_ALIVE[:3]) == [(FrameType.RECV_PACKET, packet[5:])]
    assert cutter.receive_data(frames.KEEP_ALIVE[3:]) == [(FrameType.KEEP_ALIVE, b"")]


@every_feeding
@pytest.mark.parametrize("size", [0, 1, 5, 6, 3000])
def test_unknown_frames_are_skipped_and_not_kept(feed: Feeding, size: int) -> None:
    cutter = reader()
    stream = frames.encode(0x77, b"\x05" * size) + frames.KEEP_ALIVE
    received = [frame for piece in feed(stream + stream) for frame in cutter.receive_data(piece)]
    assert received == [(FrameType.KEEP_ALIVE, b"")] * 2
    assert cutter.skipped == 2


def test_huge_unknown_frame_costs_no_memory() -> None:
    cutter = reader()
    cutter.receive_data(bytes.fromhex("77ffffffff"))
    for _ in range(100):
        assert cutter.receive_data(bytes(10_000)) == []
    assert len(cutter._rest) == 0


def test_limit_of_a_type_is_exact() -> None:
    limits = {int(FrameType.PING): 8}
    ping = frames.ping(bytes(8))
    assert FrameReader(limits).receive_data(ping) == [(FrameType.PING, bytes(8))]
    with pytest.raises(FrameError, match="0x12 with 9 bytes"):
        FrameReader(limits).receive_data(frames.encode(FrameType.PING, bytes(9))[:5])
    with pytest.raises(FrameError, match="0x77 with 101 bytes"):
        FrameReader(limits, max_skipped=100).receive_data(frames.encode(0x77, bytes(101))[:5])


pieces = st.lists(
    st.one_of(
        st.sampled_from([encoded for encoded, _ in ENCODED.values()]),
        st.builds(frames.encode, st.integers(0x16, 0xFF), st.binary(max_size=50)),
    ),
    max_size=12,
)


@given(pieces, st.data())
def test_any_frames_in_any_pieces(encoded: list[bytes], data: st.DataObject) -> None:
    expected = [(frame[0], frame[5:]) for frame in encoded if frame[0] in FrameType.__members__.values()]
    cutter = reader()
    received: list[Frame | Packets] = []
    stream = b"".join(encoded)
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        received += cutter.receive_data(stream[:cut])
        stream = stream[cut:]
    assert received == expected


@given(st.lists(st.binary(max_size=100), max_size=10))
def test_any_bytes(stream: list[bytes]) -> None:
    whole, cut = reader(), reader()
    with contextlib.suppress(FrameError):
        expected = whole.receive_data(b"".join(stream))
        assert [frame for piece in stream for frame in cut.receive_data(piece)] == expected


def test_frame_in_tiny_pieces_is_not_copied_again_and_again() -> None:
    """Or a stranger who sends bytes one by one would make us copy megabytes for each."""
    cutter = FrameReader({4: 100_000})
    frame = frames.encode(4, random.Random(0).randbytes(100_000))
    for index in range(len(frame) - 1):
        assert cutter.receive_data(frame[index : index + 1]) == []
    assert cutter.receive_data(frame[-1:]) == [(4, frame[5:])]


class TestParsing:
    def test_server_key(self) -> None:
        payload = frames.server_key(NodePublic(KEY))[5:]
        assert frames.parse_server_key_untrusted(payload + b"later") == NodePublic(KEY)
        for wrong in (b"", payload[:-1], b"D" + payload, payload.replace(b"DERP", b"DERp")):
            with pytest.raises(FrameError, match="not a DERP server"):
                frames.parse_server_key_untrusted(wrong)

    @pytest.mark.parametrize(("payload", "reason"), [(KEY, 0), (KEY + b"\1", 1), (KEY + b"\xf0later", 0xF0)])
    def test_peer_gone(self, payload: bytes, reason: int) -> None:
        assert frames.parse_peer_gone_untrusted(payload) == (NodePublic(KEY), reason)

    @pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
    def test_peer_present_grew_over_time(self, host: str) -> None:
        """32 bytes once, then 50, then 51; more may come."""
        key = NodePublic(KEY)
        payload = frames.peer_present(PeerPresent(key, host, 7, PresenceFlag.PROBER))[5:]
        assert frames.parse_peer_present_untrusted(payload[:32]) == PeerPresent(key)
        assert frames.parse_peer_present_untrusted(payload[:41]) == PeerPresent(key)
        assert frames.parse_peer_present_untrusted(payload[:50]) == PeerPresent(key, host, 7)
        for newest in (payload, payload + b"later"):
            parsed = frames.parse_peer_present_untrusted(newest)
            assert parsed == PeerPresent(key, host, 7, PresenceFlag.PROBER)

    def test_restarting(self) -> None:
        payload = frames.restarting(1500, 60_000)[5:]
        assert frames.parse_restarting_untrusted(payload + b"later") == (1.5, 60.0)

    @pytest.mark.parametrize(
        "parse",
        [
            frames.parse_peer_gone_untrusted,
            frames.parse_peer_present_untrusted,
            frames.parse_restarting_untrusted,
        ],
    )
    def test_too_short(self, parse: object) -> None:
        assert callable(parse)
        for payload in (b"", b"1234567"):
            with pytest.raises(FrameError):
                parse(payload)

    def test_disco(self) -> None:
        assert frames.is_disco("TS💬".encode() + bytes(56))
        assert not frames.is_disco("TS💬".encode() + bytes(55))
        assert not frames.is_disco(bytes(100))
