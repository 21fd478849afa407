"""Stand-ins for the kernel: a tunnel device that is one end of a socket pair, a socket that fails as told."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from meshnode.linux.tun_device import TunDevice


class FakeTunDevice:
    """`device` goes into a `Tun`; what it writes is read here, and the other way round."""

    def __init__(self, *, udp_offload: bool = True) -> None:
        self.kernel, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for end in (self.kernel, inner):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
            end.setblocking(False)
        self.device = TunDevice("fake0", inner.detach(), tcp_offload=True, udp_offload=udp_offload)

    def give(self, read: bytes) -> None:
        """Let the program read `read`."""
        self.kernel.send(read)

    def written(self) -> list[bytes]:
        """What the program wrote since the last call."""
        return list(self._drain())

    def _drain(self) -> Iterator[bytes]:
        while True:
            try:
                yield self.kernel.recv(1 << 17)
            except BlockingIOError:
                return

    def close(self) -> None:
        self.kernel.close()
        self.device.close()


class FailingSocket:
    """A UDP socket whose sends meet `failures`, one errno (or None) per call, and then succeed.

    A failure in `batch_failures` meets sends of several datagrams only.
    """

    family = socket.AF_INET

    def __init__(
        self, failures: Sequence[int | None] = (), batch_failures: Sequence[int | None] = ()
    ) -> None:
        self.failures = list(failures)
        self.batch_failures = list(batch_failures)
        self.sent: list[tuple[bytes, int, tuple[str, int]]] = []
        """(data, stride, destination) of each call that succeeded."""
        self.calls = 0

    def getsockopt(self, level: int, option: int) -> int:
        return 0

    def setsockopt(self, level: int, option: int, value: int) -> None:
        pass

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        pass

    def sendmsg(self, buffers: Sequence[Any], ancillary: Sequence[Any], flags: int, destination: Any) -> int:
        self._meet(self.batch_failures)
        stride = int.from_bytes(ancillary[0][2], "little")
        return self._take(b"".join(map(bytes, buffers)), stride, destination)

    def sendto(self, data: Any, destination: Any) -> int:
        return self._take(bytes(data), len(data), destination)

    def _take(self, data: bytes, stride: int, destination: Any) -> int:
        self._meet(self.failures)
        self.sent.append((data, stride, tuple(destination)))
        return len(data)

    def _meet(self, failures: list[int | None]) -> None:
        self.calls += 1
        failure = failures.pop(0) if failures else None
        if failure is not None:
            raise OSError(failure, os.strerror(failure))


NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EPERM)
