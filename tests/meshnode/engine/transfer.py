"""Send the same random bytes every time, or receive and compare: `transfer send|receive <address> <size>`."""

from __future__ import annotations

import random
import socket
import sys

PORT = 7007


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
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, PORT), family=family) as server:
        print("listening", flush=True)
        stream, _ = server.accept()
        with stream:
            stream.settimeout(30)
            received = b"".join(iter(lambda: stream.recv(1 << 20), b""))
    if received != content(size):
        sys.exit(f"{len(received)} bytes came, and not the right ones")


if __name__ == "__main__":
    {"send": send, "receive": receive}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
