"""Send the same random bytes every time, or receive and compare.

`transfer send|receive <address> <size>` over TCP; `send-batches|receive-batches` over UDP, in batches that
the kernel keeps whole down to the tunnel (USO).
"""

from __future__ import annotations

import random
import socket
import sys

from meshnode.engine import UdpSockets
from meshproto.addresses import AddrPort

PORT = 7007
ARRIVALS_PORT = 7008
DATAGRAM = 1000
BATCH = 20
PATIENCE_S = 60.0


def content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def send(address: str, size: int) -> None:
    """Connect and send; returns when the other side has read everything."""
    with socket.create_connection((address, PORT), timeout=PATIENCE_S) as stream:
        stream.sendall(content(size))
        stream.shutdown(socket.SHUT_WR)
        stream.recv(1)


def receive(address: str, size: int) -> None:
    """Accept one connection and exit with an error unless exactly the right bytes come."""
    with socket.create_server((address, PORT), family=family_of(address)) as server:
        print("listening", flush=True)
        stream, _ = server.accept()
        with stream:
            stream.settimeout(PATIENCE_S)
            compare(b"".join(iter(lambda: stream.recv(1 << 20), b"")), size)


def send_batches(address: str, size: int) -> None:
    """Each batch when the one before has arrived, since nothing is repeated and the receiver may be slow."""
    data, udp = memoryview(content(size)), UdpSockets.open()
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as arrivals:
        arrivals.bind(("", ARRIVALS_PORT))
        arrivals.settimeout(PATIENCE_S)
        for start in range(0, size, BATCH * DATAGRAM):
            udp.send(data[start : start + BATCH * DATAGRAM], DATAGRAM, AddrPort(address, PORT))
            arrivals.recv(1)
    assert not udp.drops


def receive_batches(address: str, size: int) -> None:
    """Exit with an error unless the right datagrams come in the right order."""
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as sock:
        sock.bind((address, PORT))
        sock.settimeout(PATIENCE_S)
        print("listening", flush=True)
        compare(
            b"".join(
                receive_batch(sock, min(BATCH * DATAGRAM, size - start))
                for start in range(0, size, BATCH * DATAGRAM)
            ),
            size,
        )


def receive_batch(sock: socket.socket, size: int) -> bytes:
    """The datagrams of one batch of `size` bytes; its sender is told."""
    received = b""
    while len(received) < size:
        datagram, source = sock.recvfrom(2 * DATAGRAM)
        received += datagram
    sock.sendto(b"", (source[0], ARRIVALS_PORT))
    return received


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def compare(received: bytes, size: int) -> None:
    if received != content(size):
        sys.exit(f"{len(received)} bytes came, and not the right ones")


ACTIONS = {"send": send, "receive": receive, "send-batches": send_batches, "receive-batches": receive_batches}

if __name__ == "__main__":
    ACTIONS[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
