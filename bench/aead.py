"""Seal and open, on one core: TUN superpackets of 1,280-byte packets, and the same bytes packet by packet.

Ours is all that the batch kernel does on the way: segment, checksum, pad, number and seal; open, check and
coalesce. `cryptography` is called once per packet with buffers that exist already. OpenSSL is its own
benchmark, `openssl speed -evp chacha20-poly1305 -bytes 1280`, which only encrypts and ends no packet with a
tag; with `-aead` each packet has its nonce and tag. The time is the processor's, as OpenSSL counts it, but
the machine should be idle all the same: what else runs takes from the cache, and from a core that is half of
one.

Each uses the same buffers all the time, so that they are in the cache: OpenSSL and `cryptography`
those of one packet, ours those of one batch. Nothing opens twice, so a batch is sealed anew, outside the time
that counts, before it is opened: it is as fresh in the cache as one that was just received.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import statistics
import struct
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from ipaddress import ip_network
from types import ModuleType
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from bench import measure
from bench.measure import OURS, Figure, What
from meshnode.dataplane import MAX_UNIT_IPV4, RECEIVE_BUFFER_SIZE, SEAL_BUFFER_SIZE, reference

PACKET = 1280
HEADERS = 40  # of IPv4 and TCP
SEGMENTS = 48  # what one unit of such datagrams holds
STRIDE = 16 + PACKET + 16
PEER = 0
SOURCE = bytes([10, 9, 0, 1])
DESTINATION = bytes([10, 9, 0, 2])
CALLS = 16  # between two readings of the clock, each of which takes longer than sealing a packet
READINGS = 1000  # of the clock, to know what one takes

WHATS = (What("seal", "seal", "Gbit/s"), What("open", "open", "Gbit/s"))


def superpacket() -> bytes:
    """What a TUN read returns of one TCP stream: virtio_net_hdr, headers, and the payload of all segments."""
    payload = os.urandom(SEGMENTS * (PACKET - HEADERS))
    virtio = struct.pack("<BBHHHH", 1, 1, HEADERS, PACKET - HEADERS, 20, 16)  # needs checksum, TCP over IPv4
    total = HEADERS + len(payload)
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, total, 1, 0x4000, 64, 6, 0, SOURCE, DESTINATION)
    tcp = struct.pack(">HHIIBBHHH", 40000, 5201, 1, 1, 0x50, 0x10, 65535, 0, 0)
    return virtio + ip + tcp + payload


def per_second(work: Callable[[], int], seconds: float) -> float:
    """Gigabits per second of processor time; `work` returns the bytes of packets that it dealt with."""
    done, began = 0, time.thread_time()
    while (took := time.thread_time() - began) < seconds:
        for _ in range(CALLS):
            done += work()
    return done * 8 / took / 1e9


class Kernel:
    """A data plane: two sessions that belong together, and buffers."""

    def __init__(self, module: ModuleType) -> None:
        """`module` is the compiled one or the one in Python: they have the same names."""
        self._module: Any = module
        there, back = os.urandom(32), os.urandom(32)
        self._sender = self._module.Session(there, back, 1, 2)
        self._sessions = self._module.SessionTable()
        self._sessions.set(2, self._module.Session(back, there, 2, 1), PEER)
        self._allowed_ips = self._module.AllowedIPs()
        self._allowed_ips.insert(ip_network(SOURCE), PEER)
        self._packet = memoryview(superpacket())
        self._sealed = memoryview(bytearray(SEAL_BUFFER_SIZE))
        self._opened = memoryview(bytearray(RECEIVE_BUFFER_SIZE))

    def seal(self) -> int:
        units = self._module.seal_superpacket(self._sender, self._packet, self._sealed, PACKET, MAX_UNIT_IPV4)
        assert [unit.length for unit in units] == [SEGMENTS * STRIDE]
        return SEGMENTS * PACKET

    def open(self) -> int:
        """Open what was sealed last, which is good for that once: it may be opened in place."""
        batch = self._sealed[: SEGMENTS * STRIDE]
        opened = self._module.open_batch(self._sessions, self._allowed_ips, batch, STRIDE, self._opened)
        assert len(opened.units) == 1
        return SEGMENTS * PACKET


def measure_kernel(module: ModuleType, seconds: float) -> Mapping[str, float]:
    """Both directions of a data plane of ours."""
    kernel = Kernel(module)
    return {"seal": per_second(kernel.seal, seconds), "open": _open(kernel, seconds)}


def _open(kernel: Kernel, seconds: float) -> float:
    reading = _clock_reading()
    done, took = 0, 0.0
    while took < seconds:
        kernel.seal()
        began = time.thread_time()
        done += kernel.open()
        took += time.thread_time() - began - reading
    return done * 8 / took / 1e9


def _clock_reading() -> float:
    """Seconds between two readings of the clock: they add up when each batch is timed."""
    return statistics.median(-time.thread_time() + time.thread_time() for _ in range(READINGS))


def measure_cryptography(seconds: float) -> Mapping[str, float]:
    """A packet for each call."""
    cipher = ChaCha20Poly1305(os.urandom(32))
    nonce, packet = bytes(12), os.urandom(PACKET)
    sealed, room = bytearray(PACKET + 16), bytearray(PACKET)

    def seal() -> int:
        for _ in range(SEGMENTS):
            cipher.encrypt_into(nonce, packet, None, sealed)
        return SEGMENTS * PACKET

    def open_() -> int:
        for _ in range(SEGMENTS):
            cipher.decrypt_into(nonce, sealed, None, room)
        return SEGMENTS * PACKET

    return {"seal": per_second(seal, seconds), "open": per_second(open_, seconds)}


def measure_openssl(seconds: float, *flags: str) -> Mapping[str, float]:
    """OpenSSL's own figures."""
    return {"seal": _openssl(seconds, *flags), "open": _openssl(seconds, "-decrypt", *flags)}


def _openssl(seconds: float, *flags: str) -> float:
    size, duration = str(PACKET), str(max(1, round(seconds)))
    words = ["openssl", "speed", "-mr", "-evp", "chacha20-poly1305", "-bytes", size, "-seconds", duration]
    told = subprocess.run([*words, *flags], capture_output=True, text=True, check=True, timeout=60).stdout
    found = re.search(r"^\+F:.*:([\d.]+)$", told, re.MULTILINE)
    assert found is not None, told
    return float(found[1]) * 8 / 1e9


def contenders(seconds: float) -> dict[str, measure.Run]:
    """Ours, and what there is to compare it to."""
    runs: dict[str, measure.Run] = {}
    if importlib.util.find_spec("meshnode._native") is not None:
        runs[OURS] = partial(measure_kernel, importlib.import_module("meshnode._native"), seconds)
    runs[f"{OURS}, Python"] = partial(measure_kernel, reference, seconds)
    runs["cryptography"] = partial(measure_cryptography, seconds)
    if shutil.which("openssl"):
        runs["OpenSSL"] = partial(measure_openssl, seconds)
        runs["OpenSSL -aead"] = partial(measure_openssl, seconds, "-aead")
    return runs


def main(argv: Sequence[str] | None = None) -> list[Figure]:
    """Measure and print, as `argv` or the command line says."""
    parser = measure.parser("aead", __doc__, rounds=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each figure (default: %(default)s)")
    options = parser.parse_args(argv)
    if options.quick:
        options.seconds = 0.3
    figures = measure.interleave("aead", WHATS, contenders(options.seconds), options)
    measure.report(options, f"{PACKET:,}-byte packets on one core", figures)
    return figures


if __name__ == "__main__":
    main()
