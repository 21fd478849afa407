"""A cable with weather, where the kernel has no netem: a program that carries frames between two interfaces.

    python -m tests.netlab.wire --delay 0.02 --jitter 0.005 --loss 0.01 NEAR FAR

Both interfaces are of the namespace it runs in. It says `carrying` when it does. Frames come and go with the
kernel's notes about them (PACKET_VNET_HDR), for packets that never left the machine have no checksum yet.
"""

from __future__ import annotations

import argparse
import random
import selectors
import signal
import socket
import sys
import time

from tests.netlab.weather import Direction, Weather

# From <linux/if_packet.h>, <linux/if_ether.h> and <asm/socket.h>; Python has names for none of them.
SOL_PACKET = 263
PACKET_VNET_HDR = 15
PACKET_QDISC_BYPASS = 20
PACKET_IGNORE_OUTGOING = 23
ETH_P_ALL = 3
SO_RCVBUFFORCE = 33

# The largest frame with its notes: a bundle of TCP segments that the kernel has not taken apart.
FRAME_SIZE = 70_000
RECEIVE_BUFFER = 8 << 20

# Frames that are taken from an interface before the other one gets its turn.
BATCH = 64


class End:
    """One interface, and what is under way to it."""

    def __init__(self, interface: str, weather: Weather, rng: random.Random) -> None:
        self.arriving = Direction(weather, rng)
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.socket.setblocking(False)
        for option in (PACKET_VNET_HDR, PACKET_QDISC_BYPASS, PACKET_IGNORE_OUTGOING):
            self.socket.setsockopt(SOL_PACKET, option, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        self.socket.bind((interface, ETH_P_ALL))

    def read(self, other: End) -> None:
        """Put what came in here on its way to the other end."""
        for _ in range(BATCH):
            try:
                frame = self.socket.recv(FRAME_SIZE)
            except BlockingIOError:
                return
            other.arriving.accept(frame, time.monotonic())

    def deliver(self, now: float) -> None:
        """Send what has arrived. What the interface does not take is lost, as on any full link."""
        for frame in self.arriving.take_due(now):
            try:
                self.socket.send(frame)
            except OSError:
                pass


def carry(near: End, far: End) -> None:
    """For ever."""
    selector = selectors.DefaultSelector()
    selector.register(near.socket, selectors.EVENT_READ, (near, far))
    selector.register(far.socket, selectors.EVENT_READ, (far, near))
    while True:
        timeouts = [end.arriving.next_timeout() for end in (near, far)]
        due = min((timeout for timeout in timeouts if timeout is not None), default=None)
        for key, _ in selector.select(None if due is None else max(0.0, due - time.monotonic())):
            end, other = key.data
            end.read(other)
        now = time.monotonic()
        near.deliver(now)
        far.deliver(now)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("delay", "jitter", "loss"):
        parser.add_argument(f"--{name}", type=float, default=0.0)
    parser.add_argument("near")
    parser.add_argument("far")
    arguments = parser.parse_args()
    weather = Weather(arguments.delay, arguments.jitter, arguments.loss)
    rng = random.Random()
    ends = [End(interface, weather, rng) for interface in (arguments.near, arguments.far)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print("carrying", flush=True)
    carry(*ends)


if __name__ == "__main__":
    main()
