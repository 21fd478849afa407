"""The result of a netcheck, and how it is put together from single answers (reference §5.3)."""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass, field

from meshproto.addresses import AddrPort
from meshproto.messages import NetInfo

__all__ = ["Family", "Report"]


class Family(enum.Enum):
    """The value is how messages write it."""

    IPV4 = "v4"
    IPV6 = "v6"


@dataclass(slots=True)
class Report:
    """Filled while the check runs, and not changed afterwards. Latencies are seconds; None is not known."""

    udp: bool = False
    """Any STUN server answered."""
    ipv4: bool = False
    ipv6: bool = False
    """Something answered over this family."""
    ipv4_can_send: bool = False
    ipv6_can_send: bool = False
    os_has_ipv6: bool = False
    icmpv4: bool = False
    """A relay answered an echo, tried where no STUN server did."""
    mapping_varies_by_dest_ip: bool | None = None
    """Whether another server saw us at another address or port: a hard NAT. IPv4 only."""
    upnp: bool | None = None
    pmp: bool | None = None
    pcp: bool | None = None
    preferred_derp: int = 0
    """The region to be at home in; 0 is none."""
    region_latency: dict[int, float] = field(default_factory=dict)
    """By region id, the shortest over both families; likewise the next two."""
    region_v4_latency: dict[int, float] = field(default_factory=dict)
    region_v6_latency: dict[int, float] = field(default_factory=dict)
    global_v4_counters: Counter[AddrPort] = field(default_factory=Counter)
    """Where servers saw us, and how many of them; in the order of the answers."""
    global_v6_counters: Counter[AddrPort] = field(default_factory=Counter)
    global_v4: AddrPort | None = None
    """Where the first server saw us."""
    global_v6: AddrPort | None = None
    """Where the last server saw us."""
    captive_portal: bool | None = None

    def stun_answered(self, region_id: int, family: Family, observed: AddrPort, latency: float) -> None:
        """A server of the region saw us at `observed`."""
        self.udp = True
        self.add_latency(region_id, family, latency)
        if family is Family.IPV6:
            self.ipv6 = True
            self.global_v6 = observed
            self.global_v6_counters[observed] += 1
            return
        self.ipv4 = True
        if self.global_v4 is None:
            self.global_v4 = observed
        elif observed != self.global_v4:
            self.mapping_varies_by_dest_ip = True
        elif self.mapping_varies_by_dest_ip is None:
            self.mapping_varies_by_dest_ip = False
        self.global_v4_counters[observed] += 1

    def add_latency(self, region_id: int, family: Family, latency: float) -> None:
        """The region is `latency` away, or less."""
        of_family = self.region_v6_latency if family is Family.IPV6 else self.region_v4_latency
        for table in (self.region_latency, of_family):
            table[region_id] = min(latency, table.get(region_id, latency))

    def net_info(self, *, have_port_map: bool) -> NetInfo:
        """What the coordinator is told. `have_port_map`: a port is mapped now."""
        tables = ((Family.IPV4, self.region_v4_latency), (Family.IPV6, self.region_v6_latency))
        return NetInfo(
            mapping_varies_by_dest_ip=self.mapping_varies_by_dest_ip,
            working_ipv6=self.ipv6,
            os_has_ipv6=self.os_has_ipv6,
            working_udp=self.udp,
            working_icmpv4=self.icmpv4,
            have_port_map=have_port_map,
            upnp=self.upnp,
            pmp=self.pmp,
            pcp=self.pcp,
            preferred_derp=self.preferred_derp,
            derp_latency={
                f"{region}-{family.value}": latency
                for family, table in tables
                for region, latency in sorted(table.items())
            },
        )
