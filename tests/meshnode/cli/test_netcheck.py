"""`meshnode netcheck` in networks of several kinds, as a whole program; and what it says to wrong lines."""

from __future__ import annotations

import hashlib
import json
import ssl
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from meshnode.cli.main import run
from tests.derp.relays import Certificate
from tests.netlab import Host, Lab, wait_for
from tests.netlab.miniupnpd import Miniupnpd
from tests.netlab.processes import Process
from tests.netlab.programs import MESHNODE
from tests.netlab.router import Egress, Router

NO_DAEMON = "/nonexistent/meshnode.sock"
SERVER = "203.0.113.1"
SERVER_IPV6 = "2001:db8::1"
HOME = "203.0.113.10"
RELAY = "relay.example"

# A NAT that takes another port for each destination, in the place of the plain one.
HARD_NAT = """
flush table ip nat
table ip nat {
  chain postrouting {
    meta l4proto udp oifname "wan" masquerade random
    oifname "wan" masquerade
  }
}
"""
EASY_NAT = """
flush table ip nat
table ip nat {
  chain postrouting {
    oifname "wan" masquerade
  }
}
"""

# What a hotel does with who has not paid: every page is its own, and nothing else passes.
PORTAL = """
table inet portal {
  chain prerouting {
    type nat hook prerouting priority dstnat; policy accept;
    iifname "lan" tcp dport 80 redirect to :80
  }
  chain forward {
    type filter hook forward priority filter - 20; policy accept;
    iifname "lan" drop
  }
}
"""


@dataclass
class Home:
    """A laptop behind a router, and on the internet a relay with two STUN servers."""

    lab: Lab
    router: Router
    laptop: Host
    map_file: Path

    def netcheck(self, *flags: str) -> Any:
        """The command on the laptop, to its end."""
        line = (MESHNODE, "netcheck", "--derp-map", self.map_file, *flags)
        return self.laptop.run(*line, check=False, timeout=30)

    def report(self, *flags: str) -> dict[str, Any]:
        """What it found, where it found anything."""
        done = self.netcheck("--format", "json", *flags)
        assert done.returncode == 0, done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        return report


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    directory = tmp_path_factory.mktemp("relay")
    with Lab("netcheck") as lab:
        internet, inside = lab.lan("internet"), lab.lan("home")
        server, router, laptop = lab.host("server"), lab.router("router"), lab.host("laptop")
        internet.attach(server, f"{SERVER}/24", f"{SERVER_IPV6}/64", gateways=["2001:db8::10"])
        internet.attach(router, f"{HOME}/24", "2001:db8::10/64", interface="wan")
        inside.attach(router, "192.168.1.1/24", "2001:db8:1::1/64", interface="lan")
        gateways = ["192.168.1.1", "2001:db8:1::1"]
        inside.attach(laptop, "192.168.1.2/24", "2001:db8:1::2/64", gateways=gateways)
        router.masquerade("wan")
        map_file = directory / "map.json"
        map_file.write_text(json.dumps(serve(server, directory)))
        yield Home(lab, router, laptop, map_file)


@pytest.fixture
def home(network: Home) -> Iterator[Home]:
    """The network, which a test may change at its router."""
    yield network
    network.router.restrict(Egress.ALL)
    network.router.nft(EASY_NAT)
    network.router.nft("table inet portal\ndelete table inet portal")
    network.router.forget_flows()


def serve(server: Host, directory: Path) -> dict[str, Any]:
    """Start a relay and two STUN servers. Returns the DERP map that has them."""
    certificate = Certificate.make(directory, (RELAY,))
    started = [
        server.popen(
            *(sys.executable, "-m", "derp", "--listen", ":443", "--plain-http", f"{SERVER}:80"),
            *("--certificate", certificate.chain, "--certificate-key", certificate.key),
            *("--key-file", directory / "derper.key"),
        )
    ]
    places = [f"{SERVER}:3478", f"{SERVER}:3479", f"[{SERVER_IPV6}]:3478"]
    words = [word for place in places for word in ("--listen", place)]
    started.append(server.popen(sys.executable, "-m", "stun", *words))
    for process, says in zip(started, ("relaying on", "listening on"), strict=True):
        wait_until_it_says(process, says)
    pem = certificate.chain.read_text()
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
    relay = {
        "Name": "901a",
        "RegionID": 901,
        "HostName": RELAY,
        "CertName": f"sha256-raw:{digest}",
        "IPv4": SERVER,
        "IPv6": SERVER_IPV6,
        "CanPort80": True,
    }
    second = {"Name": "901b", "RegionID": 901, "HostName": RELAY, "IPv4": SERVER, "IPv6": "none"}
    nodes = [relay, {**second, "STUNPort": 3479, "STUNOnly": True}]
    region = {"RegionID": 901, "RegionCode": "lab", "RegionName": "The lab", "Nodes": nodes}
    return {"Regions": {"901": region}}


def wait_until_it_says(process: Process, text: str) -> None:
    wait_for(lambda: text in process.output(), 20, what=f"{text!r} from {process.argv[-1]}")


@pytest.mark.system
class TestInNetworks:
    def test_behind_a_home_router(self, home: Home) -> None:
        report = home.report()
        assert report["UDP"]
        assert report["IPv4"]
        assert report["IPv6"]
        assert report["MappingVariesByDestIP"] is False
        assert report["GlobalV4"].startswith(f"{HOME}:")
        assert report["GlobalV4Counters"] == {report["GlobalV4"]: 2}
        assert report["GlobalV6"].startswith("[2001:db8:1::2]:"), "IPv6 is not translated"
        assert report["PreferredDERP"] == 901
        assert set(report["RegionV4Latency"]) == set(report["RegionV6Latency"]) == {"901"}
        assert report["CaptivePortal"] is None, "not looked for where UDP works"

    def test_as_text(self, home: Home) -> None:
        lines = home.netcheck("--verbose").stdout.splitlines()
        assert lines[:2] == ["", "Report:"]
        assert "\t* UDP: true" in lines
        assert any(line.startswith(f"\t* IPv4: yes, {HOME}:") for line in lines)
        assert "\t* MappingVariesByDestIP: false" in lines
        assert "\t* PortMapping: " in lines, "looked for, and not found"
        assert "\t* CaptivePortal: false" in lines
        assert "\t* Nearest DERP: The lab" in lines
        assert lines[-1].startswith("\t\t- lab: ")
        assert lines[-1].endswith("(derp901, The lab)")

    def test_a_hard_nat(self, home: Home) -> None:
        home.router.nft(HARD_NAT)
        report = home.report()
        assert report["MappingVariesByDestIP"] is True
        assert len(report["GlobalV4Counters"]) == 2

    @pytest.mark.interop
    def test_a_router_that_maps_ports(self, home: Home) -> None:
        server = Miniupnpd(home.router, external="25.0.113.20")
        server.start()
        try:
            done = home.netcheck()
        finally:
            server.stop()
        assert "\t* PortMapping: UPnP, NAT-PMP, PCP" in done.stdout.splitlines()

    def test_without_udp_the_relay_is_found_over_https(self, home: Home) -> None:
        home.router.restrict(Egress.ONLY_HTTPS)
        report = home.report()
        assert not report["UDP"]
        assert not report["ICMPv4"]
        assert report["IPv4CanSend"]
        assert report["MappingVariesByDestIP"] is None
        assert 0 < report["RegionLatency"]["901"] < 1e9
        assert report["PreferredDERP"] == 901

    def test_without_udp_the_relay_is_found_by_ping(self, home: Home) -> None:
        home.router.restrict(Egress.NO_UDP)
        report = home.report()
        assert not report["UDP"]
        assert report["ICMPv4"]
        assert report["PreferredDERP"] == 901
        assert report["CaptivePortal"] is False

    def test_a_captive_portal(self, home: Home) -> None:
        portal = home.router.popen(sys.executable, "-m", "tests.netlab.web", "80")
        wait_until_it_says(portal, "listening")
        home.router.nft(PORTAL)
        done = home.netcheck("--format", "json-line")
        portal.terminate()
        report = json.loads(done.stdout)
        assert report["CaptivePortal"] is True
        assert not report["UDP"]
        assert report["PreferredDERP"] == 0
        assert done.returncode == 1
        assert "the relay did not answer over UDP, HTTPS or ICMP" in done.stderr

    def test_again_and_again(self, home: Home) -> None:
        line = (
            MESHNODE,
            "netcheck",
            "--derp-map",
            home.map_file,
            "--format",
            "json-line",
            "--every",
            "100ms",
        )
        process = home.laptop.popen(*line)
        wait_for(lambda: process.output().count("\n") >= 3, 20, what="three reports")
        output = process.interrupt()
        reports = [json.loads(text) for text in output.splitlines() if text.startswith("{")]
        assert all(report["PreferredDERP"] == 901 for report in reports)
        assert "Traceback" not in output
        assert process.returncode == 130

    def test_offline(self, home: Home) -> None:
        home.laptop.link_down()
        try:
            done = home.netcheck()
        finally:
            home.laptop.link_up()
            home.laptop.ip("addr replace 2001:db8:1::2/64 dev eth0")
            home.laptop.add_default_routes(["192.168.1.1", "2001:db8:1::1"])
        assert done.returncode == 1
        assert "* Nearest DERP: unknown (no response to latency probes)" in done.stdout
        assert done.stderr.startswith("meshnode: there is no way to any relay: this machine is offline")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot read {file}: No such file or directory"),
        ("{", "{file} gives no DERP map that can be read"),
        ("null", "{file} gives no DERP map that can be read"),
        ("[1]", "{file} gives no DERP map that can be read"),
        ('{"Regions": {"1": {"Nodes": 7}}}', "$.Regions"),
        ("{}", "{file} has no regions"),
        ('{"Regions": {}}', "{file} has no regions"),
    ],
)
def test_a_map_that_is_none(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str | None, says: str
) -> None:
    file = tmp_path / "map.json"
    if content is not None:
        file.write_text(content)
    assert run(["netcheck", "--derp-map", str(file)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert says.format(file=file) in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "status", "says"),
    [
        (["--socket", NO_DAEMON], 1, "or name relays with --derp-map"),
        (
            ["--derp-map", "http://127.0.0.1:1/map"],
            1,
            "cannot fetch http://127.0.0.1:1/map: Connection refused",
        ),
        (["--derp-map", "http://["], 1, "cannot fetch http://["),
        (["--format", "yaml"], 2, "'yaml' is not one of 'text', 'json', 'json-line'"),
        (["--every", "soon"], 2, '"soon" is not a duration'),
        (["now"], 1, 'unexpected argument "now"'),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_line(capsys: pytest.CaptureFixture[str], line: list[str], status: int, says: str) -> None:
    assert run(["netcheck", *line]) == status
    printed = capsys.readouterr()
    assert printed.out == ""
    assert says in printed.err
    assert printed.err.count("\n") == 1
