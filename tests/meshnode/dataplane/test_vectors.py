"""tests/vectors/wireguard.json: padding, replay, checksums, transport data, segmentation and coalescing.

The offload vectors equal, byte for byte, what Linux 6.18 made of the same superpackets.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from meshnode.dataplane.replay import COUNTER_LIMIT, REPLAY_WINDOW
from tests.meshnode.dataplane.kernels import Kernel
from tests.meshnode.dataplane.packets import Pair, parse

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "wireguard.json").read_text())


def described(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", VECTORS[name], ids=lambda vector: vector["description"])


def read_of(vector: dict[str, Any]) -> bytes:
    """The TUN read of a segmentation vector: offload header and packet."""
    return bytes.fromhex(vector["virtio_net_hdr"] + vector["packet"])


def unhex(strings: list[str]) -> list[bytes]:
    return [bytes.fromhex(string) for string in strings]


@pytest.mark.parametrize("vector", VECTORS["padding"], ids=lambda v: f"{v['packet']}-mtu-{v['mtu']}")
def test_padding(kernel: Kernel, vector: dict[str, int]) -> None:
    assert kernel.padding(vector["packet"], vector["mtu"]) == vector["padding"]


@pytest.mark.parametrize("sequence", VECTORS["replay"]["sequences"])
def test_replay(kernel: Kernel, sequence: list[tuple[int | str, bool]]) -> None:
    window = kernel.ReplayWindow()
    assert [window.accept(int(counter)) for counter, _ in sequence] == [accepted for _, accepted in sequence]


def test_replay_constants() -> None:
    assert VECTORS["replay"]["window"] == REPLAY_WINDOW
    assert int(VECTORS["replay"]["limit"]) == COUNTER_LIMIT


@pytest.mark.parametrize("vector", VECTORS["checksum"], ids=lambda vector: vector["data"][:20] or "empty")
def test_checksum(kernel: Kernel, vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["data"])
    assert kernel.ones_complement_sum(data) == vector["ones_complement_sum"]
    assert kernel.internet_checksum(data) == vector["internet_checksum"]


@described("transport")
def test_seal_packet(kernel: Kernel, vector: dict[str, Any]) -> None:
    session = kernel.Session(bytes.fromhex(vector["key"]), bytes(32), 1, vector["receiver_index"])
    session.send_counter = vector["counter"]
    datagram = kernel.seal_packet(session, bytes.fromhex(vector["plaintext"]), vector["mtu"])
    assert datagram.hex() == vector["datagram"]
    assert session.send_counter == vector["counter"] + 1


@described("transport")
def test_open(kernel: Kernel, vector: dict[str, Any]) -> None:
    pair = Pair(kernel)
    session = kernel.Session(bytes(32), bytes.fromhex(vector["key"]), vector["receiver_index"], 1)
    pair.sessions = kernel.SessionTable()
    pair.sessions.set(vector["receiver_index"], session, 1)
    datagram = bytes.fromhex(vector["datagram"])
    units, opened = pair.open(datagram, len(datagram))
    plaintext = vector["plaintext"]
    assert [unit.hex() for unit in units] == (["00" * 10 + plaintext] if plaintext else [])
    (activity,) = opened.activity
    assert activity[2:] == (1, bool(plaintext), len(datagram), 0)
    assert not opened.drops


@described("segmentation")
def test_segmentation(kernel: Kernel, vector: dict[str, Any]) -> None:
    assert [segment.hex() for segment in kernel.segments(read_of(vector))] == vector["segments"]


@described("coalescing")
def test_coalescing(kernel: Kernel, vector: dict[str, Any]) -> None:
    (unit,) = kernel.coalesce(unhex(vector["segments"]))
    assert unit == read_of(vector)


@described("coalescing")
def test_coalescing_in_reverse(kernel: Kernel, vector: dict[str, Any]) -> None:
    """A TCP segment goes before the one it precedes; datagrams keep the order in which they came."""
    segments = unhex(vector["segments"])[1::-1]
    (unit,) = kernel.coalesce(segments)
    payloads = [parse(segment).payload for segment in kernel.segments(unit)]
    arrived = [parse(segment).payload for segment in segments]
    assert payloads == (arrived if vector["description"].startswith("UDP") else arrived[::-1])


def test_sealed_superpacket(kernel: Kernel) -> None:
    vector = VECTORS["sealed_superpacket"]
    session = kernel.Session(bytes.fromhex(vector["key"]), bytes(32), 1, vector["receiver_index"])
    session.send_counter = vector["first_counter"]
    out = bytearray(4096)
    read = read_of(VECTORS["segmentation"][0])
    (unit,) = kernel.seal_superpacket(session, memoryview(read), memoryview(out), vector["mtu"], 65493)
    datagrams = unhex(vector["datagrams"])
    assert unit == (0, sum(map(len, datagrams)), len(datagrams[0]))
    assert bytes(out[: unit.length]) == b"".join(datagrams)
    assert session.send_counter == vector["first_counter"] + len(datagrams)
