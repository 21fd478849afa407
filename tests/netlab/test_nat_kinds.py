"""Each kind of NAT is what it says, as a STUN server and two clients of others see it."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.netlab import Host, Lab, wait_for
from tests.netlab.classify import Observed
from tests.netlab.homelab import serve_pages
from tests.netlab.nat import Filtering, Mapping, Nat, Ports
from tests.netlab.networks import HOMES, KINDS
from tests.netlab.sites import Internet, IPv6, Site

pytestmark = pytest.mark.system

STUN = ("25.0.113.2", "25.0.113.3")
PORTS = (3478, 3479)


@pytest.fixture(scope="module")
def internet() -> Iterator[Internet]:
    """An internet with a STUN server that has two addresses."""
    with Lab("nat") as lab:
        internet = Internet(lab)
        server = internet.server("stun", *STUN)
        words = ("--listen", f"{STUN[0]}:{PORTS[0]}", "--alternate", f"{STUN[1]}:{PORTS[1]}")
        process = server.popen(sys.executable, "-m", "stun", *words, log="stun")
        wait_for(lambda: "3478" in process.output(), 10, what="the STUN server")
        yield internet


def observe(host: Host) -> Observed:
    """What our own client finds out."""
    words = [sys.executable, "-m", "tests.netlab.classify", f"{STUN[0]}:{PORTS[0]}"]
    return Observed.from_json(host.run(*words).stdout)


@pytest.mark.parametrize("name", HOMES)
def test_home(internet: Internet, name: str) -> None:
    site = HOMES[name].site
    assert site.nat is not None
    expected = site.nat.behaviour
    seen = observe(internet.place(f"h-{name[:20]}", site).host)
    assert seen == Observed(True, expected.mapping, expected.filtering, expected.ports)


@pytest.mark.parametrize("name", HOMES)
def test_home_behind_a_carrier_is_the_stricter_of_both(internet: Internet, name: str) -> None:
    site = KINDS[f"cgnat-{name}"].site
    assert site.nat is not None
    seen = observe(internet.place(f"c-{name[:20]}", site).host)
    assert seen.mapping == site.nat.behaviour.mapping
    assert seen.filtering is Filtering.ADDRESS_AND_PORT_DEPENDENT
    assert seen.ports is Ports.RANDOM
    assert not seen.hairpins


@pytest.mark.interop
def test_clients_of_others_see_the_same(internet: Internet) -> None:
    """coturn's, which knows RFC 5780, and stun-client, which knows RFC 3489 and its words."""
    places = {name: internet.place(f"o-{name[:20]}", kind.site) for name, kind in HOMES.items()}
    modern = {
        name: place.host.popen("turnutils_natdiscovery", "-m", "-f", STUN[0])
        for name, place in places.items()
    }
    classic = {name: place.host.popen("stun", STUN[0]) for name, place in places.items()}
    for process in (*modern.values(), *classic.values()):
        process.wait(check=False)  # the status of `stun` is the kind of NAT
    for name, kind in HOMES.items():
        assert kind.site.nat is not None
        behaviour = kind.site.nat.behaviour
        seen = modern[name].output().lower()
        assert f"nat with {spoken(behaviour.mapping)} mapping" in seen, name
        assert f"nat with {spoken(behaviour.filtering)} filtering" in seen, name
        assert CLASSIC[name] in classic[name].output()


def spoken(behaviour: Mapping | Filtering) -> str:
    words: str = behaviour.value
    return words.replace("-", " ")


CLASSIC = {
    "full-cone": "Independent Mapping, Independent Filter, preserves ports, no hairpin",
    "address-restricted": "Independent Mapping, Address Dependent Filter, preserves ports, no hairpin",
    "port-restricted": "Independent Mapping, Port Dependent Filter, preserves ports, no hairpin",
    "symmetric-sequential": "Dependent Mapping, random port, no hairpin",
    "symmetric-random": "Dependent Mapping, random port, no hairpin",
}


def test_both_sides_of_a_nat_that_hairpins(internet: Internet) -> None:
    assert observe(internet.place("hairpin", KINDS["hairpin"].site).host) == Observed(
        True, Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT, Ports.PRESERVED, True
    )
    carrier = internet.carrier(Nat.CARRIER, hairpins=True)
    # What comes back to the customer is news to its home's router, which must not mind.
    customer = internet.place("customer", Site(Nat.FULL_CONE), carrier=carrier)
    assert observe(customer.host).hairpins


def test_open(internet: Internet) -> None:
    seen = observe(internet.place("open", KINDS["open"].site).host)
    assert seen == Observed(True, None, Filtering.ENDPOINT_INDEPENDENT, None)


def test_what_is_blocked(internet: Internet) -> None:
    no_udp = internet.place("no-udp", KINDS["udp-blocked"].site).host
    only_443 = internet.place("only-443", KINDS["only-443"].site).host
    assert not observe(no_udp).answers
    assert not observe(only_443).answers
    server = internet.lab.hosts["stun"]
    for port in (80, 443):
        serve_pages(server, port)
    fetched = {
        (host.name, port): host.run("curl", "-sm3", f"http://{STUN[0]}:{port}/", check=False).returncode == 0
        for host in (no_udp, only_443)
        for port in (80, 443)
    }
    assert [place for place, came in fetched.items() if not came] == [("only-443", 80)]


def test_filtered_and_open_ipv6(internet: Internet) -> None:
    server = internet.server("v6", "2001:db8::9")
    behind = {ipv6: internet.place(f"v6-{ipv6.name.lower()}", Site(ipv6=ipv6)) for ipv6 in IPv6}
    assert not behind[IPv6.NONE].host.reaches("2001:db8::9")
    for ipv6 in (IPv6.OPEN, IPv6.FILTERED):
        assert behind[ipv6].host.reaches("2001:db8::9")
    for ipv6 in (IPv6.OPEN, IPv6.FILTERED):
        number = behind[ipv6].number
        assert server.reaches(f"2001:db8:1:{number:x}::{number:x}") == (ipv6 is IPv6.OPEN)
