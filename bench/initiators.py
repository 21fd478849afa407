"""Many peers that shake hands with one responder, some at a time. `python -m bench.initiators --help`.

Each has a key, one handshake to make and its own cookie, as the protocol has it. Prints a line of JSON: how
many were answered, in how many seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from meshnode.wireguard import messages, noise
from meshnode.wireguard.cookie import CookieGenerator
from meshnode.wireguard.tai64n import TimestampSource
from meshproto.keys import NodePrivate, NodePublic

RETRY = 1.0  # seconds; a node waits 5


@dataclass
class Initiator:
    """One peer. Its place in the list is its index in messages."""

    key: NodePrivate
    responder: NodePublic
    index: int
    socket: socket.socket
    cookies: CookieGenerator = field(init=False)
    timestamps: TimestampSource = field(default_factory=lambda: TimestampSource(time.time))
    due: float = 0.0
    is_answered: bool = False
    has_new_cookie: bool = False
    _message: bytes = b""
    _handshake: noise.InitiatorHandshake | None = None

    def __post_init__(self) -> None:
        self.cookies = CookieGenerator(self.responder)
        self._create()

    def _create(self) -> None:
        shared = noise.static_static(self.key, self.responder.raw)
        stamp = self.timestamps.stamp()
        message, self._handshake = noise.create_initiation(
            self.key, self.responder.raw, shared, stamp, self.index, os.urandom
        )
        self._message = message.encode()

    def send(self, now: float) -> None:
        """The initiation, a new one if the last had no answer."""
        if self.due and not self.has_new_cookie:
            self._create()
        self.has_new_cookie = False
        self.due = now + RETRY
        self.socket.send(self.cookies.add_macs(self._message, now))

    def receive(self, datagram: bytes, now: float) -> None:
        """An answer to it."""
        kind = messages.message_type(datagram)
        if kind == messages.COOKIE_REPLY:
            reply = messages.parse_cookie_reply_untrusted(datagram)
            self.has_new_cookie = self.cookies.consume_reply(reply, now)
            if self.has_new_cookie:
                self.send(now)
        elif kind == messages.RESPONSE:
            self.is_answered = True

    def check(self, datagram: bytes) -> None:
        """That the response is authentic. Raises InvalidHandshake."""
        assert self._handshake is not None
        response = messages.parse_response_untrusted(datagram)
        noise.consume_response(self.key, self._handshake, None, response)


def run(initiators: list[Initiator], window: int, seconds: float) -> tuple[int, float]:
    """Let `window` of them be at it at a time. Returns how many were answered, and in how many seconds."""
    poll = select.poll()
    sockets = {one.socket.fileno(): one.socket for one in initiators}
    for number in sockets:
        poll.register(number, select.POLLIN)
    waiting, busy = deque(initiators), dict[int, Initiator]()
    answered, began = 0, time.monotonic()
    while (waiting or busy) and (now := time.monotonic()) < began + seconds:
        while waiting and len(busy) < window:
            one = waiting.popleft()
            busy[one.index] = one
            one.send(now)
        for number, _ in poll.poll(10):
            datagram = sockets[number].recv(2048)
            found = busy.get(int.from_bytes(datagram[_index_offset(datagram) :][:4], "little"))
            if found is None:
                continue
            found.receive(datagram, now)
            if found.is_answered:
                if not answered:
                    found.check(datagram)
                answered += 1
                del busy[found.index]
        for late in [one for one in busy.values() if one.due < now]:
            late.send(now)
    return answered, time.monotonic() - began


def _index_offset(datagram: bytes) -> int:
    """Where the receiver's index stands."""
    return 8 if messages.message_type(datagram) == messages.RESPONSE else 4


def connected(address: str, destination: tuple[str, int]) -> socket.socket:
    """A socket of one of this host's addresses."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, 0))
    sock.connect(destination)
    return sock


def main() -> None:
    """Shake hands as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m bench.initiators", description=__doc__)
    parser.add_argument("--to", required=True, metavar="ADDRESS")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key", required=True, type=NodePublic.parse, help="the responder's public key")
    parser.add_argument("--keys", type=Path, required=True, help="a file with a private key on each line")
    parser.add_argument("--addresses", nargs="+", required=True, help="of this host, which they share")
    parser.add_argument("--window", type=int, default=32, help="at a time (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=10, help="at most (default: %(default)s)")
    options = parser.parse_args()
    sockets = [connected(address, (options.to, options.port)) for address in options.addresses]
    initiators = [
        Initiator(NodePrivate.parse(line), options.key, index, sockets[index % len(sockets)])
        for index, line in enumerate(options.keys.read_text().split())
    ]
    answered, took = run(initiators, options.window, options.seconds)
    print(json.dumps({"answered": answered, "seconds": took}))


if __name__ == "__main__":
    main()
