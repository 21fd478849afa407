"""Flags and preferences: what a line sets, and when `up` must refuse it."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from meshnode.cli.errors import CommandError
from meshnode.cli.settings import (
    DEFAULT_VALUES,
    Flags,
    changes,
    check_mentions,
    flag_values,
    masked,
    overlay,
    resolve_exit_node,
)
from meshnode.prefs import Prefs, apply_masked

EXIT = ("0.0.0.0/0", "::/0")
SERVER = "https://vpn.example.org"


def peer(name: str, number: int, **fields: Any) -> dict[str, Any]:
    return {
        "ID": f"n{number}",
        "DNSName": f"{name}.mesh.example.",
        "HostName": name,
        "TailscaleIPs": [f"100.64.0.{number}", f"fd7a:115c:a1e0::{number}"],
        "ExitNodeOption": False,
    } | fields


STATUS = {
    "Self": peer("laptop", 1),
    "Peer": {
        "a": peer("exit", 2, ExitNodeOption=True),
        "b": peer("plain", 3),
        "c": peer("twin", 4, DNSName="twin.a.example.", ExitNodeOption=True),
        "d": peer("twin", 5, DNSName="twin.b.example.", ExitNodeOption=True),
    },
}


def test_each_flag_sets_its_preference() -> None:
    line = Flags(
        login_server=SERVER,
        hostname="x",
        accept_routes=True,
        advertise_routes="192.168.0.0/24, 10.0.0.0/8",
        exit_node="100.64.0.2",
        exit_node_allow_lan_access=True,
        snat_subnet_routes=False,
        operator="ana",
    )
    assert overlay(Prefs(), line, {}) == Prefs(
        control_url=SERVER,
        hostname="x",
        route_all=True,
        advertise_routes=("10.0.0.0/8", "192.168.0.0/24"),
        exit_node_ip="100.64.0.2",
        exit_node_allow_lan_access=True,
        no_snat=True,
        operator_user="ana",
    )


def test_what_is_not_on_the_line_stays() -> None:
    before = Prefs(control_url=SERVER, hostname="x", route_all=True, advertise_routes=("10.0.0.0/8", *EXIT))
    assert overlay(before, Flags(), {}) == overlay(before, Flags(hostname="x"), {})


def test_subnets_and_exit_node_are_offered_independently() -> None:
    both = Prefs(advertise_routes=("0.0.0.0/0", "10.0.0.0/8", "::/0"))
    assert set(overlay(both, Flags(advertise_routes=""), {}).advertise_routes) == set(EXIT)
    assert overlay(both, Flags(advertise_exit_node=False), {}).advertise_routes == ("10.0.0.0/8",)
    assert overlay(Prefs(), Flags(advertise_routes="0.0.0.0/0,::/0"), {}).advertises_exit_node


def test_clearing_the_exit_node_clears_lan_access_too() -> None:
    before = Prefs(exit_node_id="n2", exit_node_allow_lan_access=True)
    assert overlay(before, Flags(exit_node=""), STATUS) == Prefs()


@pytest.mark.parametrize(
    "word", ["exit", "EXIT", "exit.mesh.example", "exit.mesh.example.", "n2", "100.64.0.2"]
)
def test_an_exit_node_by_any_of_its_names(word: str) -> None:
    assert resolve_exit_node(word, STATUS) == ("n2", "")


def test_an_address_is_taken_on_trust_while_there_is_no_map() -> None:
    assert resolve_exit_node("100.64.0.2", {}) == ("", "100.64.0.2")
    assert resolve_exit_node("", STATUS) == ("", "")


@pytest.mark.parametrize(
    ("word", "status", "says"),
    [
        ("nobody", STATUS, "exit nodes here: exit, twin, twin"),
        ("nobody", {}, "IP address"),
        ("nobody", {"Peer": {"b": peer("plain", 3)}}, "offers itself"),
        ("100.64.0.99", STATUS, "100.64.0.99"),
        ("plain", STATUS, "approve-routes"),
        ("twin", STATUS, "2 nodes"),
        ("laptop", STATUS, "--advertise-exit-node"),
        ("100.64.0.1", STATUS, "--advertise-exit-node"),
    ],
)
def test_an_exit_node_that_is_none(word: str, status: dict[str, Any], says: str) -> None:
    with pytest.raises(CommandError) as raised:
        resolve_exit_node(word, status)
    assert word in raised.value.message
    assert says in raised.value.message


def refusal(current: Prefs, line: Flags, user: str = "root") -> list[str] | None:
    """The complete line that a refusal shows, or None where the line is accepted."""
    try:
        check_mentions(current, line, user=user, program=["meshnode", "up"])
    except CommandError as error:
        (command,) = [text for text in error.message.splitlines() if text.startswith("\t")]
        return shlex.split(command)
    return None


def test_a_line_that_forgets_settings_is_refused_with_the_complete_one() -> None:
    current = Prefs(
        control_url=SERVER,
        hostname="my'host",
        route_all=True,
        advertise_routes=("10.0.0.0/8", *EXIT),
        no_snat=True,
    )
    assert refusal(current, Flags(hostname="new", accept_routes=False)) == [
        "meshnode",
        "up",
        "--accept-routes=false",
        "--advertise-exit-node",
        "--advertise-routes=10.0.0.0/8",
        "--hostname=new",
        f"--login-server={SERVER}",
        "--snat-subnet-routes=false",
    ]


def test_the_complete_line_is_accepted() -> None:
    current = Prefs(control_url=SERVER, hostname="x", route_all=True, exit_node_id="n2", operator_user="ana")
    complete = Flags(login_server=SERVER, hostname="x", accept_routes=True, exit_node="n2", operator="ana")
    assert refusal(current, complete) is None


def test_the_operator_need_not_mention_themselves() -> None:
    current = Prefs(operator_user="ana")
    assert refusal(current, Flags(hostname="x"), user="ana") is None
    assert refusal(current, Flags(hostname="x"), user="bob") is not None


def test_every_preference_that_a_person_sets_has_its_flag() -> None:
    everything = Prefs(
        control_url=SERVER,
        hostname="x",
        route_all=True,
        exit_node_id="n2",
        exit_node_allow_lan_access=True,
        advertise_routes=("10.0.0.0/8",),
        no_snat=True,
        operator_user="ana",
    )
    values = flag_values(everything)
    assert {name for name in values if values[name] != DEFAULT_VALUES[name]} == set(values) - {
        "advertise-exit-node"
    }


def test_a_change_names_only_what_differs() -> None:
    before, after = Prefs(hostname="x", route_all=True), Prefs(hostname="y", route_all=True)
    change = changes(before, after)
    assert change == {"Hostname": "y", "HostnameSet": True}
    assert apply_masked(before, change) == after
    assert apply_masked(before, masked(after)) == after
