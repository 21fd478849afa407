"""Real rules, routes, nftables and settings in a namespace: set, changed, undone, and swept after a crash."""

from __future__ import annotations

import stat
from collections.abc import Iterator

import pytest

from tests.meshnode.linux.node_process import Config, PlainNode, differences, snapshot
from tests.netlab import Host, Lab, wait_for

pytestmark = pytest.mark.system

OWN = ["100.64.0.1/32", "fd7a:115c:a1e0::1/128"]
PEERS = ["100.64.0.2/32", "100.64.0.3/32", "fd7a:115c:a1e0::/48"]
EXIT = ["0.0.0.0/0", "::/0"]
LAN = ["192.168.1.0/24", "2001:db8:1::/64"]

ONLY_PEERS: Config = {"addresses": OWN, "routes": PEERS}
SUBNETS: Config = {"addresses": OWN, "routes": [*PEERS, "10.1.0.0/24"], "local_routes": LAN}
SERVING: Config = {**ONLY_PEERS, "subnet_routes": LAN, "listen_port": 41641}
EXITING: Config = {"addresses": OWN, "routes": [*PEERS, *EXIT], "local_routes": LAN}
EVERYTHING: Config = {
    **EXITING,
    "subnet_routes": LAN,
    "exit_node_offered": True,
    "listen_port": 41641,
    "mtu": 1420,
}

CONFIGURATIONS: dict[str, Config] = {
    "peers": ONLY_PEERS,
    "subnets": SUBNETS,
    "serving": SERVING,
    "exiting": EXITING,
    "everything": EVERYTHING,
}

# What others have on a host: it must be there afterwards as it was, in every detail.
FOREIGN_NFT = """
table inet firewall {
  chain input {
    type filter hook input priority filter; policy accept;
    tcp dport 22 accept
  }
}
table inet meshnode-mesh1 {
  chain other {
  }
}
"""
FOREIGN_IP = (
    "rule add priority 4000 from 192.0.2.1 lookup 41641",
    "rule add priority 5800 to 192.0.2.0/24 lookup main protocol static",
    "route add 198.51.100.0/24 via 192.168.1.1 table 41641 proto static",
    "route add 198.51.100.0/24 via 192.168.1.1 table 52",
    "route add unreachable 192.0.2.0/24 proto 109",
)
# The values that turning forwarding on and off again would lose, and a strict reverse-path filter.
ODD_SETTINGS = {
    "net__ipv4__conf__all__accept_redirects": 0,
    "net__ipv4__conf__eth1__forwarding": 1,
    "net__ipv6__conf__eth1__forwarding": 1,
    "net__ipv6__conf__eth0__accept_ra": 1,
    "net__ipv4__conf__eth0__rp_filter": 1,
}


@pytest.fixture
def host() -> Iterator[Host]:
    """A host in two LANs, where other programs have rules, routes and settings of their own."""
    with Lab("linux") as lab:
        made = lab.host("host")
        lab.lan("one").attach(made, "192.168.1.2/24", "2001:db8:1::2/64", gateways=["192.168.1.1"])
        lab.lan("two").attach(made, "192.168.2.2/24", interface="eth1")
        made.ip(*FOREIGN_IP)
        made.run("ip", "-6", "rule", "add", "priority", "4600", "to", "2001:db8:7::/64", "lookup", "main")
        made.nft(FOREIGN_NFT)
        made.set_sysctl(**ODD_SETTINGS)
        yield made


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_close_leaves_the_host_as_it_was(host: Host, name: str) -> None:
    before = snapshot(host)
    with PlainNode(host) as node:
        assert node.must_set(**CONFIGURATIONS[name])
        node.close()
    assert not differences(before, snapshot(host))
    assert not list(node.state_dir.iterdir())


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_clean_up_after_a_crash_leaves_the_host_as_it_was(host: Host, name: str) -> None:
    before = snapshot(host)
    with PlainNode(host) as node:
        node.must_set(**CONFIGURATIONS[name])
        node.kill()
        assert differences(before, snapshot(host))
        node.clean_up()
        assert not differences(before, snapshot(host))
        assert node.clean_up().strip() == ""


def test_clean_up_where_nothing_ever_was(host: Host) -> None:
    before = snapshot(host)
    with PlainNode(host) as node:
        node.kill()
        assert node.clean_up().strip() == ""
    assert not differences(before, snapshot(host))


def test_clean_up_leaves_an_interface_alone_that_only_has_our_name(host: Host) -> None:
    """mesh0 is also what a Wi-Fi mesh is called."""
    host.ip(
        "link add mesh0 type veth peer name mesh0-peer",
        "address add 10.9.9.1/24 dev mesh0",
        "link set mesh0 up",
    )
    before = snapshot(host)
    with PlainNode(host, "mesh5") as node:
        node.kill()
        node.interface = "mesh0"
        node.clean_up()
    assert not differences(before, snapshot(host))


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_setting_the_same_twice_changes_nothing(host: Host, name: str) -> None:
    with PlainNode(host) as node:
        node.must_set(**CONFIGURATIONS[name])
        once = snapshot(host)
        assert node.must_set(**CONFIGURATIONS[name]) == []
        assert not differences(once, snapshot(host))


@pytest.mark.parametrize("name", ["peers", "exiting", "everything"])
def test_the_way_to_a_configuration_does_not_matter(host: Host, name: str) -> None:
    with PlainNode(host) as node:
        node.must_set(**CONFIGURATIONS[name])
        straight = snapshot(host)
        for other in CONFIGURATIONS.values():
            node.must_set(**other)
            node.must_set(**CONFIGURATIONS[name])
            assert not differences(straight, snapshot(host))


def test_only_the_difference_is_changed(host: Host) -> None:
    with PlainNode(host) as node:
        node.must_set(**ONLY_PEERS)
        more = {**ONLY_PEERS, "routes": [*PEERS[1:], "10.1.0.0/24"], "mtu": 1400}
        assert node.must_set(**more) == [
            "nft tables meshnode-mesh0",
            "link mtu 1400",
            "ip route 10.1.0.0/24 dev mesh0 table 41641",
            "removed ip route 100.64.0.2/32 table 41641",
        ]


def test_an_address_is_replaced(host: Host) -> None:
    with PlainNode(host) as node:
        node.must_set(**ONLY_PEERS)
        node.must_set(**{**ONLY_PEERS, "addresses": ["100.64.0.77/32"]})
        shown = host.run("ip", "-br", "address", "show", "dev", "mesh0").stdout.split()
        assert shown[2:] == ["100.64.0.77/32"]


def test_a_route_changes_its_kind_in_place(host: Host) -> None:
    both = {"addresses": OWN, "routes": [*PEERS, "10.1.0.0/24", "fd00:1::/64"]}
    with PlainNode(host) as node:
        node.must_set(**both)
        node.must_set(**both, local_routes=["10.1.0.0/24", "fd00:1::/64"])
        for version, net in (("-4", "10.1.0.0/24"), ("-6", "fd00:1::/64")):
            shown = host.run("ip", version, "route", "show", "table", "41641", "type", "throw").stdout
            assert net in shown
            assert (
                net
                not in host.run("ip", version, "route", "show", "table", "41641", "type", "unicast").stdout
            )


def test_settings_are_journalled_for_their_owner_only(host: Host) -> None:
    with PlainNode(host) as node:
        node.must_set(**SERVING)
        [journal] = node.state_dir.iterdir()
        assert stat.S_IMODE(journal.stat().st_mode) == 0o600
        assert stat.S_IMODE(node.state_dir.stat().st_mode) == 0o700


def test_settings_are_put_back_when_nothing_is_served_any_more(host: Host) -> None:
    with PlainNode(host) as node:
        node.must_set(**ONLY_PEERS)
        before = snapshot(host)
        node.must_set(**SERVING)
        assert host.sysctl("net.ipv4.ip_forward") == "1"
        assert host.sysctl("net.ipv6.conf.eth0.accept_ra") == "2"
        assert host.sysctl("net.ipv6.conf.mesh0.accept_ra") == "1"
        node.must_set(**ONLY_PEERS)
        settings = [line for line in differences(before, snapshot(host)) if line.startswith("sysctl")]
        assert settings == []


def test_a_setting_that_someone_changed_since_stays(host: Host) -> None:
    with PlainNode(host) as node:
        node.must_set(**SERVING)
        host.set_sysctl(net__ipv6__conf__eth0__accept_ra=0)
        node.close()
    assert host.sysctl("net.ipv6.conf.eth0.accept_ra") == "0"
    assert host.sysctl("net.ipv4.ip_forward") == "0"


def test_forwarding_that_is_on_already_is_left_on(host: Host) -> None:
    host.set_sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)
    before = snapshot(host)
    with PlainNode(host) as node:
        node.must_set(**SERVING)
        node.close()
    assert not differences(before, snapshot(host))


def test_only_strict_interfaces_look_at_marks_and_only_with_an_exit_node(host: Host) -> None:
    def looking() -> list[str]:
        return [
            name
            for name in ("all", "eth0", "eth1")
            if host.sysctl(f"net.ipv4.conf.{name}.src_valid_mark") == "1"
        ]

    with PlainNode(host) as node:
        node.must_set(**SUBNETS)
        assert looking() == []
        node.must_set(**EXITING)
        assert looking() == ["eth0"]
        host.set_sysctl(net__ipv4__conf__eth1__rp_filter=1)
        node.must_set(**EXITING)
        assert looking() == ["eth0", "eth1"]
        node.must_set(**SUBNETS)
        assert looking() == []


def test_ipv6_turned_off_does_not_fail_the_rest(host: Host) -> None:
    host.set_sysctl(net__ipv6__conf__all__disable_ipv6=1, net__ipv6__conf__default__disable_ipv6=1)
    before = snapshot(host)
    with PlainNode(host) as node:
        answer = node.set(**EVERYTHING)
        assert "problems" not in answer
        assert "IPv6 is turned off on mesh0" in answer["notes"][0]
        assert "100.64.0.1/32" in host.run("ip", "-br", "address", "show", "dev", "mesh0").stdout
        assert node.must_set(**EVERYTHING) == []
        node.close()
    assert not differences(before, snapshot(host))


def test_a_missing_interface_is_a_problem_with_its_remedy(host: Host) -> None:
    with PlainNode(host) as node:
        host.ip("link set mesh0 name mesh9")
        answer = node.set(**ONLY_PEERS)
        assert answer["problems"] == [
            "the interface mesh0 is not there: there is nothing to route into."
            " To fix it: start the tunnel first"
        ]


def test_the_standard_event_loop_will_do(host: Host) -> None:
    before = snapshot(host)
    with PlainNode(host, "mesh0", "standard-loop") as node:
        node.watch()
        node.must_set(**EVERYTHING)
        node.close()
    assert not differences(before, snapshot(host))


def test_without_nft_a_plain_node_runs_with_a_note_and_a_router_names_the_package(host: Host) -> None:
    with PlainNode(host, "mesh0", "without-nft") as node:
        answer = node.set(**ONLY_PEERS)
        assert "install nftables" in answer["notes"][0]
        assert "mesh0" in host.run("ip", "route", "show", "table", "41641").stdout
        for serving_or_exiting in (SERVING, EXITING):
            [problem] = node.set(**serving_or_exiting)["problems"]
            assert problem.endswith("To fix it: install nftables")
        node.close()


def test_two_nodes_in_one_namespace_do_not_touch_each_other(host: Host) -> None:
    with PlainNode(host, "mesh0") as one, PlainNode(host, "wg-home") as other:
        one.must_set(**EVERYTHING)
        with_one = snapshot(host)
        other.must_set(addresses=["100.64.9.1/32"], routes=["100.64.9.2/32", "10.7.0.0/16"])
        assert one.must_set(**EVERYTHING) == []
        other.close()
        left = [line for line in differences(with_one, snapshot(host)) if "wg-home" not in line]
        assert left == []
        assert one.must_set(**EVERYTHING) == []


SAME_SLOT = ("tun0", "tun21")


def test_two_interface_names_with_the_same_priorities_are_refused(host: Host) -> None:
    """These two fall on one slot (found by trying)."""
    with PlainNode(host, SAME_SLOT[0]) as one, PlainNode(host, SAME_SLOT[1]) as other:
        one.must_set(**ONLY_PEERS)
        [problem] = other.set(addresses=["100.64.9.1/32"], routes=["100.64.9.2/32"])["problems"]
        assert "give one of the two interfaces another name" in problem
        other.close()
        assert one.must_set(**ONLY_PEERS) == []


DAMAGES = {
    "an IPv4 rule": "ip -4 rule del priority 5800 lookup 41641",
    "all IPv6 rules": "ip -6 rule flush",
    "an IPv4 route": "ip -4 route del 10.1.0.0/24 table 41641",
    "an IPv6 route": "ip -6 route del fd7a:115c:a1e0::/48 table 41641",
    "a throw route": "ip route del throw 192.168.1.0/24 table 41641",
    "an address": "ip address del 100.64.0.1/32 dev mesh0",
    "the firewall": "nft flush ruleset",
    "a chain": "nft delete chain inet meshnode-mesh0 input",
    "the link": "ip link set mesh0 down",
    "forwarding": "sysctl -q -w net.ipv4.ip_forward=0",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_another_program_removes_is_put_back(host: Host, damage: str) -> None:
    with PlainNode(host) as node:
        node.must_set(**{**SUBNETS, "subnet_routes": LAN})
        whole = ours(host)
        node.watch()
        host.run(*DAMAGES[damage].split())
        wait_for(lambda: not differences(whole, ours(host)), 5, what="the repair")


def ours(host: Host) -> dict[str, str]:
    """The snapshot without what the damage takes from others."""
    shown = snapshot(host)
    return {
        command: "\n".join(
            line for line in text.splitlines() if "109" in line or "mesh0" in line or "ip_forward" in line
        )
        for command, text in shown.items()
    }
