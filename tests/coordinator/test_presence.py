"""Who is connected, and the deadlines that follow."""

from __future__ import annotations

from coordinator.presence import Due, Presence

GRACE, EPHEMERAL = 10.0, 120.0


def presence() -> Presence:
    return Presence(GRACE, EPHEMERAL)


def test_offline_comes_after_the_grace_of_the_last_session() -> None:
    core = presence()
    core.session_opened(1)
    core.session_opened(1)
    core.session_closed(1, 0.0)
    assert core.next_timeout() is None
    assert core.has_session(1)
    core.session_closed(1, 5.0)
    assert not core.has_session(1)
    assert core.next_timeout() == 15.0
    assert core.take_due(14.9) == []
    assert core.take_due(15.0) == [(1, Due.GO_OFFLINE)]
    assert core.take_due(16.0) == []
    assert core.next_timeout() is None


def test_a_session_disarms_every_deadline() -> None:
    core = presence()
    core.ephemeral_without_session(1, 0.0)
    core.session_opened(1)
    core.session_closed(1, 1.0)
    core.session_opened(1)
    assert core.take_due(1000.0) == []


def test_an_ephemeral_node_with_a_session_is_left_alone() -> None:
    core = presence()
    core.session_opened(1)
    core.ephemeral_without_session(1, 0.0)
    assert core.take_due(1000.0) == []


def test_arming_again_moves_the_deadline() -> None:
    core = presence()
    core.ephemeral_without_session(1, 0.0)
    core.ephemeral_without_session(1, 50.0)
    core.ephemeral_without_session(2, 10.0)
    assert core.take_due(150.0) == [(2, Due.REMOVE_EPHEMERAL)]
    assert core.take_due(170.0) == [(1, Due.REMOVE_EPHEMERAL)]


def test_what_could_not_be_done_is_due_again() -> None:
    core = presence()
    core.session_opened(1)
    core.session_closed(1, 0.0)
    assert core.take_due(10.0) == [(1, Due.GO_OFFLINE)]
    core.postpone(1, Due.GO_OFFLINE, 10.0)
    assert core.take_due(20.0) == [(1, Due.GO_OFFLINE)]
    core.session_opened(1)
    core.postpone(1, Due.GO_OFFLINE, 20.0)
    assert core.next_timeout() is None


def test_sessions_of_a_forgotten_node_may_still_close() -> None:
    core = presence()
    core.session_opened(1)
    core.forget(1)
    core.session_closed(1, 0.0)
    assert not core.has_session(1)
