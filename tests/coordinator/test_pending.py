"""Registrations that wait for a person."""

from __future__ import annotations

import os
from dataclasses import replace

from coordinator.pending import JoinRequest, PendingRegistrations, is_registration_id
from meshproto.messages import Hostinfo
from tests.coordinator.records import machine_key, node_key


def join(machine: int, node: int = 1) -> JoinRequest:
    return JoinRequest(machine_key(machine), node_key(node), Hostinfo())


def waiting(limit: int = 3) -> PendingRegistrations:
    return PendingRegistrations(os.urandom, lifetime_s=60.0, limit=limit)


def test_a_registration_is_good_for_its_lifetime() -> None:
    pending = waiting()
    entry = pending.ask(join(1), 0.0)
    assert is_registration_id(entry.id)
    assert pending.get(entry.id, 59.0) == entry
    assert pending.get(entry.id, 60.0) is None
    assert len(pending) == 0


def test_a_machine_that_asks_again_keeps_id_and_deadline() -> None:
    pending = waiting()
    first = pending.ask(join(1, node=1), 0.0)
    second = pending.ask(join(1, node=2), 30.0)
    assert second == replace(first, join=join(1, node=2))
    assert pending.get(first.id, 31.0) == second
    third = pending.ask(join(1, node=3), 60.0)
    assert third.id != first.id


def test_the_least_recently_asked_gives_way() -> None:
    pending = waiting(limit=3)
    entries = [pending.ask(join(number), 0.0) for number in range(3)]
    pending.ask(join(0), 1.0)
    pending.ask(join(9), 2.0)
    assert [pending.get(entry.id, 3.0) is not None for entry in entries] == [True, False, True]
    assert len(pending) == 3


def test_removed_ones_are_gone_and_removing_twice_is_nothing() -> None:
    pending = waiting()
    entry = pending.ask(join(1), 0.0)
    pending.remove(entry.id)
    pending.remove(entry.id)
    assert pending.get(entry.id, 0.0) is None
    assert pending.ask(join(1), 0.0).id != entry.id


def test_what_is_no_id() -> None:
    for text in ("", "hskey-authreq-", f"hskey-authreq-{24 * 'g'}", f"hskey-authreq-{25 * 'a'}", 38 * "a"):
        assert not is_registration_id(text)
