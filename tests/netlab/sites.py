"""Where a machine stands: what is between it and the internet, described in a few words and built to be used.

    internet = Internet(lab)
    cafe = internet.place("cafe", Site(nat=Nat.SYMMETRIC_RANDOM, carrier=Nat.CARRIER))
    cafe.host.ping(internet.GATEWAY)

                    backbone 25.0.113.1  2001:db8::1
                                  │
      internet  25.0.113.0/24  2001:db8::/64
        ┌───────────┬─────────────┴───────┬──────────────────┐
      server     a host           a home's router     a carrier's router
                 (open)                   │                  │
                                192.168.1.0/24         100.96.n.0/24
                             2001:db8:1:n::/64               │
                                          │           a home's router …
                                       a host

All homes have the same IPv4 network, as half the world's do. The internet's is none of those for
documentation, since port mappers do not take an address from there for a public one; nothing of it leaves the
machine.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from tests.netlab.host import Host
from tests.netlab.lab import Lab
from tests.netlab.miniupnpd import Miniupnpd, Service
from tests.netlab.nat import Interfaces, Nat
from tests.netlab.router import Egress, Router
from tests.netlab.segment import Lan
from tests.netlab.weather import CLEAR, Weather


class IPv6(enum.Enum):
    """Whether a place has IPv6, which is never translated, and what its router lets in."""

    NONE = "none"
    FILTERED = "only what was asked for from inside comes in"
    OPEN = "everything comes in"


@dataclass(frozen=True)
class Site:
    """What stands between a machine and the internet.

    - `nat`: of the home's router; None for a machine that is on the internet itself, where nothing but `ipv6`
      and `weather` means anything.
    - `carrier`: the NAT of the carrier whose customer the home's router is; None for a public address.
    - `hairpins`: whether the outermost NAT lets its inner side reach itself by outer addresses.
    - `egress`: what the home's router lets out.
    - `port_mapper`: the protocols by which the home's router takes requests for mappings.
    - `drops_unsolicited`: whether the home's router passes over in silence what it was not asked for. One
      that does not remembers the sender, whose port it then cannot give to an answer from inside.
    - `weather`: on the cable to the internet.
    """

    nat: Nat | None = Nat.PORT_RESTRICTED
    carrier: Nat | None = None
    hairpins: bool = False
    egress: Egress = Egress.ALL
    port_mapper: Service | None = None
    drops_unsolicited: bool = True
    ipv6: IPv6 = IPv6.NONE
    weather: Weather = CLEAR

    def behind(self, carrier: Nat) -> Site:
        """The same home as this carrier's customer."""
        return replace(self, carrier=carrier)


@dataclass
class Carrier:
    """A carrier that translates its customers' addresses, and their common network behind it."""

    router: Router
    lan: Lan
    address: str
    address_v6: str
    number: int


@dataclass
class Place:
    """A site that was built. `router` is the home's; without one the machine is on the internet itself."""

    name: str
    site: Site
    host: Host
    number: int
    router: Router | None = None
    carrier: Carrier | None = None
    lan: Lan | None = None
    port_mapper: Miniupnpd | None = None

    @property
    def routers(self) -> list[Router]:
        """What is on the way from the machine to the internet, the nearest first."""
        carrier = self.carrier.router if self.carrier else None
        return [router for router in (self.router, carrier) if router]

    def forget_flows(self) -> None:
        """All translations and connections on the way are lost, as when the power fails."""
        for router in self.routers:
            router.forget_flows()


class Internet:
    """The internet of a lab, to which places are added."""

    GATEWAY = "25.0.113.1"
    GATEWAY_V6 = "2001:db8::1"

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.lan = lab.lan("internet")
        self.backbone = lab.router("backbone")
        self.lan.attach(self.backbone, f"{self.GATEWAY}/24", f"{self.GATEWAY_V6}/64")
        # Private addresses lead nowhere: what is sent there is lost, and nobody is told.
        private = ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16")
        self.backbone.ip(*(f"route add blackhole {prefix}" for prefix in private))
        self._places = 0

    def server(self, name: str, *addresses: str) -> Host:
        """A machine at chosen addresses of the internet's network, without prefix length."""
        host = self.lab.host(name)
        self._join(host, *addresses, interface="eth0", weather=CLEAR)
        return host

    def carrier(self, nat: Nat, *, hairpins: bool = False) -> Carrier:
        """A carrier, for places to be its customers."""
        number = self._next_number()
        router = self.lab.router(f"carrier{number}")
        address, address_v6 = f"25.0.113.{number}", f"2001:db8::{number:x}"
        self._join(router, address, address_v6, interface="wan", weather=CLEAR)
        lan = self.lab.lan(f"carrier{number}")
        lan.attach(router, f"100.96.{number}.1/24", f"2001:db8:2:{number:x}::1/64", interface="lan")
        router.firewall("wan", open_ipv6=True)
        router.translate(nat, Interfaces("wan", address, "lan"), hairpins=hairpins)
        return Carrier(router, lan, address, address_v6, number)

    def place(self, name: str, site: Site, *, carrier: Carrier | None = None) -> Place:
        """Build a site, with a machine of this name in it. `carrier` makes it share one that is there."""
        if site.carrier is not None and carrier is None:
            carrier = self.carrier(site.carrier, hairpins=site.hairpins)
        number = self._next_number()
        if site.nat is None:
            return self._open_place(name, site, number)
        router = self.lab.router(f"{name}-router")
        address = self._connect(router, site, number, carrier)
        lan = self.lab.lan(f"home{number}")
        lan.attach(router, "192.168.1.1/24", *_home_v6(site, number, "1"), interface="lan")
        router.firewall("wan", open_ipv6=site.ipv6 is IPv6.OPEN, drops_unsolicited=site.drops_unsolicited)
        router.restrict(site.egress)
        hairpins = site.hairpins and carrier is None
        router.translate(site.nat, Interfaces("wan", address, "lan"), hairpins=hairpins)
        place = Place(name, site, self.lab.host(name), number, router, carrier, lan)
        self._plug_in(place, number)
        if site.port_mapper:
            place.port_mapper = Miniupnpd(router, services=site.port_mapper)
            place.port_mapper.start()
        return place

    def neighbour(self, name: str, place: Place) -> Place:
        """One more machine in a home that was built."""
        assert place.lan is not None, f"{place.name} has no network of its own"
        neighbour = replace(place, name=name, host=self.lab.host(name))
        self._plug_in(neighbour, self._next_number())
        return neighbour

    def _plug_in(self, place: Place, number: int) -> None:
        """Connect a place's machine to its home's network, as number `number` there."""
        assert place.lan is not None
        addresses = f"192.168.1.{number}/24", *_home_v6(place.site, place.number, f"{number:x}")
        gateways = "192.168.1.1", *_without_length(_home_v6(place.site, place.number, "1"))
        place.lan.attach(place.host, *addresses, gateways=gateways)

    def _open_place(self, name: str, site: Site, number: int) -> Place:
        host = self.lab.host(name)
        v6 = [] if site.ipv6 is IPv6.NONE else [f"2001:db8::{number:x}"]
        self._join(host, f"25.0.113.{number}", *v6, interface="eth0", weather=site.weather)
        return Place(name, site, host, number)

    def _connect(self, router: Router, site: Site, number: int, carrier: Carrier | None) -> str:
        """Lay a home's cable to the internet or its carrier; the router's address there."""
        has_v6 = site.ipv6 is not IPv6.NONE
        home = f"2001:db8:1:{number:x}::/64"
        if carrier is None:
            address, address_v6 = f"25.0.113.{number}", f"2001:db8::{number:x}"
            v6 = [address_v6] if has_v6 else []
            self._join(router, address, *v6, interface="wan", weather=site.weather)
            if has_v6:
                self.backbone.add_route(home, via=address_v6)
            return address
        address, prefix = f"100.96.{carrier.number}.{number}", f"2001:db8:2:{carrier.number:x}::"
        v6 = [f"{prefix}{number:x}/64"] if has_v6 else []
        gateways = [f"100.96.{carrier.number}.1", *([f"{prefix}1"] if has_v6 else [])]
        carrier.lan.attach(
            router, f"{address}/24", *v6, interface="wan", gateways=gateways, weather=site.weather
        )
        if has_v6:
            self.backbone.add_route(home, via=carrier.address_v6)
            carrier.router.add_route(home, via=f"{prefix}{number:x}")
        return address

    def _join(self, host: Host, *addresses: str, interface: str, weather: Weather) -> None:
        has_v6 = any(":" in address for address in addresses)
        written = [f"{address}/{64 if ':' in address else 24}" for address in addresses]
        has_v4 = any(":" not in address for address in addresses)
        gateways = [*([self.GATEWAY] if has_v4 else []), *([self.GATEWAY_V6] if has_v6 else [])]
        self.lan.attach(host, *written, interface=interface, gateways=gateways, weather=weather)

    def _next_number(self) -> int:
        """The number of a place in all its addresses; below them are those of servers."""
        self._places += 1
        number = 20 + self._places
        assert number < 255, "the internet is full"
        return number


def _home_v6(site: Site, number: int, host: str) -> list[str]:
    return [] if site.ipv6 is IPv6.NONE else [f"2001:db8:1:{number:x}::{host}/64"]


def _without_length(addresses: list[str]) -> list[str]:
    return [address.partition("/")[0] for address in addresses]
