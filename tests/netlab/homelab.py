"""The network of the demo and of the larger system tests: a home, a café, a rented server, and the internet.

                site 198.51.100.80  2001:db8:80::80
                              │
                          backbone
                              │ .1
          internet  203.0.113.0/24  2001:db8::/64
      ┌────────────┬──────────┴─┬──────────────┬───────────────┐
 coordinator .10  server .40  exit .50      home .20        cafe .30 (NAT)
                                               │               │
                                  192.168.50.0/24        10.20.0.0/24
                                               │               │
                                            web .10       laptop .2

`site` is a page on the internet, `web` one on the home's LAN. `laptop`, `home`, `server` and `exit` are the
hosts that become nodes. Neither the home's router nor the café's lets anything in that was not asked for.
"""

from __future__ import annotations

import sys
from typing import ClassVar

from tests.netlab.host import Host
from tests.netlab.lab import Lab
from tests.netlab.processes import Process
from tests.netlab.programs import Coordinator, Node
from tests.netlab.waiting import wait_for
from tests.netlab.web import PAGE

PYTHON = sys.executable
HOME_LAN = "192.168.50.0/24"
WEB_URL = "http://192.168.50.10/"
HOME_LAN_ADDRESS = "192.168.50.1"
SITE_ADDRESS = "198.51.100.80"
SITE_ADDRESS_V6 = "2001:db8:80::80"
CAFE_UPLINK = "203.0.113.30"
EXIT_UPLINK = "203.0.113.50"
EXIT_UPLINK_V6 = "2001:db8::50"
COORDINATOR_ADDRESS = "203.0.113.10"


class HomeLab:
    """The hosts above, connected, with both web sites up. Programs of ours are not started here."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.internet = lab.lan("internet")
        self.site = self._beyond_backbone()
        self.coordinator = self._on_internet(lab.host("coordinator"), 10)
        self.server = self._on_internet(lab.host("server"), 40)
        self.exit = self._on_internet(lab.host("exit"), 50)

        self.home = lab.router("home")
        self._on_internet(self.home, 20, interface="wan")
        self.home.masquerade("wan")
        home_lan = lab.lan("home-lan")
        home_lan.attach(self.home, f"{HOME_LAN_ADDRESS}/24", interface="lan")
        self.web = lab.host("web")
        home_lan.attach(self.web, "192.168.50.10/24", gateways=[HOME_LAN_ADDRESS])

        self.cafe = lab.router("cafe")
        self._on_internet(self.cafe, 30, interface="wan")
        self.cafe.masquerade("wan")
        cafe_lan = lab.lan("cafe-lan")
        cafe_lan.attach(self.cafe, "10.20.0.1/24", interface="lan")
        self.laptop = lab.host("laptop")
        cafe_lan.attach(self.laptop, "10.20.0.2/24", gateways=["10.20.0.1"])

        self.web_log = serve_pages(self.web)
        self.site_log = serve_pages(self.site)

    def _on_internet(self, host: Host, number: int, interface: str = "eth0") -> Host:
        addresses = f"203.0.113.{number}/24", f"2001:db8::{number}/64"
        self.internet.attach(host, *addresses, interface=interface, gateways=["203.0.113.1", "2001:db8::1"])
        return host

    def _beyond_backbone(self) -> Host:
        """The site, a hop behind the backbone, so that nobody on the internet has it as a neighbour."""
        backbone, site = self.lab.router("backbone"), self.lab.host("site")
        self.internet.attach(backbone, "203.0.113.1/24", "2001:db8::1/64")
        self.lab.link((backbone, "far"), (site, "eth0"))
        backbone.set_addresses("far", ["198.51.100.1/24", "2001:db8:80::1/64"])
        site.set_addresses("eth0", [f"{SITE_ADDRESS}/24", f"{SITE_ADDRESS_V6}/64"])
        site.add_default_routes(["198.51.100.1", "2001:db8:80::1"])
        return site

    @property
    def nodes(self) -> dict[str, Host]:
        """The hosts that become nodes, by the name they join under."""
        return {"laptop": self.laptop, "home": self.home, "server": self.server, "exit": self.exit}


def serve_pages(host: Host, port: int = 80) -> Process:
    """Start the web site of `tests.netlab.web` on a host and wait until it listens."""
    site = host.popen(PYTHON, "-m", "tests.netlab.web", str(port), log=f"web-{port}")
    wait_for(lambda: "listening" in site.output(), 10, what=f"the web site on {host.name}")
    return site


def fetch(host: Host, url: str, timeout: float = 3.0) -> str | None:
    """The body of the page as `host` gets it, or None when it does not get one in time."""
    words = ["curl", "--silent", "--show-error", "--fail", "--max-time", f"{timeout:g}", url]
    done = host.run(*words, check=False, timeout=timeout + 10)
    return done.stdout if done.returncode == 0 else None


def fetches_web_page(host: Host) -> bool:
    """Whether `host` gets the page of the web server on the home's LAN."""
    return fetch(host, WEB_URL) == PAGE


def address_seen_by_site(host: Host, address: str = SITE_ADDRESS) -> str | None:
    """What address `host` has for the page on the internet, which answers with its caller's."""
    shown = f"[{address}]" if ":" in address else address
    body = fetch(host, f"http://{shown}/ip")
    return None if body is None else body.strip()


class HomeMesh:
    """The home lab with the project's programs: a coordinator of the user ana, and nodes that join it."""

    # What each node says of itself when it joins.
    FLAGS: ClassVar[dict[str, tuple[str, ...]]] = {
        "laptop": ("--accept-routes",),
        "home": ("--advertise-routes", HOME_LAN),
        "server": (),
        "exit": ("--advertise-exit-node",),
    }

    def __init__(self, lab: Lab) -> None:
        self.network = HomeLab(lab)
        self.coordinator = Coordinator(self.network.coordinator, COORDINATOR_ADDRESS)
        self.nodes = {name: Node(host) for name, host in self.network.nodes.items()}

    def start_coordinator(self) -> None:
        """Serve, with a first user."""
        self.coordinator.start()
        self.coordinator.run("users", "create", "ana")

    def join(self, name: str) -> Node:
        """Bring a node up with a key of its own, by the one command that its user says: `up`."""
        node = self.nodes[name]
        key = self.coordinator.create_key("ana")
        node.up(self.coordinator, "--authkey", key, *self.FLAGS[name], *node.where)
        return node

    def pairs(self) -> list[tuple[Node, Node]]:
        """Every node with every other; the café's first, for it can only be answered, not called."""
        return [(a, b) for a in self.nodes.values() for b in self.nodes.values() if a is not b]
