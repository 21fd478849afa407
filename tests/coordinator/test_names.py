"""Names of nodes and users."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator import names
from coordinator.errors import Invalid


@pytest.mark.parametrize(
    ("hostname", "expected"),
    [
        ("laptop", "laptop"),
        ("Ana's MacBook Pro", "anas-macbook-pro"),
        ("server.local", "server"),
        ("server.lan", "server"),
        ("server.localdomain", "server"),
        ("web.prod.example.org", "web-prod-example-org"),
        ("under_score", "under-score"),
        ("--x--", "x"),
        ("日本語", "node"),
        ("", "node"),
        ("a" * 70, "a" * 63),
        ("a" * 62 + ".b", "a" * 62),
        ("ä" * 40 + "web", "node"),
        ("SERVER.LOCAL", "server-local"),
        ("a.lan.local", "a"),
        ("a b@c_d", "a-b-c-d"),
        ("-日本-web-日本-", "web"),
        ("\u212a", "node"),
    ],
)
def test_given_names(hostname: str, expected: str) -> None:
    assert names.given_name(hostname) == expected


@given(st.text(max_size=100))
def test_every_hostname_gives_a_label(hostname: str) -> None:
    label = names.given_name(hostname)
    names.check_label(label)
    assert names.follows_hostname(label, hostname)


def test_collisions_take_the_lowest_free_number() -> None:
    assert names.unique_name("web", set()) == "web"
    assert names.unique_name("web", {"web"}) == "web-1"
    assert names.unique_name("web", {"web", "web-1", "web-3"}) == "web-2"
    long = "a" * 63
    assert names.unique_name(long, {long}) == "a" * 61 + "-1"


@pytest.mark.parametrize(
    ("name", "hostname", "follows"),
    [
        ("web", "web", True),
        ("web-2", "web", True),
        ("web-x", "web", False),
        ("db", "web", False),
        ("web-0", "web", False),
    ],
)
def test_whether_a_name_follows_the_host(name: str, hostname: str, follows: bool) -> None:
    assert names.follows_hostname(name, hostname) is follows


@pytest.mark.parametrize("label", ["", "-a", "a-", "A", "a.b", "a_b", "a" * 64, "ä"])
def test_labels_that_are_none(label: str) -> None:
    with pytest.raises(Invalid):
        names.check_label(label)


@pytest.mark.parametrize("name", ["ana", "a1", "Ana.B-c_d", "ana@example.org"])
def test_user_names(name: str) -> None:
    names.check_user_name(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a", "username must be at least 2 characters long"),
        ("1a", "username must start with a letter"),
        ("a@b@c", "username cannot contain more than one '@'"),
        ("a%b", "username contains invalid character: '%'"),
        ("aé", "username contains invalid character: 'é'"),
    ],
)
def test_user_names_that_are_refused(name: str, message: str) -> None:
    with pytest.raises(Invalid) as refusal:
        names.check_user_name(name)
    assert str(refusal.value) == message


@pytest.mark.parametrize("tag", ["x", "tag:", "tag:1", "tag:a_b", "tag:-a"])
def test_tags_that_are_refused(tag: str) -> None:
    with pytest.raises(Invalid):
        names.check_tag(tag)


def test_full_names() -> None:
    assert names.fqdn("web", "mesh.test") == "web.mesh.test."
    assert names.fqdn("web", "") == "web"
    assert names.fqdn("a" * 63, ".".join(["d" * 60] * 4)) is None
