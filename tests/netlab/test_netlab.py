"""The lab does what its users count on: it connects, hides, records, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.netlab import CommandFailed, Lab, NotInTime, wait_for
from tests.netlab.host import PROJECT

pytestmark = pytest.mark.system


def test_hosts_of_one_lan_reach_each_other_over_both_families() -> None:
    with Lab("test") as lab:
        lan = lab.lan("lan")
        first, second = lab.host("first"), lab.host("second")
        lan.attach(first, "192.0.2.1/24", "2001:db8::1/64")
        lan.attach(second, "192.0.2.2/24", "2001:db8::2/64")
        assert first.ping("192.0.2.2", count=2).lost == 0
        assert first.ping("2001:db8::2", count=2).lost == 0
        second.link_down()
        assert not first.reaches("192.0.2.2")


def test_a_masquerading_router_hides_its_lan_and_drops_what_was_not_asked_for() -> None:
    with Lab("test") as lab:
        internet, home = lab.lan("internet"), lab.lan("home")
        server, router, laptop = lab.host("server"), lab.router("router"), lab.host("laptop")
        internet.attach(server, "203.0.113.10/24")
        internet.attach(router, "203.0.113.20/24", interface="wan")
        home.attach(router, "192.168.1.1/24", interface="lan")
        home.attach(laptop, "192.168.1.2/24", gateways=["192.168.1.1"])
        router.masquerade("wan")
        with server.capture("eth0", "udp") as capture:
            laptop.run("bash", "-c", "echo hello > /dev/udp/203.0.113.10/9")
            wait_for(lambda: len(capture.packets()) > 0, 5, what="the datagram at the server")
        (datagram,) = capture.udp_datagrams()
        assert datagram.source[0] == "203.0.113.20"
        assert datagram.destination == ("203.0.113.10", 9)
        assert datagram.payload == b"hello\n"
        server.add_route("192.168.1.0/24", via="203.0.113.20")
        assert not server.reaches("192.168.1.2")


def test_a_direct_link_and_the_output_of_programs() -> None:
    with Lab("test") as lab:
        left, right = lab.host("left"), lab.host("right")
        lab.link((left, "eth0"), (right, "eth0"))
        left.set_addresses("eth0", ["192.0.2.1/30"])
        right.set_addresses("eth0", ["192.0.2.2/30"])
        assert left.run("cat", stdin="through\n").stdout == "through\n"
        ping = left.popen("ping", "-n", "-i", "0.1", "192.0.2.2", log="ping")
        wait_for(lambda: "icmp_seq=3" in ping.output(), 5, what="three answers")
        assert " 0% packet loss" in ping.interrupt()
        assert "ping" in "".join(lab.logs())
        with pytest.raises(CommandFailed, match="exit status 3"):
            right.run("bash", "-c", "exit 3")
        with pytest.raises(CommandFailed, match="still running"):
            right.run("sleep", "10", timeout=0.2)
        with pytest.raises(NotInTime, match="never"):
            wait_for(lambda: False, 0.1, what="never")


def test_an_error_inside_cleans_up_processes_namespaces_and_files() -> None:
    started = []

    def fail_inside() -> None:
        with Lab("test") as lab:
            started.append(lab.host("host").popen("bash", "-c", "trap '' TERM; while true; do sleep 1; done"))
            raise RuntimeError(lab.id)

    with pytest.raises(RuntimeError) as raised:
        fail_inside()
    assert Lab.leftovers(str(raised.value)) == []
    assert not started[0].running


SLEEPER = """
import time
from tests.netlab import Lab
with Lab("test") as lab:
    lab.host("host").popen("sleep", "1000")
    print(lab.id, flush=True)
    time.sleep(1000)
"""


def start_sleeper() -> tuple[subprocess.Popen[str], str]:
    """Another process with an open lab, and the lab's id."""
    owner = subprocess.Popen([sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE, text=True, cwd=PROJECT)
    assert owner.stdout is not None
    lab_id = owner.stdout.readline().strip()
    owner.stdout.close()
    assert Lab.leftovers(lab_id)
    return owner, lab_id


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_owner_cleans_up(number: signal.Signals) -> None:
    owner, lab_id = start_sleeper()
    os.kill(owner.pid, number)
    owner.wait(20)
    assert Lab.leftovers(lab_id) == []


def test_what_a_killed_owner_left_is_swept_by_the_next_lab() -> None:
    owner, lab_id = start_sleeper()
    owner.kill()
    owner.wait()
    assert Lab.leftovers(lab_id)
    with Lab("test"):
        assert Lab.leftovers(lab_id) == []
