"""A small internet on one machine: hosts, LANs, links and NAT routers made of network namespaces.

    with Lab("cafe") as lab:
        internet = lab.lan("internet")
        cafe = lab.lan("cafe")
        router = lab.router("router")
        internet.attach(router, "203.0.113.20/24", "2001:db8::20/64", interface="wan")
        cafe.attach(router, "10.20.0.1/24", interface="lan")
        router.masquerade("wan")
        laptop = lab.host("laptop")
        cafe.attach(laptop, "10.20.0.2/24", gateways=("10.20.0.1",))
        laptop.run("ping", "-c1", "203.0.113.10")

Everything is real (veth, bridges, nftables, routing) and nothing of it touches the machine's own network.
Leaving the `with` block, by whatever way, ends every process in the hosts and removes the namespaces and the
files; what a killed owner left is removed when the next lab opens. Needs root.
"""

from tests.netlab.capture import Capture, UdpDatagram
from tests.netlab.host import Host, PingResult
from tests.netlab.lab import Lab
from tests.netlab.processes import CommandFailed, Process
from tests.netlab.router import Router
from tests.netlab.segment import Lan
from tests.netlab.waiting import NotInTime, wait_for

__all__ = [
    "Capture",
    "CommandFailed",
    "Host",
    "Lab",
    "Lan",
    "NotInTime",
    "PingResult",
    "Process",
    "Router",
    "UdpDatagram",
    "wait_for",
]
