"""The client's side: binding requests in flight from one socket, and what came of them.

The caller owns the socket, which may carry other protocols (`messages.looks_like_stun` tells them apart). It
sends what `take_datagrams` gives, passes in what arrives, and calls `handle_timeout` when `next_timeout`
says.

A request without an answer is sent again. RFC 8489 §6.2.1 repeats the same transaction id, from which nobody
could tell which sending an answer belongs to; here each sending has its own id, so that every round trip is
measured exactly and an answer to any of them counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from stun.messages import (
    TRANSACTION_ID_SIZE,
    BindingError,
    BindingResponse,
    MalformedMessage,
    TransportAddress,
    encode_binding_request,
    parse_response_untrusted,
)

MAX_REQUESTS = 1024  # in flight at a time; `start` refuses more


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a request is sent again and given up, in seconds after its first sending.

    The default sends five times within 1.2 s and waits until 3 s: a probe that is late by more is of no use.
    """

    send_again: tuple[float, ...] = (0.1, 0.3, 0.7, 1.2)
    give_up: float = 3.0


class Outgoing(NamedTuple):
    """A datagram to send."""

    datagram: bytes
    server: TransportAddress


@dataclass(frozen=True, slots=True)
class Answered:
    """`response` to request number `request`; `source` is where it came from, which a request may change."""

    request: int
    response: BindingResponse
    source: TransportAddress
    round_trip_s: float


@dataclass(frozen=True, slots=True)
class Refused:
    """The server says that it cannot do what was asked."""

    request: int
    code: int


@dataclass(frozen=True, slots=True)
class GivenUp:
    """No answer came in time."""

    request: int


Outcome = Answered | Refused | GivenUp


@dataclass(slots=True)
class _Request:
    server: TransportAddress
    change_address: bool
    change_port: bool
    schedule: Schedule
    started: float
    sent: dict[bytes, float] = field(default_factory=dict)  # transaction id -> when


class Transactions:
    """See the module. `entropy` makes the transaction ids, which are what keeps forged answers out."""

    def __init__(self, entropy: Callable[[int], bytes]) -> None:
        self._entropy = entropy
        self._requests: dict[int, _Request] = {}
        self._by_transaction: dict[bytes, int] = {}
        self._outgoing: list[Outgoing] = []
        self._next_number = 0

    def start(
        self,
        server: TransportAddress,
        now: float,
        *,
        change_address: bool = False,
        change_port: bool = False,
        schedule: Schedule | None = None,
    ) -> int:
        """Ask `server` where it sees us. Returns the request's number.

        The changes ask it to answer from its other address or port. Raises RuntimeError past MAX_REQUESTS.
        """
        if len(self._requests) >= MAX_REQUESTS:
            raise RuntimeError(f"{MAX_REQUESTS} requests are in flight")
        number = self._next_number
        self._next_number += 1
        request = _Request(server, change_address, change_port, schedule or Schedule(), now)
        self._requests[number] = request
        self._send(number, request, now)
        return number

    def cancel(self, number: int) -> None:
        """Forget a request: its outcome is of no interest any more."""
        request = self._requests.pop(number, None)
        for transaction_id in request.sent if request else ():
            del self._by_transaction[transaction_id]

    def receive(self, datagram: bytes, source: TransportAddress, now: float) -> Outcome | None:
        """What a datagram means for a request of ours; None when it is not the answer to one in flight."""
        try:
            response = parse_response_untrusted(datagram)
        except MalformedMessage:
            return None
        number = self._by_transaction.get(response.transaction_id)
        if number is None:
            return None
        sent_at = self._requests[number].sent[response.transaction_id]
        self.cancel(number)
        if isinstance(response, BindingError):
            return Refused(number, response.code)
        return Answered(number, response, source, now - sent_at)

    def take_datagrams(self) -> list[Outgoing]:
        """What is to be sent, each once."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def next_timeout(self) -> float | None:
        """When `handle_timeout` has something to do."""
        return min((_due(request) for request in self._requests.values()), default=None)

    def handle_timeout(self, now: float) -> list[GivenUp]:
        """Send again what is due, and return what has waited long enough."""
        given_up = []
        for number, request in list(self._requests.items()):
            if _due(request) > now:
                continue
            if len(request.sent) <= len(request.schedule.send_again):
                self._send(number, request, now)
            else:
                self.cancel(number)
                given_up.append(GivenUp(number))
        return given_up

    def _send(self, number: int, request: _Request, now: float) -> None:
        transaction_id = self._entropy(TRANSACTION_ID_SIZE)
        request.sent[transaction_id] = now
        self._by_transaction[transaction_id] = number
        datagram = encode_binding_request(
            transaction_id, change_address=request.change_address, change_port=request.change_port
        )
        self._outgoing.append(Outgoing(datagram, request.server))


def _due(request: _Request) -> float:
    """When something happens next to a request."""
    schedule = request.schedule
    sendings = len(request.sent)
    if sendings <= len(schedule.send_again):
        return request.started + schedule.send_again[sendings - 1]
    return request.started + schedule.give_up
