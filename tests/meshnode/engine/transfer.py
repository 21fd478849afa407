"""Send the same random bytes every time, or receive and compare.

`transfer send|receive <address> <size>` over TCP; `send-batches|receive-batches` over UDP, in batches that
the kernel keeps whole down to the tunnel (USO).
"""

from __future__ import annotations

import random
import socket
import sys
import time

from meshnode.engine import UdpSockets
from meshproto.addresses import AddrPort

PORT = 7007
DATAGRAM = 1000
BATCH = 20


def content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def send(address: str, size: int) -> None:
    """Connect and send; returns when the other side has read everything."""
    with socket.create_connection((address, PORT), timeout=30) as stream:
        stream.sendall(content(size))
        stream.shutdown(socket.SHUT_WR)
        stream.recv(1)


def receive(address: str, size: int) -> None:
    """Accept one connection and exit with an error unless exactly the right bytes come."""
    with socket.create_server((address, PORT), family=family_of(address)) as server:
        print("listening", flush=True)
        stream, _ = server.accept()
        with stream:
            stream.settimeout(30)
            compare(b"".join(iter(lambda: stream.recv(1 << 20), b"")), size)


def send_batches(address: str, size: int) -> None:
    """Slowly, since nothing is repeated."""
    data, udp = memoryview(content(size)), UdpSockets.open()
    for start in range(0, size, BATCH * DATAGRAM):
        udp.send(data[start : start + BATCH * DATAGRAM], DATAGRAM, AddrPort(address, PORT))
        time.sleep(0.01)
    assert not udp.drops


def receive_batches(address: str, size: int) -> None:
    """Exit with an error unless the right datagrams come in the right order."""
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as sock:
        sock.bind((address, PORT))
        sock.settimeout(10)
        print("listening", flush=True)
        compare(b"".join(sock.recv(2 * DATAGRAM) for _ in range(0, size, DATAGRAM)), size)


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def compare(received: bytes, size: int) -> None:
    if received != content(size):
        sys.exit(f"{len(received)} bytes came, and not the right ones")


ACTIONS = {"send": send, "receive": receive, "send-batches": send_batches, "receive-batches": receive_batches}

if __name__ == "__main__":
    ACTIONS[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
