"""A flood of bogus handshake initiations: random, but with the mac1 that only who knows the key can make.

That is the worst that a stranger can send: it passes the cheap check. `python -m bench.flood --help`.
"""

from __future__ import annotations

import argparse
import os
import socket
import struct
import time
from contextlib import suppress

from meshnode.wireguard.cookie import CookieGenerator
from meshnode.wireguard.messages import INITIATION, INITIATION_SIZE
from meshproto.keys import NodePublic

BATCH = 64  # datagrams for each system call; the kernel makes single ones of them
DISTINCT = 64  # batches
UDP_SEGMENT = 103
_TYPE = struct.pack("<I", INITIATION)


def bogus(generator: CookieGenerator) -> bytes:
    """One initiation that nobody could have made, with a right mac1."""
    return generator.add_macs(_TYPE + os.urandom(INITIATION_SIZE - len(_TYPE)), 0.0)


def flood(
    key: NodePublic, destination: tuple[str, int], addresses: list[str], rate: float, seconds: float
) -> float:
    """Send from these addresses in turn, for so long or until Ctrl-C. Returns the rate that was reached."""
    generator = CookieGenerator(key)
    batches = [b"".join(bogus(generator) for _ in range(BATCH)) for _ in range(DISTINCT)]
    sockets = [_open(address, destination) for address in addresses]
    sent, began, passed = 0, time.monotonic(), 0.0
    with suppress(KeyboardInterrupt):
        while (passed := time.monotonic() - began) < seconds:
            if sent * BATCH > passed * rate:
                time.sleep(BATCH / rate)
                continue
            sockets[sent % len(sockets)].send(batches[sent % DISTINCT])
            sent += 1
    return sent * BATCH / passed


def _open(address: str, destination: tuple[str, int]) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_UDP, UDP_SEGMENT, INITIATION_SIZE)
    sock.bind((address, 0))
    sock.connect(destination)
    return sock


def main() -> None:
    """Flood as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m bench.flood", description=__doc__)
    parser.add_argument("--to", required=True, metavar="ADDRESS")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key", required=True, type=NodePublic.parse, help="the receiver's public key")
    parser.add_argument("--addresses", nargs="+", required=True, help="of this host, to send from")
    parser.add_argument("--rate", type=float, default=50_000, help="a second (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    print("flooding", flush=True)
    rate = flood(options.key, (options.to, options.port), options.addresses, options.rate, options.seconds)
    print(f"sent {rate:.0f} a second")


if __name__ == "__main__":
    main()
