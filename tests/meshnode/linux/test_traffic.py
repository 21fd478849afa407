"""Packets go where the configuration says: pings, pages and captures between namespaces.

                    site 198.51.100.80, 2001:db8:80::80
                          │
                      backbone
                          │
        internet  203.0.113.0/24, 2001:db8::/64
              │                           │
        home .20 (NAT)              server .40, ::40
              │                           │
    192.168.1.0/24, 2001:db8:1::/64    office 10.1.0.0/24, fd00:10::/64
        │             │                   │
     laptop .2     printer .20        files .10

`laptop` (100.64.0.1) and `server` (100.64.0.2) are plain nodes: everything but WireGuard.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.meshnode.linux.node_process import PORT, Config, PlainNode, differences, snapshot
from tests.netlab import Host, Lab, Lan, wait_for
from tests.netlab.homelab import fetch, serve_pages

pytestmark = pytest.mark.system

LAPTOP, LAPTOP6 = "100.64.0.1", "fd7a:115c:a1e0::1"
SERVER, SERVER6 = "100.64.0.2", "fd7a:115c:a1e0::2"
SITE, SITE6 = "198.51.100.80", "2001:db8:80::80"
PRINTER, PRINTER6 = "192.168.1.20", "2001:db8:1::20"
FILES, FILES6 = "10.1.0.10", "fd00:10::10"
ANYWHERE = ["0.0.0.0/0", "::/0"]
HOME_LAN = ["192.168.1.0/24", "2001:db8:1::/64"]
OFFICE = ["10.1.0.0/24", "fd00:10::/64"]

ON_LAPTOP: Config = {
    "addresses": [f"{LAPTOP}/32", f"{LAPTOP6}/128"],
    "routes": [f"{SERVER}/32", f"{SERVER6}/128"],
    "listen_port": PORT,
}
ON_SERVER: Config = {
    "addresses": [f"{SERVER}/32", f"{SERVER6}/128"],
    "routes": [f"{LAPTOP}/32", f"{LAPTOP6}/128"],
    "listen_port": PORT,
}


def through(peer: Config, *more: str) -> Config:
    """A node's configuration with more routes into the tunnel."""
    return {**peer, "routes": [*peer["routes"], *more]}


class World:
    """The network above, with both nodes running and the peers of each other."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.undo = ExitStack()
        internet, home_lan, office = lab.lan("internet"), lab.lan("home-lan"), lab.lan("office")
        backbone = lab.router("backbone")
        internet.attach(backbone, "203.0.113.1/24", "2001:db8::1/64")
        backbone.add_route("2001:db8:1::/64", via="2001:db8::20")
        self.site = lab.host("site")
        lab.link((backbone, "far"), (self.site, "eth0"))
        backbone.set_addresses("far", ["198.51.100.1/24", "2001:db8:80::1/64"])
        self.site.set_addresses("eth0", [f"{SITE}/24", f"{SITE6}/64"])
        self.site.add_default_routes(["198.51.100.1", "2001:db8:80::1"])

        self.home = lab.router("home")
        to_internet = ["203.0.113.1", "2001:db8::1"]
        internet.attach(
            self.home, "203.0.113.20/24", "2001:db8::20/64", interface="wan", gateways=to_internet
        )
        home_lan.attach(self.home, "192.168.1.1/24", "2001:db8:1::1/64", interface="lan")
        self.home.masquerade("wan", open_udp=[PORT])
        self.laptop = self._at_home(lab.host("laptop"), home_lan, 2)
        self.printer = self._at_home(lab.host("printer"), home_lan, 20)

        self.server = lab.host("server")
        internet.attach(self.server, "203.0.113.40/24", "2001:db8::40/64", gateways=to_internet)
        office.attach(self.server, "10.1.0.1/24", "fd00:10::1/64", interface="lan")
        self.files = lab.host("files")
        office.attach(self.files, f"{FILES}/24", f"{FILES6}/64")
        self.files.ip("route add 100.64.0.0/10 via 10.1.0.1", "route add fd7a:115c:a1e0::/48 via fd00:10::1")
        self.sites = [serve_pages(host) for host in (self.site, self.printer, self.files, self.laptop)]

        self.on_laptop, self.on_server = PlainNode(self.laptop), PlainNode(self.server)
        behind_server = [f"{SERVER}/32", f"{SERVER6}/128", *ANYWHERE]
        self.on_laptop.connect({"203.0.113.40": behind_server})
        self.on_server.connect({"203.0.113.20": [f"{LAPTOP}/32", f"{LAPTOP6}/128", *HOME_LAN]})

    @staticmethod
    def _at_home(host: Host, lan: Lan, number: int) -> Host:
        addresses = f"192.168.1.{number}/24", f"2001:db8:1::{number}/64"
        lan.attach(host, *addresses, gateways=["192.168.1.1", "2001:db8:1::1"])
        return host

    def set(self, laptop: Config, server: Config) -> None:
        """Set both nodes, and let the laptop speak first, as it is behind a NAT."""
        self.on_server.must_set(**server)
        self.on_laptop.must_set(**laptop)
        wait_for(lambda: self.laptop.reaches(SERVER), 10, what="the laptop reaches the server")

    def offer_exit(self) -> Config:
        return {**ON_SERVER, "exit_node_offered": True}

    # What a test changes on the hosts themselves, until its end

    def ip(self, host: Host, command: str, *, undo: str) -> None:
        host.ip(command)
        self.undo.callback(host.ip, undo)

    def nat(self, host: Host, hook: str, priority: str, rule: str) -> None:
        base = f"type nat hook {hook} priority {priority}; policy accept;"
        host.nft(f"table ip nat-test {{\nchain {hook} {{\n{base}\n{rule}\n}}\n}}\n")
        self.undo.callback(host.nft, "delete table ip nat-test")

    def forward(self, host: Host) -> None:
        host.set_sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)
        self.undo.callback(host.set_sysctl, net__ipv4__ip_forward=0, net__ipv6__conf__all__forwarding=0)

    def filter_strictly(self, *hosts: Host) -> None:
        for host in hosts:
            host.set_sysctl(net__ipv4__conf__all__rp_filter=1)
            self.undo.callback(host.set_sysctl, net__ipv4__conf__all__rp_filter=0)

    def end_test(self) -> None:
        self.on_laptop.must_set()
        self.on_server.must_set()
        self.undo.close()

    def close(self) -> None:
        for site in self.sites:
            site.kill()
        self.on_laptop.kill()
        self.on_server.kill()


@pytest.fixture(scope="module")
def made_world() -> Iterator[World]:
    with Lab("linux") as lab:
        made = World(lab)
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def world(made_world: World) -> Iterator[World]:
    """The network without any configuration, and as it was made."""
    yield made_world
    made_world.end_test()


def seen_as(host: Host, target: str) -> str | None:
    """The address under which `host` appears to the web site at `target`."""
    shown = f"[{target}]" if ":" in target else target
    body = fetch(host, f"http://{shown}/ip")
    return None if body is None else body.strip()


def test_peers_reach_each_other_and_the_rest_of_the_world_directly(world: World) -> None:
    world.set(ON_LAPTOP, ON_SERVER)
    assert world.laptop.reaches(SERVER6)
    assert world.server.reaches(LAPTOP)
    assert seen_as(world.laptop, SITE) == "203.0.113.20"
    assert seen_as(world.laptop, SITE6) == "2001:db8:1::2"
    assert world.laptop.reaches(PRINTER)


def test_the_addresses_of_peers_win_over_the_providers_network(world: World) -> None:
    """A provider that gives customers addresses from the same range."""
    world.ip(world.laptop, "address add 100.64.55.2/10 dev eth0", undo="address del 100.64.55.2/10 dev eth0")
    world.ip(world.laptop, "route add 100.64.0.2/32 dev eth0", undo="route del 100.64.0.2/32 dev eth0")
    world.set(ON_LAPTOP, ON_SERVER)


def test_a_served_subnet_sees_the_router(world: World) -> None:
    world.set(through(ON_LAPTOP, *OFFICE), {**ON_SERVER, "subnet_routes": OFFICE})
    assert seen_as(world.laptop, FILES) == "10.1.0.1"
    assert seen_as(world.laptop, FILES6) == "fd00:10::1"


def test_without_snat_a_served_subnet_sees_the_peer(world: World) -> None:
    world.set(through(ON_LAPTOP, *OFFICE), {**ON_SERVER, "subnet_routes": OFFICE, "snat": False})
    assert seen_as(world.laptop, FILES) == LAPTOP
    assert seen_as(world.laptop, FILES6) == LAPTOP6
    assert world.files.reaches(LAPTOP)


def test_what_is_not_served_is_not_forwarded_even_if_the_host_forwards(world: World) -> None:
    world.forward(world.server)
    world.set(through(ON_LAPTOP, *OFFICE), {**ON_SERVER, "subnet_routes": OFFICE[1:]})
    assert not world.laptop.reaches(FILES)
    assert world.laptop.reaches(FILES6)
    assert world.files.reaches(LAPTOP)  # and the answers to what comes from there


def test_a_published_port_is_reached_through_the_tunnel(world: World) -> None:
    """As a container's: the server translates its own tailnet address to a host that is not served."""
    world.forward(world.server)
    world.nat(world.server, "prerouting", "dstnat", "tcp dport 8080 dnat to 10.1.0.10:80")
    world.set(ON_LAPTOP, ON_SERVER)
    body = fetch(world.laptop, f"http://{SERVER}:8080/ip")
    assert body is not None
    assert body.strip() == LAPTOP


def test_a_node_in_the_subnet_that_it_accepts_keeps_its_direct_way(world: World) -> None:
    accepted = ["192.168.1.0/24", "192.168.0.0/16", "2001:db8:1::/64", *OFFICE]
    world.set(through(ON_LAPTOP, *accepted), {**ON_SERVER, "subnet_routes": OFFICE})
    with world.laptop.capture("mesh0", "icmp or icmp6") as capture:
        assert world.laptop.reaches(PRINTER)
        assert world.laptop.reaches(PRINTER6)
    assert capture.packets() == []
    assert world.laptop.reaches(FILES)


@pytest.mark.parametrize("strict", [False, True], ids=["", "strict reverse-path filter"])
def test_an_exit_node_carries_everything_and_nothing_passes_it(world: World, strict: bool) -> None:
    if strict:
        world.filter_strictly(world.laptop, world.server)
    with world.laptop.capture("eth0", f"not arp and not icmp6 and not udp port {PORT}") as capture:
        world.set(through(ON_LAPTOP, *ANYWHERE), world.offer_exit())
        assert seen_as(world.laptop, SITE) == "203.0.113.40"
        assert seen_as(world.laptop, SITE6) == "2001:db8::40"
        assert not world.laptop.reaches(PRINTER)
        assert not world.laptop.reaches("192.168.1.1")
        assert not world.laptop.reaches(PRINTER6)
    assert capture.packets() == []


@pytest.mark.parametrize("strict", [False, True], ids=["", "strict reverse-path filter"])
def test_an_exit_node_with_lan_access_leaves_the_lan_direct(world: World, strict: bool) -> None:
    if strict:
        world.filter_strictly(world.laptop)
    world.set({**through(ON_LAPTOP, *ANYWHERE), "local_routes": HOME_LAN}, world.offer_exit())
    assert seen_as(world.laptop, PRINTER) == "192.168.1.2"
    assert seen_as(world.laptop, PRINTER6) == "2001:db8:1::2"
    assert seen_as(world.laptop, SITE) == "203.0.113.40"
    assert seen_as(world.laptop, SITE6) == "2001:db8::40"


def test_routes_that_a_rogue_dhcp_server_hands_out_do_not_draw_traffic_past_the_exit_node(
    world: World,
) -> None:
    for half in ("0.0.0.0/1", "128.0.0.0/1"):
        world.ip(world.laptop, f"route add {half} via 192.168.1.1", undo=f"route del {half}")
    world.set({**through(ON_LAPTOP, *ANYWHERE), "local_routes": HOME_LAN}, world.offer_exit())
    assert seen_as(world.laptop, SITE) == "203.0.113.40"


@pytest.mark.parametrize("strict", [False, True], ids=["", "strict reverse-path filter"])
def test_a_host_that_uses_an_exit_node_still_answers_those_who_come_from_outside(
    world: World, strict: bool
) -> None:
    if strict:
        world.filter_strictly(world.laptop)
    world.nat(world.home, "prerouting", "dstnat", "iifname wan tcp dport 8080 dnat to 192.168.1.2:80")
    world.set(through(ON_LAPTOP, *ANYWHERE), world.offer_exit())
    assert world.printer.reaches("192.168.1.2")
    assert world.printer.reaches("2001:db8:1::2")
    assert seen_as(world.printer, "192.168.1.2") == PRINTER
    assert fetch(world.site, "http://203.0.113.20:8080/ip") == f"{SITE}\n"
    assert seen_as(world.server, LAPTOP) == SERVER
    assert not world.laptop.reaches(PRINTER)


@pytest.mark.parametrize("strict", [False, True], ids=["", "strict reverse-path filter"])
def test_containers_on_a_host_use_its_exit_node(world: World, strict: bool) -> None:
    """Their answers come out of the tunnel for a network that no route of ours names."""
    container = world.lab.host(f"container-{int(strict)}")
    world.lab.link((world.laptop, "docker0"), (container, "eth0"))
    world.undo.callback(world.laptop.ip, "link del docker0")
    world.laptop.set_addresses("docker0", ["172.17.0.1/16"])
    container.set_addresses("eth0", ["172.17.0.2/16"])
    container.add_default_routes(["172.17.0.1"])
    world.forward(world.laptop)
    if strict:
        world.filter_strictly(world.laptop)
    world.nat(world.laptop, "postrouting", "srcnat", "ip saddr 172.17.0.0/16 oifname != docker0 masquerade")
    world.set(through(ON_LAPTOP, *ANYWHERE), world.offer_exit())
    assert seen_as(container, SITE) == "203.0.113.40"
    assert seen_as(container, "172.17.0.1") == "172.17.0.2"
    assert not container.reaches(PRINTER)


def test_nobody_nearby_can_probe_the_tunnels_address_of_a_host_that_uses_an_exit_node(world: World) -> None:
    world.set(through(ON_LAPTOP, *ANYWHERE), world.offer_exit())
    world.ip(world.printer, f"route add {LAPTOP} via 192.168.1.2", undo=f"route del {LAPTOP}")
    world.ip(world.printer, f"route add {LAPTOP6} via 2001:db8:1::2", undo=f"route del {LAPTOP6}")
    with world.laptop.capture("mesh0", "icmp or icmp6") as capture:
        assert not world.printer.reaches(LAPTOP)
        assert not world.printer.reaches(LAPTOP6)
    assert capture.packets() == []
    assert world.laptop.reaches(LAPTOP)


def test_an_exit_node_does_not_lead_into_its_own_lan(world: World) -> None:
    world.set(through(ON_LAPTOP, *ANYWHERE), world.offer_exit())
    assert seen_as(world.laptop, FILES) is None
    assert seen_as(world.laptop, FILES6) is None
    world.on_server.must_set(**world.offer_exit(), subnet_routes=OFFICE)
    assert seen_as(world.laptop, FILES) == "10.1.0.1"
    assert seen_as(world.laptop, FILES6) == "fd00:10::1"


def test_a_router_for_its_lan_may_use_an_exit_node_itself(world: World) -> None:
    """What comes out of the tunnel for the LAN must not go back into it."""
    serving = {**through(ON_LAPTOP, *ANYWHERE), "subnet_routes": HOME_LAN}
    world.set(serving, {**through(ON_SERVER, *HOME_LAN), "exit_node_offered": True})
    assert seen_as(world.server, PRINTER) == "192.168.1.2"
    assert seen_as(world.server, PRINTER6) == "2001:db8:1::2"
    assert seen_as(world.laptop, SITE) == "203.0.113.40"
    assert not world.laptop.reaches(PRINTER)


def test_the_daemons_own_packets_do_not_enter_the_tunnel_of_another_node(world: World) -> None:
    """Two nodes in one namespace, the second with an exit node: the first one's datagrams go out directly."""
    with PlainNode(world.laptop, "mesh1") as second:
        second.must_set(addresses=["100.64.9.1/32"], routes=["100.64.9.2/32", *ANYWHERE])
        world.set(ON_LAPTOP, ON_SERVER)


def test_forwarded_tcp_is_made_to_fit_the_tunnel(world: World) -> None:
    """The site offers segments of 1460 bytes, and the exit node tells the laptop less."""
    world.set(through(ON_LAPTOP, *ANYWHERE), world.offer_exit())
    with world.laptop.capture("mesh0", "tcp or ip6") as capture:
        assert fetch(world.laptop, f"http://{SITE}/") is not None
        assert fetch(world.laptop, f"http://[{SITE6}]/") is not None
    offered = [(packet[0] >> 4, size) for packet in capture.packets() if (size := segment_size(packet))]
    assert sorted(offered) == [(4, 1240), (4, 1240), (6, 1220), (6, 1220)]


def segment_size(packet: bytes) -> int | None:
    """The maximum segment size in a TCP SYN, or None for anything else (RFC 9293 §3.1: kind 2, length 4)."""
    version, start = packet[0] >> 4, (packet[0] & 0x0F) * 4 if packet[0] >> 4 == 4 else 40
    if packet[9 if version == 4 else 6] != 6 or not packet[start + 13] & 0x02:
        return None
    options = packet[start + 20 : start + (packet[start + 12] >> 4) * 4]
    found = options.find(b"\x02\x04")
    return int.from_bytes(options[found + 2 : found + 4], "big")


def test_nobody_on_the_network_can_pretend_to_be_a_peer(world: World) -> None:
    world.set(ON_LAPTOP, ON_SERVER)
    for address in (LAPTOP, LAPTOP6):
        world.ip(world.site, f"address add {address} dev lo", undo=f"address del {address} dev lo")
    with world.server.capture("mesh0", "icmp or icmp6") as capture:
        world.site.run("ping", "-c", "2", "-i", "0.2", "-W", "1", "-I", LAPTOP, "203.0.113.40", check=False)
        world.site.run("ping", "-c", "2", "-i", "0.2", "-W", "1", "-I", LAPTOP6, "2001:db8::40", check=False)
    assert capture.packets() == []
    dropped = world.server.run("nft", "list", "chain", "inet", "meshnode-mesh0", "input").stdout
    assert dropped.count("counter packets 2 ") == 2


def test_what_was_open_before_the_exit_node_is_put_back_after_it(world: World) -> None:
    before = snapshot(world.laptop)
    world.set(through(ON_LAPTOP, *ANYWHERE), world.offer_exit())
    world.on_laptop.must_set()
    left = [line for line in differences(before, snapshot(world.laptop)) if "mesh0" not in line]
    assert left == []
    assert seen_as(world.laptop, SITE) == "203.0.113.20"
    assert seen_as(world.laptop, SITE6) == "2001:db8:1::2"
