"""miniupnpd, the port mapping server of most home routers, on a router of the lab: UPnP IGD, NAT-PMP and PCP.

    router.masquerade("wan")
    server = Miniupnpd(router, external="25.0.113.20")
    server.start()

It refuses to map ports while its external address is one of those that no host on the internet has, and for
it the networks for documentation (203.0.113.0/24 and the like) are among them. So the WAN interface needs an
address from elsewhere: as its only one, or, given as `external`, as one more to which the lab's internet has
a route. Nothing of the lab leaves the machine; 25.0.0.0/8 will do, which nobody announces on the internet.
"""

from __future__ import annotations

import zlib
from enum import Flag, auto

from tests.netlab.processes import Process
from tests.netlab.router import Router
from tests.netlab.waiting import wait_for

PROGRAM = "miniupnpd"
START_TIMEOUT = 10.0
NAT_PMP_PORT = 5351
HTTP_PORT = 5000
LOWEST_LIFETIME = 120


class Service(Flag):
    """A protocol by which ports can be mapped."""

    UPNP = auto()
    NAT_PMP = auto()
    PCP = auto()
    ALL = UPNP | NAT_PMP | PCP


# miniupnpd writes a mapping into three chains of ours. They come before the masquerading of everything else,
# so that what leaves from a mapped port has the mapping's external port as its source.
CHAINS = """
table inet miniupnpd
delete table inet miniupnpd
table inet miniupnpd {
  chain forward { type filter hook forward priority -5; jump miniupnpd; }
  chain prerouting { type nat hook prerouting priority dstnat - 5; jump prerouting_miniupnpd; }
  chain postrouting { type nat hook postrouting priority srcnat - 5; jump postrouting_miniupnpd; }
  chain miniupnpd { }
  chain prerouting_miniupnpd { }
  chain postrouting_miniupnpd { }
}
"""

# NAT-PMP and PCP share a port, and the first byte of a request tells which it is. The server has one switch
# for both; where only one is wanted, the other's requests do not get in.
SILENCED = """
table inet miniupnpd-silenced
delete table inet miniupnpd-silenced
table inet miniupnpd-silenced {{
  chain input {{
    type filter hook input priority filter - 5;
    udp dport {port} @th,64,8 {version} drop
  }}
}}
"""
VERSIONS = {Service.NAT_PMP: 0, Service.PCP: 2}

CONFIGURATION = """\
ext_ifname={wan}
listening_ip={lan}
http_port={http_port}
enable_upnp={upnp}
enable_natpmp={pmp}
min_lifetime={min_lifetime}
max_lifetime=86400
upnp_table_name=miniupnpd
upnp_nat_table_name=miniupnpd
upnp_forward_chain=miniupnpd
upnp_nat_chain=prerouting_miniupnpd
upnp_nat_postrouting_chain=postrouting_miniupnpd
secure_mode=yes
system_uptime=no
notify_interval=60
uuid=6d657368-6e6f-6465-8000-{uuid:012x}
allow 1024-65535 0.0.0.0/0 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
"""


class Miniupnpd:
    """One server on one router. `igd1` makes it describe itself as version 1 of the gateway device."""

    def __init__(
        self,
        router: Router,
        *,
        wan: str = "wan",
        lan: str = "lan",
        services: Service = Service.ALL,
        external: str | None = None,
        igd1: bool = False,
    ) -> None:
        self.router = router
        self.services = services
        self.process: Process | None = None
        self._config = router.directory / "miniupnpd.conf"
        self._flags = ["-1"] if igd1 else []
        text = CONFIGURATION.format(
            wan=wan,
            lan=lan,
            http_port=HTTP_PORT,
            upnp=_yes(Service.UPNP in services),
            pmp=_yes(bool(services & (Service.NAT_PMP | Service.PCP))),
            min_lifetime=LOWEST_LIFETIME,
            uuid=zlib.crc32(router.namespace.encode()),
        )
        self._config.write_text(text + (f"ext_ip={external}\n" if external else ""))

    def start(self) -> None:
        """Start without any mapping, and wait until it listens."""
        self.router.nft(CHAINS)
        for service, version in VERSIONS.items():
            if service not in self.services:
                self.router.nft(SILENCED.format(port=NAT_PMP_PORT, version=version))
        pid_file = self.router.directory / "miniupnpd.pid"
        words = ["-d", "-f", str(self._config), "-P", str(pid_file), *self._flags]
        self.process = self.router.popen(PROGRAM, *words, log="miniupnpd")
        wait_for(self._listens, START_TIMEOUT, what=f"miniupnpd on {self.router.name}")

    def _listens(self) -> bool:
        assert self.process is not None
        assert self.process.running, f"miniupnpd ended:\n{self.process.output()}"
        ports = f"( sport = :{HTTP_PORT} or sport = :{NAT_PMP_PORT} )"
        return bool(self.router.run("ss", "--no-header", "-lntu", ports).stdout.strip())

    def stop(self) -> None:
        """End it as a service manager does: it takes its mappings away and says goodbye by SSDP."""
        assert self.process is not None
        self.process.terminate()

    def crash(self) -> None:
        """End it, and what it mapped, without a word, as cutting the router's power does."""
        assert self.process is not None
        self.process.kill()
        self.router.nft(CHAINS)

    def restart(self) -> None:
        """Power off and on again: nothing that was mapped is known any more."""
        self.crash()
        self.start()

    def mappings(self) -> str:
        """The rules of all mappings as nftables shows them; empty while there is none."""
        listed = self.router.run("nft", "list", "chain", "inet", "miniupnpd", "prerouting_miniupnpd").stdout
        return "\n".join(line.strip() for line in listed.splitlines() if "dnat" in line)


def _yes(on: bool) -> str:
    return "yes" if on else "no"
