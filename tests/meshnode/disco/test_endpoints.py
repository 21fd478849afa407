"""Where we say that we can be reached, and in which order."""

from __future__ import annotations

import pytest

from meshnode.disco.endpoints import (
    REMEMBERED_FOR,
    REMEMBERED_PER_HOST,
    Endpoint,
    EndpointBook,
    EndpointType,
    local_endpoints,
)
from meshnode.netcheck.report import Family, Report
from meshproto.addresses import AddrPort

WAN = AddrPort("203.0.113.10", 41641)
WAN_2 = AddrPort("203.0.113.10", 50001)
WAN_3 = AddrPort("203.0.113.10", 50002)
WAN_IPV6 = AddrPort("2001:db8::10", 41641)
LAN = AddrPort("192.168.1.2", 41641)
MAPPED = AddrPort("203.0.113.10", 7000)
FORWARDED = AddrPort("198.51.100.1", 1234)


def report(*observed: AddrPort) -> Report:
    made = Report()
    for number, one in enumerate(observed):
        family = Family.IPV6 if ":" in one.host else Family.IPV4
        made.stun_answered(number, family, one, 0.02)
    return made


def gather(
    book: EndpointBook, made: Report | None = None, now: float = 0.0, **changes: object
) -> list[Endpoint]:
    arguments: dict[str, object] = {"port_mapped": None, "local": [LAN], "is_port_fixed": False, **changes}
    return list(book.gather(made, now=now, **arguments))  # type: ignore[arg-type]


def test_the_order() -> None:
    found = gather(EndpointBook(), report(WAN, WAN, WAN_IPV6), port_mapped=MAPPED, static=[FORWARDED])
    assert found == [
        (MAPPED, EndpointType.PORT_MAPPED),
        (WAN, EndpointType.STUN),
        (WAN_IPV6, EndpointType.STUN),
        (FORWARDED, EndpointType.EXPLICIT),
        (LAN, EndpointType.LOCAL),
    ]


def test_each_once_by_its_first_origin() -> None:
    found = gather(EndpointBook(), report(WAN), port_mapped=WAN, static=[LAN])
    assert found == [(WAN, EndpointType.PORT_MAPPED), (LAN, EndpointType.EXPLICIT)]


def test_a_mapping_that_varies_is_shown_to_do_so() -> None:
    found = gather(EndpointBook(), report(WAN, WAN_2, WAN_3))
    assert [one.address for one in found] == [WAN, WAN_2, WAN_3, LAN]


def test_then_a_forward_by_hand_may_exist() -> None:
    found = gather(EndpointBook(), report(WAN_2, WAN_3), is_port_fixed=True)
    assert (AddrPort(WAN.host, LAN.port), EndpointType.STUN4_LOCAL_PORT) in found


def test_one_that_a_single_server_saw_is_left_out_otherwise() -> None:
    made = report(WAN, WAN)
    made.global_v4_counters[WAN_2] = 1
    made.global_v4_counters[WAN_3] = 2
    assert [one.address for one in gather(EndpointBook(), made)] == [WAN, WAN_3, LAN]


def test_what_was_seen_lately_comes_last_for_a_while() -> None:
    book = EndpointBook()
    gather(book, report(WAN))
    assert [one.address for one in gather(book, report(WAN_2), 60.0)] == [WAN_2, LAN, WAN]
    assert [one.address for one in gather(book, report(WAN_2), 0.1 + REMEMBERED_FOR)] == [WAN_2, LAN]


def test_ports_of_a_restless_nat_are_bounded() -> None:
    book = EndpointBook()
    for number in range(50):
        found = gather(book, report(AddrPort(WAN.host, 50_000 + number)), float(number))
    ports = [one.address.port for one in found if one.address.host == WAN.host]
    assert len(ports) == REMEMBERED_PER_HOST
    assert ports[0] == 50_049


def test_another_network() -> None:
    book = EndpointBook()
    gather(book, report(WAN))
    book.forget()
    assert [one.address for one in gather(book)] == [LAN]


@pytest.mark.parametrize(
    ("own", "offered"),
    [
        (["192.168.1.2", "10.0.0.2"], ["192.168.1.2", "10.0.0.2"]),
        (["100.64.0.1", "fd7a:115c:a1e0::1", "192.168.1.2"], ["192.168.1.2"]),
        (["fe80::1", "192.168.1.2"], ["192.168.1.2"]),
        (["169.254.1.1", "192.168.1.2"], ["192.168.1.2"]),
        (["169.254.1.1", "127.0.0.1"], ["169.254.1.1"]),
        (["fd00::1", "192.168.1.2"], ["192.168.1.2"]),
        (["fd00::1"], ["fd00::1"]),
        (["127.0.0.1", "::1"], ["127.0.0.1", "::1"]),
        (["2001:db8::1", "2001:db8::2", "2001:db8::3"], ["2001:db8::1", "2001:db8::2"]),
        (
            ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::3"],
            ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::3"],
        ),
    ],
)
def test_interfaces(own: list[str], offered: list[str]) -> None:
    found = local_endpoints([AddrPort(one, 41641) for one in own])
    assert [one.host for one in found] == offered
