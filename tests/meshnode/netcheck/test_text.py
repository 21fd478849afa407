"""What `netcheck` prints, to the letter (reference §5.5)."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest

from meshnode.netcheck.report import Family, Report
from meshnode.netcheck.text import as_json, as_log_line, as_text, go_duration
from meshproto.addresses import AddrPort
from tests.meshnode.netcheck.maps import OTHER, OWN, OWN_IPV6, region

AT = datetime(2026, 8, 22, 15, 48, 56, 123456, tzinfo=UTC)
REGIONS = {1: region(1, "lhr", "London"), 2: region(2, "fr", "Frankfurt"), 3: region(3, "nyc", "New York")}


def filled() -> Report:
    report = Report(os_has_ipv6=True, ipv4_can_send=True, ipv6_can_send=True)
    report.stun_answered(1, Family.IPV4, OWN, 0.04583)
    report.stun_answered(3, Family.IPV4, OWN, 1.20341)
    report.stun_answered(1, Family.IPV6, OWN_IPV6, 0.05)
    report.upnp, report.pmp, report.pcp = True, False, True
    report.preferred_derp = 1
    return report


def test_all_is_well() -> None:
    assert as_text(filled(), REGIONS, AT) == (
        "\nReport:\n"
        "\t* Time: 2026-08-22 15:48:56.123456Z\n"
        "\t* UDP: true\n"
        "\t* IPv4: yes, 203.0.113.10:41641\n"
        "\t* IPv6: yes, [2001:db8::1]:41641\n"
        "\t* MappingVariesByDestIP: false\n"
        "\t* PortMapping: UPnP, PCP\n"
        "\t* Nearest DERP: London\n"
        "\t* DERP latency:\n"
        "\t\t- lhr: 45.8ms  (London)\n"
        "\t\t- nyc: 1.2034s (New York)\n"
        "\t\t-  fr:         (Frankfurt)\n"
    )


def test_nothing_is() -> None:
    assert as_text(Report(), REGIONS, AT) == (
        "\nReport:\n"
        "\t* Time: 2026-08-22 15:48:56.123456Z\n"
        "\t* UDP: false\n"
        "\t* IPv4: (no addr found)\n"
        "\t* IPv6: no, unavailable in OS\n"
        "\t* MappingVariesByDestIP: \n"
        "\t* PortMapping: not checked\n"
        "\t* Nearest DERP: unknown (no response to latency probes)\n"
    )


def line(report: Report, name: str, **changes: bool) -> str:
    found = [one for one in as_text(report, REGIONS, AT, **changes).splitlines() if f"* {name}" in one]
    return found[0] if found else ""


def test_single_lines() -> None:
    report = filled()
    report.captive_portal = False
    assert line(report, "CaptivePortal") == "\t* CaptivePortal: false"
    report.stun_answered(2, Family.IPV4, OTHER, 0.1)
    assert line(report, "MappingVaries") == "\t* MappingVariesByDestIP: true"
    report.upnp = report.pmp = report.pcp = False
    assert line(report, "PortMapping") == "\t* PortMapping: "
    report.preferred_derp = 0
    assert line(report, "Nearest") == "\t* Nearest DERP: [none]"
    report.preferred_derp = 9
    assert line(report, "Nearest") == "\t* Nearest DERP: 9 (region not found in map)"
    report.global_v6 = None
    assert line(report, "IPv6") == "\t* IPv6: (no addr found)"
    report.ipv6 = False
    assert line(report, "IPv6") == "\t* IPv6: no, but OS has support"


def test_verbose_names_the_numbers() -> None:
    assert "\t\t- lhr: 45.8ms  (derp1, London)\n" in as_text(filled(), REGIONS, AT, verbose=True)


@pytest.mark.parametrize(
    ("at", "shown"),
    [
        (AT.replace(microsecond=0), "2026-08-22 15:48:56Z"),
        (AT.replace(microsecond=120000), "2026-08-22 15:48:56.12Z"),
        (AT.replace(tzinfo=timezone(timedelta(hours=2))), "2026-08-22 15:48:56.123456+02:00"),
        (AT.replace(tzinfo=timezone(-timedelta(hours=3, minutes=30))), "2026-08-22 15:48:56.123456-03:30"),
    ],
)
def test_times(at: datetime, shown: str) -> None:
    assert f"\t* Time: {shown}\n" in as_text(filled(), REGIONS, at)


def test_json_is_gos() -> None:
    members = json.loads(as_json(filled(), AT))
    assert list(members) == [
        "Now", "UDP", "IPv6", "IPv4", "IPv6CanSend", "IPv4CanSend", "OSHasIPv6", "ICMPv4",
        "MappingVariesByDestIP", "UPnP", "PMP", "PCP", "PreferredDERP", "RegionLatency", "RegionV4Latency",
        "RegionV6Latency", "GlobalV4Counters", "GlobalV6Counters", "GlobalV4", "GlobalV6", "CaptivePortal",
    ]  # fmt: skip
    assert members["Now"] == "2026-08-22T15:48:56.123456Z"
    assert members["RegionLatency"] == {"1": 45_830_000, "3": 1_203_410_000}
    assert members["RegionV6Latency"] == {"1": 50_000_000}
    assert members["GlobalV4Counters"] == {"203.0.113.10:41641": 2}
    assert members["GlobalV6"] == "[2001:db8::1]:41641"
    assert members["PMP"] is False
    assert members["CaptivePortal"] is None


def test_json_of_nothing() -> None:
    members = json.loads(as_json(Report(), AT, one_line=True))
    assert members["GlobalV4"] == ""
    assert members["GlobalV4Counters"] is None
    assert members["MappingVariesByDestIP"] is None
    assert members["RegionLatency"] == {}


def test_json_layouts() -> None:
    assert as_json(filled(), AT).startswith('{\n\t"Now": "')
    assert as_json(filled(), AT, one_line=True).count("\n") == 1


def test_log_line() -> None:
    assert as_log_line(filled()) == (
        "udp=true v6=true v6os=true mapvarydest=false portmap=UC v4a=203.0.113.10:41641 "
        "v6a=[2001:db8::1]:41641 derp=1 derpdist=1v4:46ms,1v6:50ms,3v4:1203ms"
    )
    assert as_log_line(Report()) == "udp=false v6=false v6os=false mapvarydest= portmap=? derp=0"


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0s"),
        (900, "900ns"),
        (300_000, "300µs"),
        (1_500_000, "1.5ms"),
        (45_800_000, "45.8ms"),
        (46_000_000, "46ms"),
        (1_203_400_000, "1.2034s"),
        (2_000_000_000, "2s"),
        (62_500_000_000, "1m2.5s"),
        (3_600_000_000_000, "1h0m0s"),
    ],
)
def test_durations(nanoseconds: int, text: str) -> None:
    assert go_duration(nanoseconds) == text


def test_what_the_coordinator_is_told() -> None:
    info = filled().net_info(have_port_map=True)
    assert info.mapping_varies_by_dest_ip is False
    assert info.working_udp is True
    assert info.working_ipv6 is True
    assert info.have_port_map is True
    assert info.preferred_derp == 1
    assert info.derp_latency == {"1-v4": 0.04583, "3-v4": 1.20341, "1-v6": 0.05}


def test_an_address_is_counted_by_server() -> None:
    report = filled()
    assert report.global_v4_counters[AddrPort("203.0.113.10", 41641)] == 2
