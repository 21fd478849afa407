"""The catalogue: kinds of places a machine can be in, and networks of two machines to try things in."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from tests.netlab.miniupnpd import Service
from tests.netlab.nat import Nat
from tests.netlab.router import Egress
from tests.netlab.sites import IPv6, Site
from tests.netlab.weather import Weather


@dataclass(frozen=True)
class Kind:
    """A kind of place, with a line that tells a person what it is."""

    site: Site
    about: str


HOMES = {
    "full-cone": Kind(
        Site(Nat.FULL_CONE), "home router: one outer port per inner one, everybody may send to it"
    ),
    "address-restricted": Kind(
        Site(Nat.ADDRESS_RESTRICTED), "home router: who was sent to may answer, from any port"
    ),
    "port-restricted": Kind(
        Site(Nat.PORT_RESTRICTED), "home router, the usual one: only the port that was sent to may answer"
    ),
    "symmetric-sequential": Kind(
        Site(Nat.SYMMETRIC_SEQUENTIAL), "home router: the next outer port for each destination"
    ),
    "symmetric-random": Kind(
        Site(Nat.SYMMETRIC_RANDOM), "home router: a random outer port for each destination"
    ),
}
"""What stands in homes: those over each of which a carrier's NAT is put as well."""

MATRIX_KINDS = {
    "open": Kind(Site(nat=None), "on the internet itself, no NAT, no firewall"),
    **HOMES,
    **{
        f"cgnat-{name}": Kind(kind.site.behind(Nat.CARRIER), f"{name}, behind a carrier's NAT")
        for name, kind in HOMES.items()
    },
    "udp-blocked": Kind(Site(egress=Egress.NO_UDP), "no UDP leaves"),
}
"""The kinds of which every pair is measured."""

_HOME = Site(Nat.PORT_RESTRICTED)
_HARD = Site(Nat.SYMMETRIC_RANDOM)

KINDS = {
    **MATRIX_KINDS,
    "only-443": Kind(Site(egress=Egress.ONLY_HTTPS), "nothing but TCP to port 443 leaves"),
    "hairpin": Kind(
        replace(_HOME, hairpins=True), "port-restricted, and hosts inside meet by outer addresses"
    ),
    "port-mapper": Kind(
        replace(_HARD, port_mapper=Service.ALL), "symmetric-random, with UPnP, NAT-PMP and PCP (miniupnpd)"
    ),
    "no-drop": Kind(
        replace(_HOME, drops_unsolicited=False), "port-restricted, and refuses where others drop"
    ),
    "ipv6": Kind(replace(_HARD, ipv6=IPv6.OPEN), "symmetric-random for IPv4, and IPv6 that nobody filters"),
    "ipv6-firewall": Kind(
        replace(_HARD, ipv6=IPv6.FILTERED), "symmetric-random for IPv4, and IPv6 behind a stateful firewall"
    ),
    "lossy": Kind(
        replace(_HOME, weather=Weather(delay=0.02, jitter=0.01, loss=0.05)),
        "port-restricted, 20 to 30 ms away, every 20th packet is lost",
    ),
    "far": Kind(replace(_HOME, weather=Weather(delay=0.15)), "port-restricted, 150 ms away"),
}
"""Every kind, by the name that a person says."""


class Shared(enum.Enum):
    """What two places have in common."""

    NOTHING = "each has its own way to the internet"
    CARRIER = "they are customers of one carrier, behind the same NAT"
    HOME = "they are in one home"


@dataclass(frozen=True)
class Network:
    """Two places, named `left` and `right`."""

    left: Site
    right: Site
    about: str
    shared: Shared = Shared.NOTHING


_CUSTOMER = _HOME.behind(Nat.CARRIER)

NETWORKS = {
    "home-both": Network(_HOME, _HOME, "two homes with the usual router: easy"),
    "cgnat-both": Network(_CUSTOMER, _CUSTOMER, "two homes, each behind its own carrier's NAT"),
    "cgnat-same": Network(
        _CUSTOMER, _CUSTOMER, "two homes behind one carrier's NAT, which does not hairpin", Shared.CARRIER
    ),
    "cgnat-hairpin": Network(
        replace(_CUSTOMER, hairpins=True),
        replace(_CUSTOMER, hairpins=True),
        "two homes behind one carrier's NAT, which hairpins",
        Shared.CARRIER,
    ),
    "hard-easy": Network(_HARD, _HOME, "random outer ports on one side: needs the spray"),
    "hard-both": Network(_HARD, _HARD, "random outer ports on both sides: stays on the relay"),
    "one-home": Network(_HOME, _HOME, "two machines in one home", Shared.HOME),
    "blocked": Network(KINDS["udp-blocked"].site, _HOME, "one side without UDP"),
    "only-443": Network(KINDS["only-443"].site, _HOME, "one side with nothing but TCP to port 443"),
    "port-mapper": Network(KINDS["port-mapper"].site, _HARD, "hard on both sides, but one has a port mapper"),
    "ipv6-one": Network(KINDS["ipv6"].site, _HOME, "IPv6 on one side, IPv4 on both"),
    "ipv6-firewalls": Network(
        KINDS["ipv6-firewall"].site, KINDS["ipv6-firewall"].site, "hard for IPv4, IPv6 behind firewalls"
    ),
    "no-drop": Network(
        KINDS["no-drop"].site, KINDS["no-drop"].site, "routers that refuse instead of dropping"
    ),
    "lossy": Network(KINDS["lossy"].site, KINDS["lossy"].site, "20 to 30 ms and 5 % loss on both sides"),
    "far": Network(KINDS["far"].site, _HOME, "300 ms round trip"),
}
"""Networks with a name of their own."""

PAIR_SEPARATOR = ","


def find(name: str) -> Network:
    """The network of this name; any two kinds with a comma between them are one too. Raises KeyError."""
    if PAIR_SEPARATOR not in name:
        return NETWORKS[name]
    left, right = name.split(PAIR_SEPARATOR, 1)
    return Network(KINDS[left].site, KINDS[right].site, f"{KINDS[left].about}; {KINDS[right].about}")
