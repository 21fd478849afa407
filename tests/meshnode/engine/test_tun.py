"""The tunnel device: what it gives and takes, and what it refuses."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from meshnode.dataplane import Coalescing
from meshnode.dataplane.virtio import GSO_UDP_L4
from meshnode.engine import Tun, UdpSockets
from meshnode.engine.tun import MAX_REFUSED
from meshnode.linux import tun_device
from meshnode.linux.tun_device import TunError, limit_segments, open_tun
from meshproto.addresses import AddrPort
from tests.lacking import lacking
from tests.meshnode.dataplane.kernels import PURE, cut
from tests.meshnode.dataplane.packets import parse, tcp_packet, udp_packet
from tests.meshnode.dataplane.test_coalescing import stream
from tests.meshnode.engine.fakes import FakeTunDevice
from tests.meshnode.engine.reading import read_into

BUFFER = memoryview(bytearray(70000))
PACKET = bytes(10) + udp_packet(b"hello")


@pytest.fixture
def fake() -> Iterator[FakeTunDevice]:
    device = FakeTunDevice()
    yield device
    device.close()


def test_read_and_write(fake: FakeTunDevice) -> None:
    tun = Tun(fake.device)
    assert read_into(tun, BUFFER) == 0
    fake.give(PACKET)
    assert bytes(BUFFER[: read_into(tun, BUFFER)]) == PACKET
    assert tun.write(memoryview(PACKET)) == 0
    assert fake.written() == [PACKET]


def test_what_may_be_merged() -> None:
    device, without_uso = FakeTunDevice(), FakeTunDevice(udp_offload=False)
    assert Tun(device.device).coalescing == Coalescing.TCP | Coalescing.UDP
    assert Tun(without_uso.device).coalescing == Coalescing.TCP
    assert Tun(device.device, coalesce_udp=False).coalescing == Coalescing.TCP
    assert Tun(device.device, coalesce_tcp=False).coalescing == Coalescing.UDP
    device.close()
    without_uso.close()


@pytest.mark.parametrize("failure", [errno.EIO, errno.EAGAIN, errno.EINVAL, errno.ENOBUFS])
def test_a_failed_write_is_a_lost_packet(
    fake: FakeTunDevice, failure: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int, data: Any) -> int:
        raise OSError(failure, os.strerror(failure))

    tun = Tun(fake.device)
    monkeypatch.setattr(os, "write", fail)
    assert tun.write(memoryview(PACKET)) == 1


def test_a_refused_merge_is_written_packet_by_packet(
    fake: FakeTunDevice, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Linux 6.6.44 and 6.10.3 refuse merged packets with a short tail (reference §5.10)."""

    def refuse(fd: int, data: Any) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    inner = stream(100, 100, 40)
    (unit,) = PURE.coalesce(inner)
    tun = Tun(fake.device)
    monkeypatch.setattr(os, "write", refuse)
    for count in range(1, MAX_REFUSED + 1):
        assert tun.write(memoryview(unit)) == 0
        assert (Coalescing.TCP in tun.coalescing) == (count < MAX_REFUSED)
    assert fake.written() == [bytes(10) + packet for packet in inner] * MAX_REFUSED
    assert tun.coalescing == Coalescing.UDP
    assert "one by one" in caplog.text


# --- opening ---


def opening_fails(monkeypatch: pytest.MonkeyPatch, failure: int) -> None:
    def fail(path: str, flags: int) -> int:
        raise OSError(failure, os.strerror(failure))

    monkeypatch.setattr(tun_device.os, "open", fail)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (errno.ENOENT, "/dev/net/tun is missing: `modprobe tun`"),
        (errno.EACCES, "no permission to open /dev/net/tun: run as root"),
        (errno.ENODEV, "no TUN driver"),
        (errno.EMFILE, "Too many open files"),
    ],
)
def test_no_clone_device(failure: int, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opening_fails(monkeypatch, failure)
    with pytest.raises(TunError, match=message):
        open_tun("mesh0")


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (errno.EPERM, "no permission to create the interface mesh0: run as root"),
        (errno.EBUSY, "mesh0 is in use by another program"),
        (errno.EINVAL, "choose another name"),
        (errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_no_interface(failure: int, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int, request: int, argument: Any) -> bytes:
        raise OSError(failure, os.strerror(failure))

    monkeypatch.setattr(tun_device, "TUN_PATH", "/dev/null")
    monkeypatch.setattr(tun_device.fcntl, "ioctl", fail)  # type: ignore[attr-defined]
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with pytest.raises(TunError, match=message):
        open_tun("mesh0")
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@pytest.mark.parametrize("name", ["", "a b", "a/b", "x" * 16, "..", "a:1"])
def test_names_that_no_interface_has(name: str) -> None:
    with pytest.raises(TunError, match="cannot be an interface name"):
        open_tun(name)


@pytest.mark.parametrize(
    ("known", "wanted", "accepted"),
    [
        (0x7F, (True, True), [0x6F]),
        (0x67, (True, True), [0x67]),
        (0x0F, (True, True), [0x0F]),  # before Linux 6.2
        (0x07, (True, True), [0x07]),
        (0x01, (True, True), [0x01]),
        (0x00, (True, True), [0x00]),
        (0x7F, (False, True), [0x61]),
        (0x7F, (True, False), [0x0F]),
        (0x7F, (False, False), [0x01]),
    ],
)
def test_offloads_fall_back(
    known: int, wanted: tuple[bool, bool], accepted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []

    def kernel(fd: int, request: int, argument: Any) -> bytes:
        if request == tun_device._TUNSETIFF:
            return bytes(argument)
        if argument & ~known:
            raise OSError(errno.EINVAL, "Invalid argument")
        taken.append(argument)
        return b""

    monkeypatch.setattr(tun_device, "TUN_PATH", "/dev/null")
    monkeypatch.setattr(tun_device.fcntl, "ioctl", kernel)  # type: ignore[attr-defined]
    device = open_tun("mesh0", tcp_offload=wanted[0], udp_offload=wanted[1])
    device.close()
    device.close()
    assert taken == accepted
    assert device.name == "mesh0"
    assert device.tcp_offload == bool(accepted[0] & 0x06)
    assert device.udp_offload == bool(accepted[0] & 0x60)


def test_segments_of_an_interface_that_is_not_there() -> None:
    assert not limit_segments("nosuch0", 40)


# --- the real one ---


@pytest.fixture
def tunnel() -> Iterator[Tun]:
    """An interface of this namespace with an address, up; it goes with its file descriptor."""
    tun = Tun(open_tun("enginetest%d"))
    for words in (f"link set {tun.name} up", f"addr add 10.255.77.1/24 dev {tun.name}"):
        subprocess.run(["ip", *words.split()], check=True, timeout=10)
    yield tun
    tun.close()


@pytest.mark.system
def test_the_kernel_takes_merged_packets_and_gives_their_payload(tunnel: Tun) -> None:
    """UDP, because a socket shows every datagram; the kernel cuts what we merged."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("10.255.77.1", 0))
        server.settimeout(5)
        port = server.getsockname()[1]
        payloads = [bytes([k]) * 100 for k in range(20)] + [b"tail"]
        addresses = (bytes([10, 255, 77, 2]), bytes([10, 255, 77, 1]))
        inner = [udp_packet(payload, addresses=addresses, ports=(7, port)) for payload in payloads]
        (unit,) = PURE.coalesce(inner)
        assert tunnel.write(memoryview(unit)) == 0
        assert [server.recv(2000) for _ in payloads] == payloads


@pytest.mark.system
@pytest.mark.parametrize("sizes", [(100, 100), (100, 100, 40), (1400,) * 46, (1, 1, 1)])
def test_the_kernel_takes_merged_tcp(tunnel: Tun, sizes: tuple[int, ...]) -> None:
    """To a port that nobody listens on: the kernel answers what it accepted with a reset."""
    addresses = (bytes([10, 255, 77, 2]), bytes([10, 255, 77, 1]))
    sequence, inner = 1000, []
    for size in sizes:
        inner.append(tcp_packet(bytes(size), addresses=addresses, ports=(7, 9), sequence=sequence))
        sequence += size
    (unit,) = PURE.coalesce(inner)
    assert tunnel.write(memoryview(unit)) == 0
    resets = []
    for _ in range(50):
        length = read_into(tunnel, BUFFER)
        if length and BUFFER[19] == 6:
            resets.append(bytes(BUFFER[10:length]))
        if resets:
            break
        os.sched_yield()
    assert resets
    assert resets[0][33] & 0x04


@pytest.mark.system
def test_the_kernel_gives_superpackets_that_are_cut_right(tunnel: Tun) -> None:
    """A batch of datagrams to the other side of the interface arrives in one read."""
    if not tunnel.coalescing & Coalescing.UDP:
        lacking("the kernel has no USO")
    data = bytes(k % 251 for k in range(20 * 1000 + 7))
    udp = UdpSockets.open()
    udp.send(memoryview(data), 1000, AddrPort("10.255.77.2", 9))
    while not (length := read_into(tunnel, BUFFER)) or BUFFER[10] >> 4 != 4:
        os.sched_yield()
    udp.close()
    assert BUFFER[1] == GSO_UDP_L4
    parsed = [parse(packet) for packet in cut(bytes(BUFFER[:length]))]
    assert [len(one.payload) for one in parsed] == [1000] * 20 + [7]
    assert b"".join(one.payload for one in parsed) == data


@pytest.mark.system
def test_a_name_that_is_in_use(tunnel: Tun) -> None:
    with pytest.raises(TunError, match="in use by another program"):
        open_tun(tunnel.name)
    with pytest.raises(TunError, match="choose another name"):
        open_tun("lo")


@pytest.mark.system
def test_a_write_to_an_interface_that_is_down_is_a_lost_packet() -> None:
    tun = Tun(open_tun("enginetest%d"))
    assert tun.write(memoryview(PACKET)) == 1
    assert limit_segments(tun.name, 49)
    tun.close()
