"""Two hosts, a cable, and the data plane as one process at each end: real TUN, sockets and traffic."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshproto.keys import NodePrivate
from tests.netlab import Host, Lab, Process, wait_for
from tests.netlab.wireguard_go import WireGuardGo

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

PORT = 51820
MTU = 1280
INNER = (("10.9.0.1", "fd09::1"), ("10.9.0.2", "fd09::2"))
OUTER = (("192.0.2.1", "2001:db8::1"), ("192.0.2.2", "2001:db8::2"))
PATIENCE_S = 60.0
"""For whatever a busy machine may be slow at."""


class Tunnel:
    """Our engine in two hosts. `options` are those of `endpoint`."""

    def __init__(self, lab: Lab, *, over_ipv6: bool = False, **options: Any) -> None:
        self.hosts = cabled(lab)
        keys = [NodePrivate.generate(os.urandom) for _ in self.hosts]
        self.processes: list[Process] = []
        for end, host in enumerate(self.hosts):
            other = 1 - end
            config = {
                "interface": "mesh0",
                "mtu": MTU,
                "port": PORT,
                "key": keys[end].raw.hex(),
                "peer": keys[other].public.raw.hex(),
                "prefixes": [f"{INNER[other][0]}/32", f"{INNER[other][1]}/128"],
                # One end has to be found by the other.
                "endpoint": [OUTER[other][over_ipv6], PORT] if end == 0 else None,
                **options,
            }
            command = (sys.executable, "-m", "tests.meshnode.engine.endpoint", json.dumps(config))
            self.processes.append(host.popen(*command, log="endpoint"))
            wait_for(lambda host=host: has_interface(host), PATIENCE_S, what="the interface")  # type: ignore[misc]
            host.ip(
                f"link set mesh0 mtu {MTU} up",
                f"addr add {INNER[end][0]}/24 dev mesh0",
                f"addr add {INNER[end][1]}/64 dev mesh0 nodad",
            )
        wait_for(lambda: self.hosts[0].reaches(INNER[1][0]), PATIENCE_S, what="the tunnel")

    def end(self) -> list[dict[str, Any]]:
        """Stop both ends. Returns what each has to say: drops, path, overflow."""
        return [json.loads(stop(process).splitlines()[-1]) for process in self.processes]


def stop(process: Process) -> str:
    process.terminate()
    return process.output()


def has_interface(host: Host) -> bool:
    return host.run("ip", "link", "show", "mesh0", check=False).returncode == 0


def cabled(lab: Lab) -> tuple[Host, Host]:
    hosts = lab.host("a"), lab.host("b")
    lab.link((hosts[0], "eth0"), (hosts[1], "eth0"))
    for host, (ipv4, ipv6) in zip(hosts, OUTER, strict=True):
        host.set_addresses("eth0", [f"{ipv4}/24", f"{ipv6}/64 nodad"])
    return hosts


def iperf(hosts: tuple[Host, Host], address: str, *words: str) -> dict[str, Any]:
    """One run from the first host to the second: what iperf3 says at its end."""
    server = hosts[1].popen("iperf3", "-s", "-1", "--forceflush")
    wait_for(lambda: "listening" in server.output(), PATIENCE_S, what="iperf3")
    try:
        done = hosts[0].run("iperf3", "-J", "-c", address, *words, timeout=60)
    finally:
        server.kill()
    return dict(json.loads(done.stdout)["end"])


def assert_lossless(hosts: tuple[Host, Host], address: str, size: str) -> None:
    """All datagrams of a stream arrive. A busy machine may lose some in a socket, but not each time."""
    words = ("-u", "-b", "5M", "-n", size, "-l", "1000")
    lost = []
    while not lost or (lost[-1] and len(lost) < 3):
        lost.append(iperf(hosts, address, *words)["sum"]["lost_packets"])
    assert lost[-1] == 0, f"lost in each run: {lost}"


def transfer(sender: Host, receiver: Host, address: str, size: int, how: str = "") -> None:
    """Send random bytes to `address` of the receiver, over TCP or in `-batches`; they must arrive."""
    program = (sys.executable, "-m", "tests.meshnode.engine.transfer")
    process = receiver.popen(*program, f"receive{how}", address, str(size))
    wait_for(lambda: "listening" in process.output(), PATIENCE_S, what="the receiver")
    sender.run(*program, f"send{how}", address, str(size), timeout=2 * PATIENCE_S)
    process.wait(PATIENCE_S)


def transfer_both_ways(hosts: tuple[Host, Host], size: int, families: int = 2) -> None:
    for end in (0, 1):
        for address in INNER[1 - end][:families]:
            for how in ("", "-batches"):
                transfer(hosts[end], hosts[1 - end], address, size // 8 if how else size, how)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab("engine") as lab:
        yield lab


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("over_ipv6", [False, True], ids=["over-ipv4", "over-ipv6"])
def test_everything_crosses(lab: Lab, loop: str, over_ipv6: bool) -> None:
    tunnel = Tunnel(lab, loop=loop, over_ipv6=over_ipv6)
    left, right = tunnel.hosts
    for host, (ipv4, ipv6) in ((left, INNER[1]), (right, INNER[0])):
        assert host.ping(ipv4).lost == 0
        assert host.ping(ipv6).lost == 0
    transfer_both_ways(tunnel.hosts, 8 << 20)
    for address in INNER[1]:
        assert_lossless(tunnel.hosts, address, "500K")
    for said, outer in zip(tunnel.end(), OUTER[::-1], strict=True):
        assert outer[over_ipv6] in said["path"]
        assert set(said["drops"]) <= {
            "no_peer_for_destination"
        }  # what the kernel sends to ff02::2 and the like


@pytest.mark.parametrize(
    "options",
    [
        {"offload": {"tcp_offload": False, "udp_offload": False}},
        {"offload": {"udp_offload": False}},
        {"coalesce": {"coalesce_tcp": False, "coalesce_udp": False}},
        {"udp": {"gso": False}},
        {"udp": {"gro": False}},
        {"udp": {"avoid_equal_tail": True}},
    ],
    ids=["no-tun-offload", "no-uso", "no-coalescing", "no-gso", "no-gro", "unequal-tail"],
)
def test_every_switch(lab: Lab, options: dict[str, Any]) -> None:
    """Kernels and drivers get each of these wrong somewhere (reference §5.10, §6.9)."""
    tunnel = Tunnel(lab, **options)
    transfer_both_ways(tunnel.hosts, 2 << 20, families=1)
    assert_lossless(tunnel.hosts, INNER[1][0], "200K")
    for said in tunnel.end():
        assert set(said["drops"]) <= {"no_peer_for_destination", "unknown_datagram"}


def test_an_interface_that_goes_down_and_up(lab: Lab) -> None:
    tunnel = Tunnel(lab)
    left, right = tunnel.hosts
    right.link_down("mesh0")
    assert left.ping(INNER[1][0], count=2, wait=1).received == 0
    right.link_up("mesh0")
    right.ip(f"addr replace {INNER[1][0]}/24 dev mesh0")
    wait_for(lambda: left.reaches(INNER[1][0]), 10, what="the tunnel after the pause")
    assert tunnel.end()[1]["drops"].get("tun_write_failed", 0) >= 2


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_an_interface_that_is_deleted(lab: Lab, loop: str) -> None:
    """Nothing ends and nothing spins: whoever owns the engine decides what to do."""
    tunnel = Tunnel(lab, loop=loop)
    left = tunnel.hosts[0]
    left.ip("link del mesh0")
    process = tunnel.processes[0]
    wait_for(lambda: "the interface mesh0 was deleted" in process.output(), 10, what="the report of it")
    before = cpu_seconds(left)
    assert left.ping(OUTER[1][0], count=10, interval=0.1).lost == 0
    assert cpu_seconds(left) - before < 0.5
    assert process.output().count("was deleted") == 1
    tunnel.end()


def cpu_seconds(host: Host) -> float:
    """What the processes of a host have used so far."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in host.processes()]
    return sum(int(user) + int(system) for user, system in (found[11:13] for found in fields)) / 100


def test_a_cable_that_is_pulled(lab: Lab) -> None:
    """Sends fail; nothing ends, and the tunnel is there again with the cable."""
    tunnel = Tunnel(lab)
    left, right = tunnel.hosts
    left.link_down()
    left.ping(INNER[1][0], count=2, wait=1)
    left.link_up()
    left.set_addresses("eth0", [f"{OUTER[0][0]}/24"])
    wait_for(lambda: left.reaches(INNER[1][0]), 15, what="the tunnel with the cable back")
    back = right.ping(INNER[0][0])
    said = tunnel.end()
    assert back.lost == 0, said
    assert said[0]["drops"].get("send_failed", 0) >= 1


def test_a_path_of_smaller_mtu(lab: Lab) -> None:
    """Batches do not fit any more (EMSGSIZE); single datagrams are fragmented, so that the tunnel goes on."""
    tunnel = Tunnel(lab)
    tunnel.hosts[0].ip("link set eth0 mtu 1200")
    transfer(*tunnel.hosts, INNER[1][0], 1 << 20)


def test_a_small_mss(lab: Lab) -> None:
    """More segments than one send may have, with far more header than payload."""
    tunnel = Tunnel(lab)
    left, right = tunnel.hosts
    right.ip(f"route replace {INNER[0][0]}/32 dev mesh0 advmss 88")
    transfer(left, right, INNER[1][0], 1 << 19)
    assert set(tunnel.end()[0]["drops"]) <= {"no_peer_for_destination"}


def test_a_port_that_is_in_use(lab: Lab) -> None:
    tunnel = Tunnel(lab)
    config = {
        "interface": "mesh1",
        "mtu": MTU,
        "port": PORT,
        "key": "01" * 32,
        "peer": "09" * 32,
        "prefixes": [],
    }
    command = (sys.executable, "-m", "tests.meshnode.engine.endpoint", json.dumps(config))
    failed = tunnel.hosts[0].run(*command, check=False)
    assert f"UDP port {PORT} is in use by another program" in failed.stderr
    config["interface"] = "mesh0"
    failed = tunnel.hosts[0].run(*command[:-1], json.dumps(config), check=False)
    assert "the interface mesh0 is in use by another program" in failed.stderr


@pytest.mark.interop
def test_throughput_beside_wireguard_go(lab: Lab, record_property: Any) -> None:
    """One TCP stream through each in turn. The ratio is for a person to read: `bench/` is for figures."""
    ours = Tunnel(lab, loop="uvloop")
    figures = {"meshnode": megabits(ours.hosts, INNER[1][0])}
    ours.end()
    ends = []
    for host in ours.hosts:
        key = base64.b64encode(NodePrivate.generate(os.urandom).raw).decode()
        ends.append(WireGuardGo(host, key, port=PORT + 1, mtu=MTU))
    for end, (ipv4, _) in zip(ends, INNER, strict=True):
        end.start([f"{ipv4}/24"])
    for end, other, address, outer in zip(ends, ends[::-1], INNER[::-1], OUTER[::-1], strict=True):
        end.set_peer(other.public_key, [f"{address[0]}/32"], endpoint=f"{outer[0]}:{PORT + 1}")
    wait_for(lambda: ours.hosts[0].reaches(INNER[1][0]), 15, what="wireguard-go's tunnel")
    figures["wireguard-go"] = megabits(ours.hosts, INNER[1][0])
    figures["ratio"] = figures["meshnode"] / figures["wireguard-go"]
    for name, figure in figures.items():
        record_property(name, round(figure, 2))
    print({name: round(figure, 2) for name, figure in figures.items()})
    assert all(figures.values())


def megabits(hosts: tuple[Host, Host], address: str) -> float:
    return float(iperf(hosts, address, "-t", "3")["sum_received"]["bits_per_second"]) / 1e6
