"""The columns of `meshnode status`: the words that scripts parse."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from meshnode.cli.status import ZERO_TIME, columns, connection, describe_state, health_lines, row, sort_key

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


def peer(**fields: Any) -> dict[str, Any]:
    return {
        "DNSName": "nas.mesh.example.",
        "HostName": "nas",
        "TailscaleIPs": ["100.64.0.7", "fd7a:115c:a1e0::7"],
        "OS": "linux",
        "UserID": 1,
        "Tags": None,
        "PublicKey": "nodekey:07",
        "RxBytes": 0,
        "TxBytes": 0,
        "Online": True,
        "Active": False,
        "CurAddr": "",
        "Relay": "home",
        "PeerRelay": "",
        "ExitNode": False,
        "ExitNodeOption": False,
        "LastSeen": ZERO_TIME,
    } | fields


BYTES = {"TxBytes": 51240, "RxBytes": 48812}
THREE_DAYS_AGO = (NOW - timedelta(days=3, hours=5)).isoformat()
DIRECT = {"Active": True, "CurAddr": "203.0.113.7:41641"}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "-"),
        (BYTES, "idle, tx 51240 rx 48812"),
        ({"ExitNodeOption": True}, "idle; offers exit node"),
        ({"ExitNodeOption": True, "ExitNode": True}, "idle; exit node"),
        ({"Online": False}, "offline"),
        ({"Online": False, "LastSeen": THREE_DAYS_AGO}, "offline, last seen 3d ago"),
        ({"Online": False, **BYTES}, "idle; offline, tx 51240 rx 48812"),
        (
            {"Online": False, "ExitNodeOption": True, "LastSeen": THREE_DAYS_AGO},
            "idle; offers exit node; offline, last seen 3d ago",
        ),
        (DIRECT | BYTES, "active; direct 203.0.113.7:41641, tx 51240 rx 48812"),
        (
            DIRECT | {"ExitNode": True, "ExitNodeOption": True, "TxBytes": 88, "RxBytes": 96},
            "active; exit node; direct 203.0.113.7:41641, tx 88 rx 96",
        ),
        ({"Active": True, "TxBytes": 148, "Relay": ""}, "active, tx 148 rx 0"),
        ({"Active": True, "TxBytes": 3120, "RxBytes": 2880}, 'active; relay "home", tx 3120 rx 2880'),
        (
            {"Active": True, "TxBytes": 10, "PeerRelay": "198.51.100.4:40001:vni:7"},
            "active; peer-relay 198.51.100.4:40001:vni:7, tx 10 rx 0",
        ),
        ({"Active": True, "Online": False}, 'active; relay "home"; offline'),
        (DIRECT | {"Online": False}, "active; direct 203.0.113.7:41641; offline"),
    ],
)
def test_the_status_column(fields: dict[str, Any], text: str) -> None:
    assert connection(peer(**fields), NOW) == text


@pytest.mark.parametrize(
    ("ago", "text"),
    [
        (timedelta(seconds=5), "1m"),
        (timedelta(minutes=59), "59m"),
        (timedelta(hours=3), "3h"),
        (timedelta(2), "2d"),
    ],
)
def test_last_seen_is_rounded(ago: timedelta, text: str) -> None:
    shown = connection(peer(Online=False, LastSeen=(NOW - ago).isoformat()), NOW)
    assert shown == f"offline, last seen {text} ago"


STATUS = {
    "BackendState": "Running",
    "MagicDNSSuffix": "mesh.example",
    "User": {"1": {"LoginName": "alice@example.com"}, "2": {"LoginName": "ana"}},
}


@pytest.mark.parametrize(
    ("fields", "cells"),
    [
        ({}, ("100.64.0.7", "nas", "alice@", "linux", "-")),
        ({"UserID": 2}, ("100.64.0.7", "nas", "ana", "linux", "-")),
        ({"UserID": 9}, ("100.64.0.7", "nas", "-", "linux", "-")),
        ({"Tags": ["tag:web"]}, ("100.64.0.7", "nas", "tagged-devices", "linux", "-")),
        ({"DNSName": "nas.other.example."}, ("100.64.0.7", "nas.other.example", "alice@", "linux", "-")),
        ({"DNSName": ""}, ("100.64.0.7", '("nas")', "alice@", "linux", "-")),
    ],
)
def test_the_other_columns(fields: dict[str, Any], cells: tuple[str, ...]) -> None:
    assert row(STATUS, peer(**fields)) == cells


def test_columns_are_padded_and_two_blanks_apart() -> None:
    assert list(columns([("a", "bbb"), ("cc", "d")])) == ["a   bbb", "cc  d  "]


def test_peers_are_sorted_by_name_then_address() -> None:
    peers = [peer(DNSName="b."), peer(DNSName="a.", TailscaleIPs=["100.64.0.2"]), peer(DNSName="a.")]
    assert [(p["DNSName"], p["TailscaleIPs"][0]) for p in sorted(peers, key=sort_key)] == [
        ("a.", "100.64.0.2"),
        ("a.", "100.64.0.7"),
        ("b.", "100.64.0.7"),
    ]


@pytest.mark.parametrize(
    ("status", "says"),
    [
        ({"BackendState": "Stopped"}, "stopped"),
        ({"BackendState": "NeedsLogin"}, "Logged out."),
        ({"BackendState": "NeedsLogin", "AuthURL": "https://x/register/y"}, "https://x/register/y"),
        ({"BackendState": "NeedsMachineAuth"}, "not yet approved"),
        ({"BackendState": "Starting", "Health": ["no contact"]}, "no contact"),
    ],
)
def test_a_node_that_is_not_connected_says_why(status: dict[str, Any], says: str) -> None:
    assert says in describe_state(status)


def test_the_health_list_is_a_comment() -> None:
    assert health_lines({"Health": []}) == ""
    assert health_lines({"Health": ["one", "two"]}) == "# Health check:\n#     - one\n#     - two"
