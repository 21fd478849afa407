"""Nothing but TCP to port 443 gets out: the mesh works through nginx with TLS, and through an HTTP proxy."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from derp.frame_reader import FrameReader, Packets
from derp.frames import MAX_PACKET_SIZE, FrameType
from meshproto.keys import KEY_SIZE
from tests.derp.relays import Certificate
from tests.netlab import Host, Lab, iperf3, wait_for
from tests.netlab.networks import HOMES, KINDS
from tests.netlab.programs import Coordinator, Node
from tests.netlab.sites import Internet, Place
from tests.system.traffic import kind_of

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

ADDRESS = "25.0.113.2"
PROXY_ADDRESS = "25.0.113.3"
PROXY_PORT = 3128
CONFIGURATION = Path(__file__).parents[2] / "packaging" / "nginx" / "coordinator.conf"
AROUND = """
pid {directory}/nginx.pid;
error_log {directory}/error.log;
daemon off;
worker_processes 1;
events {{}}
http {{
    access_log {directory}/access.log;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    {servers}
}}
"""


@dataclass
class Rented:
    """A rented server: the coordinator on its loopback interface, and nginx with TLS before it."""

    internet: Internet
    coordinator: Coordinator
    certificate: Certificate

    def join(self, place: Place, **env: str) -> Node:
        """A node there, which trusts the server's certificate."""
        node = Node(place.host, env={"SSL_CERT_FILE": str(self.certificate.chain), **env})
        node.join(self.coordinator, self.coordinator.create_key("ana"))
        return node


@pytest.fixture
def rented() -> Iterator[Rented]:
    with Lab("tls") as lab:
        internet = Internet(lab)
        host = internet.server("vpn", ADDRESS)
        certificate = Certificate.make(host.directory, (ADDRESS,))
        coordinator = Coordinator(host, "127.0.0.1", url=f"https://{ADDRESS}")
        coordinator.start()
        start_nginx(host, certificate)
        yield Rented(internet, coordinator, certificate)


def start_nginx(host: Host, certificate: Certificate) -> None:
    """With the configuration that we hand out; only the name and the certificate are others."""
    servers = CONFIGURATION.read_text()
    live = "/etc/letsencrypt/live/vpn.example.org"
    servers = servers.replace(f"{live}/fullchain.pem", str(certificate.chain))
    servers = servers.replace(f"{live}/privkey.pem", str(certificate.key))
    settings = host.directory / "nginx.conf"
    settings.write_text(AROUND.format(directory=host.directory, servers=servers))
    host.popen(shutil.which("nginx") or "/usr/sbin/nginx", "-e", "stderr", "-c", settings, log="nginx")
    words = ["curl", "--silent", "--fail", "--cacert", str(certificate.chain), f"https://{ADDRESS}/health"]
    wait_for(lambda: host.run(*words, check=False).returncode == 0, 15, what="the coordinator through nginx")


def assert_relayed(near: Node, far: Node) -> None:
    """Pings and a TCP stream get through, both ways, over the relay."""
    near.wait_to_reach(far)
    far.wait_to_reach(near)
    assert iperf3.transfer(near.host, far.host, far.ipv4, "--time", "2").received_bits_per_second > 1e6
    peer = near.peer(far.name)
    assert peer is not None
    assert (peer["Relay"], peer["CurAddr"]) == ("embedded", "")


def given_to_relay(stream: bytes) -> list[bytes]:
    """The packets in what one client sent to the relay, in the clear behind nginx; none of another stream."""
    head, end, frames = stream.partition(b"\r\n\r\n")
    if not head.startswith(b"GET /derp ") or not end:
        return []
    kind = int(FrameType.SEND_PACKET)
    reader = FrameReader({kind: KEY_SIZE + MAX_PACKET_SIZE}, packet_keys={kind: KEY_SIZE})
    runs = [frame for frame in reader.receive_data(frames) if isinstance(frame, Packets)]
    return [packet for run in runs for packet in run.packets]


def test_only_443_through_nginx(rented: Rented) -> None:
    near = rented.join(rented.internet.place("office", KINDS["only-443"].site))
    far = rented.join(rented.internet.place("home", HOMES["port-restricted"].site))
    capture = rented.coordinator.host.capture("lo", "tcp port 8080")
    near.kill_daemon()
    near.start_daemon()
    near.wait_to_reach(far)
    capture.stop()
    relayed = [packet for stream in capture.tcp_streams(8080) for packet in given_to_relay(stream)]
    assert {kind_of(packet) for packet in relayed} == {"WireGuard", "disco"}
    assert_relayed(near, far)
    shown = near.run("netcheck").stdout
    assert "* UDP: false" in shown
    assert "- embedded: " in shown
    assert "allow outgoing UDP" in near.run("status").stdout


def test_only_a_proxy(rented: Rented) -> None:
    """The office's firewall lets out what goes to its proxy, and nothing else."""
    proxy = rented.internet.server("proxy", PROXY_ADDRESS)
    settings, log = proxy.directory / "tinyproxy.conf", proxy.directory / "tinyproxy.log"
    settings.write_text(f'Port {PROXY_PORT}\nTimeout 600\nMaxClients 20\nLogFile "{log}"\nLogLevel Connect\n')
    proxy.popen("tinyproxy", "-d", "-c", settings, log="tinyproxy")
    office = rented.internet.place("office", HOMES["port-restricted"].site)
    assert office.router is not None
    office.router.cut(f"iifname lan ip daddr != {PROXY_ADDRESS}")
    far = rented.join(rented.internet.place("home", HOMES["port-restricted"].site))
    near = rented.join(office, HTTPS_PROXY=f"http://{PROXY_ADDRESS}:{PROXY_PORT}")
    assert_relayed(near, far)
    assert log.read_text().count(f"CONNECT {ADDRESS}:443") >= 2  # the coordinator's and the relay's
