"""The client's transactions: sending again, giving up, exact round trips, and answers that are none."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stun.messages import (
    COOKIE,
    Attribute,
    BindingResponse,
    MessageType,
    TransportAddress,
    encode,
    parse_request_untrusted,
)
from stun.responder import AddressPair, Reply, Responder
from stun.transactions import (
    MAX_REQUESTS,
    Answered,
    GivenUp,
    Outgoing,
    Refused,
    Schedule,
    Transactions,
)

SERVER = TransportAddress("192.0.2.1", 3478)
OTHER_SERVER = TransportAddress("192.0.2.9", 3478)
OURS = TransportAddress("203.0.113.5", 41641)


def numbered_entropy() -> Transactions:
    numbers = itertools.count(1)
    return Transactions(lambda size: next(numbers).to_bytes(size, "big"))


def answer_to(outgoing: Outgoing, responder: Responder | None = None) -> bytes:
    reply = (responder or Responder()).respond(outgoing.datagram, OURS, outgoing.server, 0.0)
    assert isinstance(reply, Reply)
    return reply.datagram


def test_question_and_answer() -> None:
    transactions = numbered_entropy()
    number = transactions.start(SERVER, 10.0)
    (outgoing,) = transactions.take_datagrams()
    assert outgoing.server == SERVER
    assert transactions.take_datagrams() == []
    outcome = transactions.receive(answer_to(outgoing), SERVER, 10.5)
    assert outcome == Answered(number, BindingResponse((1).to_bytes(12, "big"), OURS), SERVER, 0.5)
    assert transactions.next_timeout() is None


def test_sent_again_until_given_up() -> None:
    transactions = numbered_entropy()
    number = transactions.start(SERVER, 100.0, schedule=Schedule(send_again=(0.1, 0.5), give_up=2.0))
    sent = [100.0]
    given_up: list[GivenUp] = []
    seen = {transactions.take_datagrams()[0].datagram}
    while (when := transactions.next_timeout()) is not None:
        assert transactions.handle_timeout(when - 0.001) == []
        assert transactions.take_datagrams() == []
        given_up += transactions.handle_timeout(when)
        for outgoing in transactions.take_datagrams():
            sent.append(when)
            seen.add(outgoing.datagram)
    assert sent == pytest.approx([100.0, 100.1, 100.5])
    assert len(seen) == 3
    assert given_up == [GivenUp(number)]
    assert when is None


def test_late_answer_to_the_first_sending_is_measured_from_it() -> None:
    transactions = numbered_entropy()
    number = transactions.start(SERVER, 0.0)
    transactions.handle_timeout(0.1)
    first, second = transactions.take_datagrams()
    outcome = transactions.receive(answer_to(first), SERVER, 0.15)
    assert isinstance(outcome, Answered)
    assert (outcome.request, outcome.round_trip_s) == (number, 0.15)
    assert transactions.receive(answer_to(second), SERVER, 0.2) is None  # already answered


def test_requests_do_not_mix() -> None:
    transactions = numbered_entropy()
    numbers = [transactions.start(server, 0.0) for server in (SERVER, OTHER_SERVER, SERVER)]
    outgoing = transactions.take_datagrams()
    for number, datagram in reversed(list(zip(numbers, outgoing, strict=True))):
        outcome = transactions.receive(answer_to(datagram), datagram.server, 0.1)
        assert isinstance(outcome, Answered)
        assert outcome.request == number


def test_cancelled_request_has_no_outcome() -> None:
    transactions = numbered_entropy()
    number = transactions.start(SERVER, 0.0)
    (outgoing,) = transactions.take_datagrams()
    transactions.cancel(number)
    transactions.cancel(number)
    assert transactions.next_timeout() is None
    assert transactions.receive(answer_to(outgoing), SERVER, 0.1) is None


def test_another_source_is_asked_for_and_reported() -> None:
    pair = AddressPair(SERVER, TransportAddress("192.0.2.2", 3479))
    transactions = numbered_entropy()
    transactions.start(SERVER, 0.0, change_address=True, change_port=True)
    (outgoing,) = transactions.take_datagrams()
    assert parse_request_untrusted(outgoing.datagram).get(Attribute.CHANGE_REQUEST) == b"\0\0\0\6"
    outcome = transactions.receive(answer_to(outgoing, Responder((pair,))), pair.secondary, 0.1)
    assert isinstance(outcome, Answered)
    assert outcome.source == pair.secondary == outcome.response.response_origin


def test_refusal() -> None:
    transactions = numbered_entropy()
    number = transactions.start(SERVER, 0.0, change_port=True)
    (outgoing,) = transactions.take_datagrams()
    assert transactions.receive(answer_to(outgoing), SERVER, 0.1) == Refused(number, 420)


def test_answers_that_are_none() -> None:
    transactions = numbered_entropy()
    transactions.start(SERVER, 0.0)
    (outgoing,) = transactions.take_datagrams()
    answer = answer_to(outgoing)
    forged = answer[:8] + bytes(12) + answer[20:]
    empty = encode(MessageType.BINDING_SUCCESS, COOKIE + (1).to_bytes(12, "big"), [])
    for datagram in (b"", forged, empty, outgoing.datagram, answer[:-1]):
        assert transactions.receive(datagram, SERVER, 0.1) is None
    assert transactions.receive(answer, SERVER, 0.1) is not None


def test_requests_in_flight_are_bounded() -> None:
    transactions = numbered_entropy()
    for _ in range(MAX_REQUESTS):
        transactions.start(SERVER, 0.0)
    with pytest.raises(RuntimeError, match="in flight"):
        transactions.start(SERVER, 0.0)


@given(st.binary(max_size=100))
def test_any_bytes(datagram: bytes) -> None:
    transactions = numbered_entropy()
    transactions.start(SERVER, 0.0)
    assert transactions.receive(datagram, SERVER, 0.0) is None
