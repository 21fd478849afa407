"""Addresses, prefixes, `ip:port` and times in the spellings of Go."""

from __future__ import annotations

import contextlib
import pickle
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproto.addresses import AddrPort, AddrPorts, MalformedAddress, parse_address, parse_prefix
from meshproto.gotime import ZERO_TIME, MalformedTime, none_if_zero, parse_time
from tests.meshproto.message_strategies import addr_ports, prefixes


@given(addr_ports)
def test_addr_port_round_trip(value: AddrPort) -> None:
    assert AddrPort.parse(str(value)) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("192.0.2.9:41641", AddrPort("192.0.2.9", 41641)),
        ("[2001:db8::1]:0", AddrPort("2001:db8::1", 0)),
        ("[2001:DB8:0::1]:65535", AddrPort("2001:db8::1", 65535)),
    ],
)
def test_addr_port(text: str, value: AddrPort) -> None:
    assert AddrPort.parse(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "1.2.3.4",
        "1.2.3.4:",
        ":5",
        "1.2.3.4:65536",
        "1.2.3.4:-1",
        "1.2.3.4:+1",
        "1.2.3.4: 1",
        "1.2.3.4:1_0",
        "1.2.3.4:000001",
        "1.2.3.4:٣",
        "1.2.3:5",
        "01.2.3.4:5",
        "host:5",
        "[1.2.3.4]:5",
        "2001:db8::1:5",
        "[2001:db8::1]",
        "[2001:db8::1:5",
        "[]:5",
        "[fe80::1%" + "x" * 80 + "]:5",
    ],
)
def test_not_an_addr_port(text: str) -> None:
    with pytest.raises(MalformedAddress):
        AddrPort.parse(text)


@given(st.text(max_size=30))
def test_any_text(text: str) -> None:
    for parse, malformed in (
        (AddrPort.parse, MalformedAddress),
        (parse_address, MalformedAddress),
        (parse_prefix, MalformedAddress),
        (parse_time, MalformedTime),
    ):
        with contextlib.suppress(malformed):
            parse(text)


def test_addr_port_is_a_socket_address() -> None:
    host, port = AddrPort("192.0.2.9", 1)
    assert (host, port) == AddrPort("192.0.2.9", 1) == ("192.0.2.9", 1)
    assert AddrPort("192.0.2.9", 1).address == IPv4Address("192.0.2.9")
    assert AddrPort("::1", 1).address == IPv6Address("::1")
    with pytest.raises(MalformedAddress):
        _ = AddrPort("localhost", 1).address


def test_addr_ports_is_a_sequence() -> None:
    items = [AddrPort("192.0.2.9", 1), AddrPort("::1", 2)]
    row = AddrPorts(items)
    assert row == items == list(row)
    assert row == tuple(items)
    assert row != items[:1]
    assert row != "192.0.2.9:1"
    assert row[0] == items[0]
    assert row[1:] == items[1:]
    assert len(row) == 2
    assert hash(row) == hash(AddrPorts(items))
    assert items[1] in row
    assert repr(row) == "AddrPorts(192.0.2.9:1, [::1]:2)"
    assert pickle.loads(pickle.dumps(row)) == row


@given(prefixes)
def test_prefix_round_trip(prefix: object) -> None:
    assert parse_prefix(str(prefix)) == prefix


def test_host_bits_are_cleared() -> None:
    assert parse_prefix("192.168.1.77/24") == ip_network("192.168.1.0/24")
    assert parse_prefix("fd7a::1/16") == ip_network("fd7a::/16")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "/8",
        "10.0.0.0",
        "10.0.0.0/",
        "10.0.0.0/33",
        "::/129",
        "10.0.0.0/255.0.0.0",
        "10.0.0.0/-1",
        "10.0.0.0/8/8",
        "10.0.0/8",
        "fe80::1%eth0/64",
        "10.0.0.0/ 8",
        "0/0",
    ],
)
def test_not_a_prefix(text: str) -> None:
    with pytest.raises(MalformedAddress):
        parse_prefix(text)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("0001-01-01T00:00:00Z", ZERO_TIME),
        ("2026-08-22T15:48:56Z", datetime(2026, 8, 22, 15, 48, 56, tzinfo=UTC)),
        ("2026-08-22T15:48:56.5Z", datetime(2026, 8, 22, 15, 48, 56, 500_000, tzinfo=UTC)),
        ("2026-08-22T15:48:56.123456999Z", datetime(2026, 8, 22, 15, 48, 56, 123_456, tzinfo=UTC)),
        ("2026-08-22T17:48:56+02:00", datetime(2026, 8, 22, 15, 48, 56, tzinfo=UTC)),
        ("2026-08-22T10:18:56-05:30", datetime(2026, 8, 22, 15, 48, 56, tzinfo=UTC)),
        ("9999-12-31T23:59:59.999999999Z", datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
    ],
)
def test_time(text: str, time: datetime) -> None:
    assert parse_time(text) == time
    assert parse_time(text).tzinfo is UTC


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-08-22",
        "2026-08-22T15:48:56",
        "2026-08-22 15:48:56Z",
        "2026-08-22T15:48:56.Z",
        "2026-08-22T15:48:56z",
        "2026-13-22T15:48:56Z",
        "2026-08-22T24:00:00Z",
        "2026-08-22T15:48:60Z",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
        "2026-08-22T15:48:56+24:00",
        "2026-08-22T15:48:56Z\n",
        "٢026-08-22T15:48:56Z",
    ],
)
def test_not_a_time(text: str) -> None:
    with pytest.raises(MalformedTime):
        parse_time(text)


def test_zero_time_is_none() -> None:
    assert none_if_zero(ZERO_TIME) is None
    time = datetime(2026, 1, 1, tzinfo=UTC)
    assert none_if_zero(time) is time
