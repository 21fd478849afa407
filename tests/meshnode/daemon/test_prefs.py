"""Preferences: what a change may say, and what it must not."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from meshnode.prefs import InvalidPrefs, Prefs, apply_masked, normalise, parse_routes


def test_only_what_is_marked_as_set_changes() -> None:
    before = Prefs(hostname="old", route_all=True)
    after = apply_masked(before, {"Hostname": "new", "HostnameSet": True, "RouteAll": False})
    assert after == msgspec.structs.replace(before, hostname="new")


def test_a_field_that_is_set_without_a_value_returns_to_its_default() -> None:
    assert apply_masked(Prefs(hostname="old"), {"HostnameSet": True}).hostname == ""


def test_names_on_the_wire_are_those_of_tailscale() -> None:
    assert set(msgspec.to_builtins(Prefs())) == {
        "ControlURL",
        "WantRunning",
        "LoggedOut",
        "Hostname",
        "RouteAll",
        "ExitNodeID",
        "ExitNodeIP",
        "ExitNodeAllowLANAccess",
        "AdvertiseRoutes",
        "NoSNAT",
        "OperatorUser",
    }


@pytest.mark.parametrize(
    ("masked", "says"),
    [
        ({"Colour": "red", "ColourSet": True}, "Colour"),
        ({"RouteAll": "yes", "RouteAllSet": True}, "RouteAll"),
        ({"Hostname": "my host!", "HostnameSet": True}, "my host!"),
        ({"Hostname": "-a", "HostnameSet": True}, "-a"),
        ({"Hostname": "a" * 64, "HostnameSet": True}, "aaaa"),
        ({"ExitNodeIP": "exit", "ExitNodeIPSet": True}, "exit"),
        ({"ExitNodeAllowLANAccess": True, "ExitNodeAllowLANAccessSet": True}, "--exit-node"),
        ({"AdvertiseRoutes": ["10.0.0.0/33"], "AdvertiseRoutesSet": True}, "10.0.0.0/33"),
    ],
)
def test_a_change_that_cannot_be(masked: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidPrefs, match=says.replace("!", r"\!")):
        apply_masked(Prefs(), masked)


def test_an_exit_node_cannot_use_one() -> None:
    with pytest.raises(InvalidPrefs, match="advertise-exit-node"):
        normalise(Prefs(exit_node_ip="100.64.0.3", advertise_routes=("0.0.0.0/0", "::/0")))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("192.168.0.1/24", "192.168.0.0/24"),
        ("10.0.0.1", "10.0.0.1/32"),
        ("2001:db8::1", "2001:db8::1/128"),
        ("home", "home"),
        ("10.0.0.0/33", "10.0.0.0/33"),
        ("10.0.0.0/255.0.0.0", "10.0.0.0/8"),
        ("10.0.0.0/", "10.0.0.0/"),
        ("0.0.0.0/0", "::/0"),
        ("::/0", "0.0.0.0/0"),
    ],
)
def test_a_route_that_is_none_is_named_with_the_fix(text: str, says: str) -> None:
    with pytest.raises(InvalidPrefs) as raised:
        parse_routes([text])
    assert text in str(raised.value)
    assert says in str(raised.value)


def test_routes_come_out_once_and_sorted() -> None:
    routes = parse_routes(["2001:db8::/32", "192.168.0.0/24", "10.0.0.0/8", "192.168.0.0/24"])
    assert [str(route) for route in routes] == ["10.0.0.0/8", "192.168.0.0/24", "2001:db8::/32"]
