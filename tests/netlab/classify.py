"""What kind of NAT a machine is behind, found out by asking a STUN server as RFC 5780 §4 says.

    python -m tests.netlab.classify 25.0.113.2:3478        prints what was observed, as JSON

The server needs a second address. The mapping is told by asking three of its four addresses from one port,
the filtering by asking for answers from elsewhere, at a second port of ours that nothing was let in to yet.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from dataclasses import asdict, dataclass
from itertools import pairwise

from stun.messages import TransportAddress
from stun.transactions import Answered, GivenUp, Outcome, Schedule, Transactions
from tests.netlab.nat import Filtering, Mapping, Ports

# Within a lab an answer takes a millisecond, or what the weather adds; two of three requests may be lost.
SCHEDULE = Schedule(send_again=(0.15, 0.3), give_up=0.6)


@dataclass(frozen=True)
class Observed:
    """What was seen. With `answers` false nothing else is known, and the rest is None or false.

    - `mapping`: None without a NAT; a `nat.Mapping` otherwise.
    - `filtering`: a `nat.Filtering`.
    - `ports`: what the outer ports are to the inner one or to each other; None without a NAT.
    - `hairpins`: our own outer address, asked from another port of ours, was reached.
    """

    answers: bool
    mapping: Mapping | None = None
    filtering: Filtering | None = None
    ports: Ports | None = None
    hairpins: bool = False

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self), default=lambda value: value.value)

    @classmethod
    def from_json(cls, text: str) -> Observed:
        """The reverse. Raises ValueError."""
        values = json.loads(text)
        for name, kind in (("mapping", Mapping), ("filtering", Filtering), ("ports", Ports)):
            values[name] = None if values[name] is None else kind(values[name])
        return cls(**values)


class Prober:
    """One local port, and the questions asked from it, one after the other."""

    def __init__(self, towards: TransportAddress) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
            route.connect(towards)
            self._socket.bind((route.getsockname()[0], 0))
        self.local = TransportAddress(*self._socket.getsockname())
        self._transactions = Transactions(os.urandom)

    def ask(
        self, server: TransportAddress, *, change_address: bool = False, change_port: bool = False
    ) -> Answered | None:
        """The server's answer, None when there was none. Raises RuntimeError when it refuses."""
        transactions, now = self._transactions, time.monotonic()
        transactions.start(
            server, now, change_address=change_address, change_port=change_port, schedule=SCHEDULE
        )
        while True:
            for outgoing in transactions.take_datagrams():
                self._socket.sendto(outgoing.datagram, outgoing.server)
            outcome = self._wait()
            if isinstance(outcome, Answered):
                return outcome
            if isinstance(outcome, GivenUp):
                return None
            if outcome is not None:
                raise RuntimeError(f"{server} refuses to answer from elsewhere: {outcome.code}")

    def _wait(self) -> Outcome | None:
        """What the next datagram or the time brings."""
        due = self._transactions.next_timeout()
        assert due is not None
        self._socket.settimeout(max(0.001, due - time.monotonic()))
        try:
            datagram, source = self._socket.recvfrom(2048)
        except OSError:  # nothing in time, or an ICMP error for something we sent
            given_up = self._transactions.handle_timeout(time.monotonic())
            return given_up[0] if given_up else None
        return self._transactions.receive(datagram, TransportAddress(*source), time.monotonic())

    def reaches(self, other: Prober, address: TransportAddress) -> bool:
        """Whether what we send to `address` comes to the other port."""
        self._socket.sendto(b"hairpin", address)
        other._socket.settimeout(SCHEDULE.give_up)
        try:
            return other._socket.recv(2048) == b"hairpin"
        except OSError:
            return False

    def close(self) -> None:
        self._socket.close()


def observe(server: TransportAddress) -> Observed:
    """Everything, within four times SCHEDULE's end. Raises RuntimeError if the server has one address."""
    prober, fresh = Prober(server), Prober(server)
    try:
        first = prober.ask(server)
        if first is None:
            return Observed(answers=False)
        other = first.response.other_address
        if other is None:
            raise RuntimeError(f"{server} has no second address")
        seen = [first.response.mapped_address]
        for address in (TransportAddress(other.host, server.port), other):
            answer = prober.ask(address)
            if answer is None:
                raise RuntimeError(f"{server} answers, {address} does not")
            seen.append(answer.response.mapped_address)
        is_translated = seen[0] != prober.local
        return Observed(
            answers=True,
            mapping=_mapping(seen) if is_translated else None,
            filtering=_filtering(fresh, server),
            ports=_ports(prober.local, seen) if is_translated else None,
            hairpins=is_translated and fresh.reaches(prober, seen[0]),
        )
    finally:
        prober.close()
        fresh.close()


def _mapping(seen: list[TransportAddress]) -> Mapping:
    """From where two addresses of the server saw us, and from where another port of the second did."""
    if seen[0] == seen[1] == seen[2]:
        return Mapping.ENDPOINT_INDEPENDENT
    if seen[1] == seen[2]:
        return Mapping.ADDRESS_DEPENDENT
    return Mapping.ADDRESS_AND_PORT_DEPENDENT


def _ports(local: TransportAddress, seen: list[TransportAddress]) -> Ports:
    if all(address.port == local.port for address in seen):
        return Ports.PRESERVED
    if all(later.port - earlier.port == 1 for earlier, later in pairwise(seen)):
        return Ports.SEQUENTIAL
    return Ports.RANDOM


def _filtering(fresh: Prober, server: TransportAddress) -> Filtering:
    if fresh.ask(server) is None:
        raise RuntimeError(f"{server} does not answer any more")
    if fresh.ask(server, change_address=True, change_port=True):
        return Filtering.ENDPOINT_INDEPENDENT
    if fresh.ask(server, change_port=True):
        return Filtering.ADDRESS_DEPENDENT
    return Filtering.ADDRESS_AND_PORT_DEPENDENT


if __name__ == "__main__":
    host, _, port = sys.argv[1].rpartition(":")
    print(observe(TransportAddress(host, int(port))).to_json())
