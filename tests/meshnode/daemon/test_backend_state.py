"""The state as a function of the situation: the telling ones give the right one, and few give Running."""

from __future__ import annotations

import itertools
from dataclasses import fields

import pytest

from meshnode.backend_state import BackendState, Situation, state_of

RUNNING = Situation(
    wants_running=True, has_node_key=True, has_map=True, is_authorized=True, is_configured=True
)


def but(**changes: bool) -> Situation:
    """The situation of a running node, with differences."""
    return Situation(**{field.name: getattr(RUNNING, field.name) for field in fields(Situation)} | changes)


@pytest.mark.parametrize(
    ("situation", "state"),
    [
        (Situation(), BackendState.NEEDS_LOGIN),
        (Situation(has_node_key=True), BackendState.STOPPED),
        (but(wants_running=False), BackendState.STOPPED),
        (Situation(wants_running=True), BackendState.NEEDS_LOGIN),
        (Situation(wants_running=True, is_logging_in=True), BackendState.STARTING),
        (Situation(wants_running=True, awaits_person=True), BackendState.NEEDS_LOGIN),
        (but(awaits_person=True), BackendState.NEEDS_LOGIN),
        (but(is_logging_in=True), BackendState.STARTING),
        (but(has_map=False, is_authorized=False, is_configured=False), BackendState.STARTING),
        (but(is_expired=True), BackendState.NEEDS_LOGIN),
        (but(is_authorized=False), BackendState.NEEDS_MACHINE_AUTH),
        (but(is_configured=False), BackendState.STARTING),
        (RUNNING, BackendState.RUNNING),
    ],
)
def test_the_state_of_a_situation(situation: Situation, state: BackendState) -> None:
    assert state_of(situation) is state


def test_a_node_runs_only_when_everything_says_so() -> None:
    names = [field.name for field in fields(Situation)]
    running = [
        dict(zip(names, values, strict=True))
        for values in itertools.product([False, True], repeat=len(names))
        if state_of(Situation(**dict(zip(names, values, strict=True)))) is BackendState.RUNNING
    ]
    assert running == [{field.name: getattr(RUNNING, field.name) for field in fields(Situation)}]


def test_the_labels_are_those_of_tailscale() -> None:
    assert [state.label for state in BackendState] == [
        "NoState",
        "NeedsLogin",
        "NeedsMachineAuth",
        "Stopped",
        "Starting",
        "Running",
    ]
