"""The SSH rules of a node: who may log in at it, as whom, and in which order."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest

from coordinator.model import IPAddress, User
from coordinator.policy import durations
from coordinator.policy.login_users import lets_in, login_users, refusal
from coordinator.policy.ssh_rules import DEFAULT_CHECK_PERIOD, ResolvedEntry, SshRules
from meshproto.messages import SSHRule

URL = "https://vpn.example.com"


@dataclass(frozen=True)
class Node:
    id: int
    user_id: int | None = None
    tags: tuple[str, ...] = ()

    @property
    def addresses(self) -> tuple[IPAddress, ...]:
        return ip_address(f"100.64.0.{self.id}"), ip_address(f"fd7a:115c:a1e0::{self.id:x}")


ALICE, BOB = (
    User(id=i, name=name, created_at=datetime(2026, 1, 1, tzinfo=UTC), email=email)
    for i, name, email in ((1, "alice", "alice@example.com"), (2, "bob", "bob@example.org"))
)
USERS = {1: ALICE, 2: BOB}
LAPTOP, PHONE, DESK, SERVER, RUNNER = (
    Node(1, 1),
    Node(2, 1),
    Node(3, 2),
    Node(4, None, ("tag:server",)),
    Node(5, None, ("tag:ci", "tag:build")),
)
NODES = (LAPTOP, PHONE, DESK, SERVER, RUNNER)
MEMBERS = {1: 1, 2: 1, 3: 1}


def entry(
    *users: str,
    sources: dict[int, int] = MEMBERS,
    destinations: tuple[Node, ...] = (),
    to_self: bool = False,
    check: bool = False,
    period: timedelta = DEFAULT_CHECK_PERIOD,
    accept_env: tuple[str, ...] = (),
) -> ResolvedEntry:
    return ResolvedEntry(
        sources=sources,
        destinations=frozenset(node.id for node in destinations),
        to_self=to_self,
        has_destinations=bool(destinations),
        users=login_users(users),
        check=check,
        period=period,
        accept_env=accept_env,
    )


def rules(node: Node, *entries: ResolvedEntry) -> tuple[SSHRule, ...]:
    return SshRules(entries, NODES, USERS).policy(node, URL).rules


def principals(rule: SSHRule) -> list[str]:
    return [principal.node_ip for principal in rule.principals]


def test_logins_at_own_devices() -> None:
    own = entry("root", to_self=True)
    (rule,) = rules(LAPTOP, own)
    assert principals(rule) == ["100.64.0.1", "100.64.0.2", "fd7a:115c:a1e0::1", "fd7a:115c:a1e0::2"]
    assert rule.ssh_users == {"root": "root"}
    assert rule.action is not None
    assert rule.action.accept
    assert rule.action.allow_agent_forwarding
    assert rules(SERVER, own) == ()


def test_logins_at_a_server_by_everybody() -> None:
    (rule,) = rules(
        SERVER,
        entry("ubuntu", sources={**MEMBERS, 5: 2}, destinations=(SERVER,), accept_env=("GIT_*",)),
    )
    assert len(rule.principals) == 6 + 2 * 2, "one for each address, and for each tag of a tagged source"
    assert rule.ssh_users == {"root": "", "ubuntu": "ubuntu"}
    assert rule.accept_env == ("GIT_*",)


def test_nobody_may_log_in_from_nowhere() -> None:
    assert rules(SERVER, entry("root", sources={}, destinations=(SERVER,))) == ()


def test_own_names_are_told_per_user_and_to_the_sources() -> None:
    own_names = entry("localpart:*@Example.com", destinations=(SERVER,))
    at_server = rules(SERVER, own_names)
    assert [rule.ssh_users for rule in at_server] == [{"root": ""}, {"alice": "alice"}, {"root": ""}]
    assert principals(at_server[0]) == principals(at_server[1])
    assert [rule.ssh_users for rule in rules(LAPTOP, own_names)] == [{"root": ""}, {"alice": "alice"}]
    assert [rule.ssh_users for rule in rules(DESK, own_names)] == [{"root": ""}]
    from_runner = entry("localpart:*@example.com", sources={5: 1}, destinations=(SERVER,))
    assert principals(rules(RUNNER, from_runner)[0]) == ["100.64.0.5", "fd7a:115c:a1e0::5"]


def test_checks_come_first() -> None:
    accept = entry("root", destinations=(SERVER,))
    check = entry("root", destinations=(SERVER,), check=True)
    first, second = rules(SERVER, accept, check)
    assert first.action is not None
    assert second.action is not None
    assert first.action.hold_and_delegate == (
        "https://vpn.example.com/machine/ssh/action/$SRC_NODE_ID/to/$DST_NODE_ID?local_user=$LOCAL_USER"
    )
    assert not first.action.accept
    assert second.action.accept


def test_the_first_entry_with_a_check_says_how_long_it_lasts() -> None:
    hour = timedelta(hours=1)
    tailnet = SshRules(
        (
            entry("root", destinations=(SERVER,)),
            entry("root", sources={1: 1}, destinations=(SERVER,), check=True, period=hour),
            entry("root", destinations=(SERVER,), to_self=True, check=True),
        ),
        NODES,
        USERS,
    )
    assert tailnet.check_period(LAPTOP, SERVER) == hour
    assert tailnet.check_period(DESK, SERVER) == DEFAULT_CHECK_PERIOD
    assert tailnet.check_period(LAPTOP, PHONE) == DEFAULT_CHECK_PERIOD
    assert tailnet.check_period(LAPTOP, DESK) is None
    assert tailnet.check_period(RUNNER, SERVER) is None


@pytest.mark.parametrize(
    ("users", "name", "is_let_in"),
    [
        (["autogroup:nonroot"], "root", False),
        (["autogroup:nonroot"], "ubuntu", True),
        (["autogroup:nonroot", "root"], "root", True),
        (["ubuntu"], "ubuntu", True),
        (["ubuntu"], "admin", False),
        (["ubuntu"], "root", False),
        (["autogroup:nonroot"], "", False),
    ],
)
def test_login_names(users: list[str], name: str, is_let_in: bool) -> None:
    assert lets_in(login_users(users).names, name) is is_let_in


def test_refused_login_names() -> None:
    assert refusal("") is not None
    assert refusal("*") is not None
    assert refusal("localpart:*@*") is not None
    assert refusal("localpart:*@example.com") is None
    assert refusal("localpart:me@example.com") is None, "the name of a local user, if an odd one"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12h", timedelta(hours=12)),
        ("1h30m", timedelta(minutes=90)),
        ("1.5h", timedelta(minutes=90)),
        ("-1m", timedelta(minutes=-1)),
        ("0", timedelta()),
        ("250ms", timedelta(milliseconds=250)),
        ("abc", None),
        ("", None),
        ("1", None),
        ("1d", None),
        ("1h ", None),
        ("9" * 18 + "h", None),
    ],
)
def test_durations(text: str, expected: timedelta | None) -> None:
    assert durations.parse(text) == expected
