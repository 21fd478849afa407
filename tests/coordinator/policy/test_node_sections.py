"""The sections that work on nodes: `ssh`, `nodeAttrs` and `sshTests`, from their text to what nodes get."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from ipaddress import ip_network

import pytest

from coordinator.model import IPNetwork, NodeRecord, User, UserID
from coordinator.policy import document
from coordinator.policy.node_attributes import check_node_attributes, own_capabilities, peer_capabilities
from coordinator.policy.node_attributes import resolve_node_attributes as resolve_attributes
from coordinator.policy.problems import PolicyRefused, Problems
from coordinator.policy.ssh import check_ssh, resolve_ssh
from coordinator.policy.ssh_assertions import check_ssh_assertions, failures
from coordinator.policy.ssh_rules import SshRules
from tests.coordinator import records

ALICE = replace(records.user(1, "alice"), email="alice@example.com")
BOB = replace(records.user(2, "bob"), email="bob@example.org")


class Tailnet:
    """One laptop each of alice and bob, and a server."""

    nodes: Collection[NodeRecord] = (
        records.node(1),
        records.node(2, user_id=2),
        records.node(3, tags=("tag:server",)),
    )
    users: Mapping[UserID, User] = {1: ALICE, 2: BOB}

    def refusal(self, alias: str) -> str | None:
        return None if self.nodes_of(alias) else f'not found: "{alias}"'

    def host(self, name: str) -> IPNetwork | None:
        return ip_network("10.0.0.0/8") if name == "internal" else None

    def nodes_of(self, alias: str) -> Collection[NodeRecord]:
        match alias:
            case "autogroup:member":
                return [node for node in self.nodes if not node.tags]
            case "autogroup:tagged":
                return [node for node in self.nodes if node.tags]
            case _:
                owners = [user.id for user in self.users.values() if user.email == alias]
                return [node for node in self.nodes if alias in node.tags or node.user_id in owners]


TAILNET = Tailnet()


def refusals(text: str) -> str:
    """What is wrong with a policy; empty for nothing."""
    parsed = document.parse(text)
    problems = Problems()
    check_ssh(parsed.ssh or (), TAILNET, problems)
    check_node_attributes(parsed.node_attributes, TAILNET, problems)
    check_ssh_assertions(parsed.ssh_tests, TAILNET, problems)
    try:
        problems.raise_any()
    except PolicyRefused as error:
        return str(error)
    return ""


def ssh_entry(**fields: str) -> str:
    texts = {
        "action": '"accept"',
        "src": '["autogroup:member"]',
        "dst": '["tag:server"]',
        "users": '["root"]',
    } | fields
    return '{"ssh": [{' + ", ".join(f'"{name}": {text}' for name, text in texts.items()) + "}]}"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ""),
        ({"action": '""'}, "action must be specified"),
        ({"action": '"Accept"'}, '"Accept" is not a valid action'),
        ({"users": "[]"}, "users must be specified"),
        ({"users": '["root", ""]'}, 'user "" is not valid'),
        ({"users": '["tag:server"]'}, ""),
        ({"acceptEnv": '[""]'}, "acceptEnv values cannot be empty"),
        ({"action": '"check"', "checkPeriod": '"200h"'}, "is above the max (168h)"),
        ({"action": '"check"', "checkPeriod": '"-1m"'}, "must be a positive duration"),
        ({"action": '"check"', "checkPeriod": '"abc"'}, 'invalid duration "abc"'),
        ({"action": '"check"', "checkPeriod": '"always"'}, ""),
        ({"checkPeriod": '"1h"'}, "only valid with action"),
        ({"dst": '["internal"]'}, 'invalid dst "internal"'),
        ({"dst": '["*"]'}, 'invalid dst "*"'),
        ({"src": '["100.64.0.1"]'}, 'invalid src "100.64.0.1"'),
        ({"src": '["tag:nope"]'}, 'src=not found: "tag:nope"'),
        ({"src": '["tag:server"]', "dst": '["autogroup:self"]'}, "devices of users"),
        ({"src": '[" alice@example.com"]', "dst": '["alice@example.com"]'}, ""),
        ({"dst": '["alice@example.com"]'}, "requires src to be only that user"),
    ],
)
def test_ssh_entries(fields: dict[str, str], expected: str) -> None:
    found = refusals(ssh_entry(**fields))
    assert expected in found if expected else not found


def test_ssh_rules_of_a_policy() -> None:
    parsed = document.parse(ssh_entry(users='["localpart:*@example.com", " root"]'))
    rules = SshRules(resolve_ssh(parsed.ssh or (), TAILNET), TAILNET.nodes, TAILNET.users)
    server = next(node for node in TAILNET.nodes if node.tags)
    found = [rule.ssh_users for rule in rules.policy(server, "https://vpn").rules]
    assert found == [{"root": "root"}, {"alice": "alice"}, {"root": "root"}]


def test_node_attributes_add_up() -> None:
    text = """{"randomizeClientPort": true, "nodeAttrs": [
        {"target": ["tag:server"], "attr": ["suggest-exit-node"]},
        {"target": ["autogroup:admin"], "attr": ["custom:thing"]},
        {"target": ["*"]}]}"""
    assert not refusals(text)
    found = resolve_attributes(document.parse(text), TAILNET)
    assert found[1] == {"randomize-client-port", "custom:thing"}
    assert found[3] == {"randomize-client-port", "suggest-exit-node"}
    assert own_capabilities({"a": (1,)}, found[1]) == {
        "a": (1,),
        "custom:thing": None,
        "randomize-client-port": None,
    }
    assert peer_capabilities(found[3], is_exit_node=True) == {"suggest-exit-node": None}
    assert peer_capabilities(found[3], is_exit_node=False) == {}


@pytest.mark.parametrize("pool", ["10.0.0.0/8", "100.100.100.0/28", "100.64.0.0/10", "x"])
def test_refused_pools(pool: str) -> None:
    assert "ipPool" in refusals(f'{{"nodeAttrs": [{{"target": ["*"], "ipPool": ["{pool}"]}}]}}')


def test_refused_targets() -> None:
    assert "autogroup:self" in refusals('{"nodeAttrs": [{"target": ["autogroup:self"], "attr": ["a"]}]}')
    assert "tag:nope" in refusals('{"nodeAttrs": [{"target": ["tag:nope"], "attr": ["a"]}]}')


def ssh_test(fields: str, action: str = "accept") -> list[str]:
    text = ssh_entry(action=f'"{action}"', src='["alice@example.com"]')
    parsed = document.parse(text[:-1] + ', "sshTests": [{' + fields + "}]}")
    rules = SshRules(resolve_ssh(parsed.ssh or (), TAILNET), TAILNET.nodes, TAILNET.users)
    return failures(parsed.ssh_tests, TAILNET, rules)


def test_ssh_tests() -> None:
    alice = '"src": "alice@example.com", "dst": ["tag:server", "tag:server"], '
    assert ssh_test(alice + '"accept": ["root"], "deny": ["ubuntu"]') == []
    assert ssh_test(alice + '"check": ["root"], "accept": ["root"]', "check") == []
    assert ssh_test(alice + '"check": ["root"]') == [
        "alice@example.com/root -> tag:server: expected ALLOWED via check, got ALLOWED via accept"
    ]
    assert ssh_test(alice + '"deny": ["root"]') == [
        "alice@example.com/root -> tag:server: expected DENIED, got ALLOWED"
    ]
    assert ssh_test('"src": "bob@example.org", "dst": ["tag:server"], "accept": ["root"]') != []


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ('"dst": ["tag:server"], "accept": ["root"]', "must have a src"),
        ('"src": "alice@example.com", "accept": ["root"]', "must have a dst"),
        ('"src": "alice@example.com", "dst": ["tag:server"]', "test nothing"),
        ('"src": "a@b", "dst": ["tag:server:22"], "deny": ["root"]', 'unknown tag "tag:server:22"'),
        ('"src": "a@b", "dst": ["100.64.0.0/24"], "deny": ["root"]', 'disallowed element "100.64.0.0/24"'),
        ('"src": "a@b", "dst": ["internal"], "deny": ["root"]', 'disallowed element "internal"'),
    ],
)
def test_how_ssh_tests_are_written(fields: str, expected: str) -> None:
    assert expected in refusals('{"sshTests": [{' + fields + "}]}")
