"""Sockets: batches over the loopback interface, and every failure that the kernel is known for."""

from __future__ import annotations

import errno
import socket
from collections import Counter
from collections.abc import Iterator

import pytest

from meshnode.dataplane import MAX_UNIT_IPV4, RECEIVE_BUFFER_SIZE, DropReason
from meshnode.engine import UdpOptions, UdpPortInUse, UdpSockets
from meshnode.engine import udp as udp_module
from meshnode.engine.udp_socket import MAX_BACKLOG_BYTES, SendState, UdpSocket
from meshproto.addresses import AddrPort
from tests.meshnode.engine.fakes import NO_ROUTE, FailingSocket
from tests.meshnode.engine.reading import receive_into

HERE = AddrPort("192.0.2.1", 9)
ALL_ON = UdpOptions()
BATCH = memoryview(bytes(range(250)))
STRIDE = 100
DATAGRAMS = [bytes(BATCH[0:100]), bytes(BATCH[100:200]), bytes(BATCH[200:250])]


@pytest.fixture
def pair() -> Iterator[tuple[UdpSockets, UdpSockets]]:
    ends = UdpSockets.open(), UdpSockets.open()
    yield ends
    for end in ends:
        end.close()


def receive(sock: UdpSocket) -> list[tuple[bytes, int]]:
    """(data, stride) of each receive."""
    buffer = bytearray(RECEIVE_BUFFER_SIZE)
    received = []
    while (datagrams := receive_into(sock, memoryview(buffer))) is not None:
        received.append((bytes(buffer[: datagrams.length]), datagrams.stride))
    return received


def split(received: list[tuple[bytes, int]]) -> list[bytes]:
    return [data[at : at + stride] for data, stride in received for at in range(0, len(data), stride)]


@pytest.mark.parametrize(("host", "index"), [("127.0.0.1", 0), ("::1", 1)])
def test_a_batch_arrives_as_one(pair: tuple[UdpSockets, UdpSockets], host: str, index: int) -> None:
    sender, receiver = pair
    data = memoryview(bytes(k % 251 for k in range(1312 * 40 + 200)))
    sender.send(data, 1312, AddrPort(host, receiver.local_port))
    received = receive(receiver.sockets[index])
    assert split(received) == [bytes(data[at : at + 1312]) for at in range(0, len(data), 1312)]
    assert not sender.drops
    if receiver.sockets[index].gro and sender.sockets[index].gso:
        assert received == [(bytes(data), 1312)]


@pytest.mark.parametrize("options", [UdpOptions(gso=False), UdpOptions(gro=False), UdpOptions(False, False)])
def test_switched_off(options: UdpOptions) -> None:
    sender, receiver = UdpSockets.open(options=options), UdpSockets.open(options=options)
    sender.send(BATCH, STRIDE, AddrPort("127.0.0.1", receiver.local_port))
    assert split(receive(receiver.sockets[0])) == DATAGRAMS
    assert [sock.gso for sock in sender.sockets] == [options.gso] * 2
    assert [sock.gro for sock in sender.sockets] == [options.gro] * 2
    sender.close()
    receiver.close()


def test_the_source_is_known(pair: tuple[UdpSockets, UdpSockets]) -> None:
    sender, receiver = pair
    for index, host in enumerate(("127.0.0.1", "::1")):
        sender.send(memoryview(b"x"), 1, AddrPort(host, receiver.local_port))
        datagrams = receive_into(receiver.sockets[index], memoryview(bytearray(RECEIVE_BUFFER_SIZE)))
        assert datagrams == (1, 1, AddrPort(host, sender.local_port))


def test_the_largest_datagram_is_received(pair: tuple[UdpSockets, UdpSockets]) -> None:
    sender, receiver = pair
    data = memoryview(bytes(65507))
    sender.send(data, len(data), AddrPort("127.0.0.1", receiver.local_port))
    assert receive(receiver.sockets[0]) == [(bytes(data), len(data))]


# --- opening ---


def test_both_families_share_the_port(pair: tuple[UdpSockets, UdpSockets]) -> None:
    assert [sock.family for sock in pair[0].sockets] == [socket.AF_INET, socket.AF_INET6]
    assert pair[0].local_port != pair[1].local_port


def test_a_port_that_is_taken(pair: tuple[UdpSockets, UdpSockets]) -> None:
    port = pair[0].local_port
    with pytest.raises(UdpPortInUse, match=f"UDP port {port} is in use"):
        UdpSockets.open(port)


def test_a_port_that_is_taken_over_ipv6_only(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as other:
        other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        other.bind(("", 0))
        port = other.getsockname()[1]
        udp = UdpSockets.open(port)
        assert [sock.family for sock in udp.sockets] == [socket.AF_INET]
        assert udp.local_port == port
        udp.close()
    assert "IPv4 only" in caplog.text


def test_a_random_port_that_is_taken_over_ipv6_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    bind = udp_module._bind
    refused: list[int] = []

    def bind_refusing_twice(family: int, port: int) -> socket.socket | None:
        if family == socket.AF_INET6 and len(refused) < 2:
            refused.append(port)
            raise UdpPortInUse("taken")
        return bind(family, port)

    monkeypatch.setattr(udp_module, "_bind", bind_refusing_twice)
    udp = UdpSockets.open()
    assert len(refused) == 2
    assert len(udp.sockets) == 2
    udp.close()


@pytest.mark.parametrize("missing", [socket.AF_INET, socket.AF_INET6])
def test_a_machine_without_one_family(missing: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bind = udp_module._bind
    monkeypatch.setattr(
        udp_module, "_bind", lambda family, port: None if family == missing else bind(family, port)
    )
    udp = UdpSockets.open()
    assert len(udp.sockets) == 1
    assert udp.local_port > 0
    udp.send(BATCH, STRIDE, AddrPort("192.0.2.1" if missing == socket.AF_INET else "2001:db8::1", 9))
    assert udp.drops == {DropReason.SEND_FAILED: 3}
    udp.close()


# --- failures ---


def failing(
    *failures: int | None, batch: tuple[int | None, ...] = (), options: UdpOptions = ALL_ON
) -> tuple[FailingSocket, UdpSocket, Counter[DropReason]]:
    fake = FailingSocket(failures, batch)
    state = SendState()
    return fake, UdpSocket(fake, options, state), state.drops  # type: ignore[arg-type]


def test_one_call_for_a_batch() -> None:
    fake, sock, _ = failing()
    sock.send(BATCH, STRIDE, HERE)
    assert fake.sent == [(bytes(BATCH), STRIDE, HERE)]


@pytest.mark.parametrize(
    ("failure", "batches_before_giving_up"), [(errno.EIO, 1), (errno.EINVAL, 3), (errno.EMSGSIZE, None)]
)
def test_a_batch_that_cannot_be_sent_leaves_singly(
    failure: int, batches_before_giving_up: int | None
) -> None:
    fake, sock, drops = failing(batch=(failure,) * 10)
    for count in range(1, 5):
        sock.send(BATCH, STRIDE, HERE)
        assert [data for data, _, _ in fake.sent] == DATAGRAMS * count
        assert sock.gso == (batches_before_giving_up is None or count < batches_before_giving_up)
    assert not drops


@pytest.mark.parametrize("failure", NO_ROUTE)
def test_what_cannot_be_sent_is_counted(failure: int) -> None:
    for gso in (True, False):
        fake, sock, drops = failing(failure, options=UdpOptions(gso=gso))
        sock.send(BATCH, STRIDE, HERE)
        assert drops == {DropReason.SEND_FAILED: 3}
        assert fake.calls - gso == 1
        sock.send(BATCH, STRIDE, HERE)
        assert b"".join(data for data, _, _ in fake.sent) == BATCH


def test_a_full_device_queue_is_counted_apart() -> None:
    _, sock, drops = failing(errno.ENOBUFS)
    sock.send(BATCH, STRIDE, HERE)
    assert drops == {DropReason.SEND_QUEUE_FULL: 3}


def test_one_datagram_that_is_too_large_costs_only_itself() -> None:
    fake, sock, drops = failing(None, errno.EMSGSIZE, options=UdpOptions(gso=False))
    sock.send(BATCH, STRIDE, HERE)
    assert [data for data, _, _ in fake.sent] == [DATAGRAMS[0], DATAGRAMS[2]]
    assert drops == {DropReason.SEND_FAILED: 1}


@pytest.mark.parametrize("gso", [True, False])
def test_an_old_icmp_message_is_no_failure(gso: bool) -> None:
    fake, sock, drops = failing(errno.ECONNREFUSED, options=UdpOptions(gso=gso))
    sock.send(BATCH, STRIDE, HERE)
    assert b"".join(data for data, _, _ in fake.sent) == BATCH
    assert not drops


@pytest.mark.parametrize("gso", [True, False])
def test_a_full_socket_keeps_what_is_left_in_order(gso: bool) -> None:
    failures = (errno.EAGAIN,) if gso else (None, errno.EAGAIN)
    fake, sock, drops = failing(*failures, options=UdpOptions(gso=gso))
    sock.send(BATCH, STRIDE, HERE)
    assert sock.is_blocked
    sock.send(memoryview(b"later"), 5, HERE)
    fake.failures = [errno.EAGAIN]
    blocked = []
    for _ in range(2):
        sock.flush()
        blocked.append(sock.is_blocked)
    assert blocked == [True, False]
    assert b"".join(data for data, _, _ in fake.sent) == bytes(BATCH) + b"later"
    assert not drops


def test_the_backlog_is_bounded() -> None:
    fake, sock, drops = failing(errno.EAGAIN)
    unit = memoryview(bytes(60000))
    for _ in range(20):
        sock.send(unit, 1200, HERE)
    kept = MAX_BACKLOG_BYTES // len(unit)
    assert drops == {DropReason.SEND_QUEUE_FULL: (20 - kept) * 50}
    sock.flush()
    assert len(fake.sent) == kept
    sock.send(unit, 1200, HERE)
    assert len(fake.sent) == kept + 1


def test_no_batch_of_equal_datagrams_where_that_is_asked_for() -> None:
    """Linux 7.0 and some devices: reference §6.9."""
    fake, sock, _ = failing(options=UdpOptions(avoid_equal_tail=True))
    equal, unequal, few = bytes(1000), bytes(950), bytes(300)
    for data in (equal, unequal, few):
        sock.send(memoryview(data), 100, HERE)
    assert fake.sent == [
        (equal + b"\x07", 100, HERE),
        (unequal, 100, HERE),
        *[(bytes(100), 100, HERE)] * 3,
    ]


def test_units_of_the_contract_fit_one_send(pair: tuple[UdpSockets, UdpSockets]) -> None:
    sender, receiver = pair
    data = memoryview(bytes(1280 * (MAX_UNIT_IPV4 // 1280)))
    sender.send(data, 1280, AddrPort("127.0.0.1", receiver.local_port))
    assert sum(len(one) for one, _ in receive(receiver.sockets[0])) == len(data)
    assert not sender.drops
