"""How a report is shown: to a person, as JSON, as one line of a log (reference §5.5)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from meshnode.netcheck.report import Report
from meshproto.addresses import AddrPort
from meshproto.messages import DERPRegion

__all__ = ["as_json", "as_log_line", "as_text", "go_duration"]

_NANOSECONDS: Final = 1_000_000_000
_TENTH_OF_MILLISECOND: Final = 100_000  # ns


def as_text(report: Report, regions: Mapping[int, DERPRegion], at: datetime, *, verbose: bool = False) -> str:
    """What `netcheck` prints. `at` is the local time, with its offset."""
    lines = ["", "Report:", f"\t* Time: {_time(at)}", f"\t* UDP: {_bool(report.udp)}"]
    lines += [f"\t* IPv4: {_ipv4(report)}", f"\t* IPv6: {_ipv6(report)}"]
    lines.append(f"\t* MappingVariesByDestIP: {_bool(report.mapping_varies_by_dest_ip)}")
    lines.append(f"\t* PortMapping: {_port_mapping(report)}")
    if report.captive_portal is not None:
        lines.append(f"\t* CaptivePortal: {_bool(report.captive_portal)}")
    if not report.region_latency:
        lines.append("\t* Nearest DERP: unknown (no response to latency probes)")
        return "\n".join(lines) + "\n"
    lines.append(f"\t* Nearest DERP: {_nearest(report, regions)}")
    lines.append("\t* DERP latency:")
    lines += [_latency_line(report, region, verbose=verbose) for region in _by_latency(report, regions)]
    return "\n".join(lines) + "\n"


def as_json(report: Report, at: datetime, *, one_line: bool = False) -> str:
    """The `json` and `json-line` formats: Go's names and order, latencies in nanoseconds."""
    members = {
        "Now": _rfc3339(at),
        "UDP": report.udp,
        "IPv6": report.ipv6,
        "IPv4": report.ipv4,
        "IPv6CanSend": report.ipv6_can_send,
        "IPv4CanSend": report.ipv4_can_send,
        "OSHasIPv6": report.os_has_ipv6,
        "ICMPv4": report.icmpv4,
        "MappingVariesByDestIP": report.mapping_varies_by_dest_ip,
        "UPnP": report.upnp,
        "PMP": report.pmp,
        "PCP": report.pcp,
        "PreferredDERP": report.preferred_derp,
        "RegionLatency": _nanoseconds(report.region_latency),
        "RegionV4Latency": _nanoseconds(report.region_v4_latency),
        "RegionV6Latency": _nanoseconds(report.region_v6_latency),
        "GlobalV4Counters": _counters(report.global_v4_counters),
        "GlobalV6Counters": _counters(report.global_v6_counters),
        "GlobalV4": _address(report.global_v4),
        "GlobalV6": _address(report.global_v6),
        "CaptivePortal": report.captive_portal,
    }
    if one_line:
        return json.dumps(members, separators=(",", ":")) + "\n"
    return json.dumps(members, indent="\t") + "\n"


def as_log_line(report: Report) -> str:
    """All that matters, in one line."""
    mappers = {"U": report.upnp, "M": report.pmp, "C": report.pcp}
    parts = [
        f"udp={_bool(report.udp)}",
        f"v6={_bool(report.ipv6)}",
        f"v6os={_bool(report.os_has_ipv6)}",
        f"mapvarydest={_bool(report.mapping_varies_by_dest_ip)}",
        f"portmap={_letters(mappers)}",
    ]
    if report.global_v4 is not None:
        parts.append(f"v4a={report.global_v4}")
    if report.global_v6 is not None:
        parts.append(f"v6a={report.global_v6}")
    if report.captive_portal is not None:
        parts.append(f"captiveportal={_bool(report.captive_portal)}")
    parts.append(f"derp={report.preferred_derp}")
    tables = (("v4", report.region_v4_latency), ("v6", report.region_v6_latency))
    distances = sorted((region, name, latency) for name, table in tables for region, latency in table.items())
    if distances:
        shown = (f"{region}{name}:{latency * 1000:.0f}ms" for region, name, latency in distances)
        parts.append("derpdist=" + ",".join(shown))
    return " ".join(parts)


def go_duration(nanoseconds: int) -> str:
    """As Go's `Duration.String`: `45.8ms`, `300µs`, `1.2034s`, `1m2.5s`."""
    if nanoseconds < 1_000:
        return f"{nanoseconds}ns" if nanoseconds else "0s"
    for unit, size in (("µs", 1_000), ("ms", 1_000_000)):
        if nanoseconds < size * 1_000:
            return f"{_decimal(nanoseconds, size)}{unit}"
    hours, rest = divmod(nanoseconds, 3600 * _NANOSECONDS)
    minutes, rest = divmod(rest, 60 * _NANOSECONDS)
    text = f"{hours}h" if hours else ""
    text += f"{minutes}m" if hours or minutes else ""
    return text + f"{_decimal(rest, _NANOSECONDS)}s"


def _decimal(value: int, unit: int) -> str:
    """`value / unit` without trailing zeros; `unit` is a power of ten."""
    whole, fraction = divmod(value, unit)
    if not fraction:
        return str(whole)
    digits = str(fraction).rjust(len(str(unit)) - 1, "0").rstrip("0")
    return f"{whole}.{digits}"


def _bool(value: bool | None) -> str:
    return "" if value is None else "true" if value else "false"


def _letters(present: Mapping[str, bool | None]) -> str:
    if all(value is None for value in present.values()):
        return "?"
    return "".join(letter for letter, value in present.items() if value)


def _ipv4(report: Report) -> str:
    return f"yes, {report.global_v4}" if report.global_v4 is not None else "(no addr found)"


def _ipv6(report: Report) -> str:
    if report.global_v6 is not None:
        return f"yes, {report.global_v6}"
    if report.ipv6:
        return "(no addr found)"
    return "no, but OS has support" if report.os_has_ipv6 else "no, unavailable in OS"


def _port_mapping(report: Report) -> str:
    present = {"UPnP": report.upnp, "NAT-PMP": report.pmp, "PCP": report.pcp}
    if all(value is None for value in present.values()):
        return "not checked"
    return ", ".join(name for name, value in present.items() if value)


def _nearest(report: Report, regions: Mapping[int, DERPRegion]) -> str:
    if not report.preferred_derp:
        return "[none]"
    region = regions.get(report.preferred_derp)
    return region.region_name if region is not None else f"{report.preferred_derp} (region not found in map)"


def _by_latency(report: Report, regions: Mapping[int, DERPRegion]) -> list[DERPRegion]:
    """Measured ones first, the nearest first."""
    far_away = float("inf")
    return sorted(
        regions.values(),
        key=lambda region: (report.region_latency.get(region.region_id, far_away), region.region_id),
    )


def _latency_line(report: Report, region: DERPRegion, *, verbose: bool) -> str:
    seconds = report.region_latency.get(region.region_id)
    latency = ""
    if seconds is not None:
        tenths = round(seconds * _NANOSECONDS / _TENTH_OF_MILLISECOND)
        latency = go_duration(tenths * _TENTH_OF_MILLISECOND)
    name = f"derp{region.region_id}, {region.region_name}" if verbose else region.region_name
    return f"\t\t- {region.region_code:>3}: {latency:<7} ({name})"


def _time(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S") + _fraction(at) + _offset(at)


def _rfc3339(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S") + _fraction(at) + _offset(at)


def _fraction(at: datetime) -> str:
    return "." + f"{at.microsecond:06}".rstrip("0") if at.microsecond else ""


def _offset(at: datetime) -> str:
    offset = at.utcoffset()
    if not offset:
        return "Z"
    sign = "-" if offset < timedelta(0) else "+"
    minutes = abs(offset) // timedelta(minutes=1)
    return f"{sign}{minutes // 60:02}:{minutes % 60:02}"


def _address(address: AddrPort | None) -> str:
    return "" if address is None else str(address)


def _nanoseconds(latencies: Mapping[int, float]) -> dict[str, int]:
    return {str(region): round(latency * _NANOSECONDS) for region, latency in sorted(latencies.items())}


def _counters(counters: Counter[AddrPort]) -> dict[str, Any] | None:
    return {str(address): count for address, count in counters.items()} or None
