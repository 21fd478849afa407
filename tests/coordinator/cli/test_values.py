"""What flags take: durations, instants, prefixes, lists, ids."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.cli.durations import MalformedTime, parse_duration, parse_instant, to_rfc3339
from coordinator.cli.invocation import CommandError
from coordinator.cli.lists import split_list
from coordinator.cli.prefixes import parse_prefix, parse_prefixes
from coordinator.cli.values import NODE_ID


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30m", timedelta(minutes=30)),
        ("1h", timedelta(hours=1)),
        ("90d", timedelta(days=90)),
        ("1y", timedelta(days=365)),
        ("2w", timedelta(weeks=2)),
        ("1d12h", timedelta(days=1, hours=12)),
        ("1y2w3d4h5m6s7ms", timedelta(days=382, hours=4, minutes=5, seconds=6, milliseconds=7)),
        ("250ms", timedelta(milliseconds=250)),
        ("0", timedelta()),
        ("0s", timedelta()),
    ],
)
def test_prometheus_durations(text: str, expected: timedelta) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize(
    "text", ["", "1", "h", "1.5h", "-1h", "1h1d", "1h 30m", "1 h", "soon", "1H", "١h", "9" * 40 + "y"]
)
def test_other_durations_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(MalformedTime, match=r"write it like 30m|too long"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2030-01-31T12:00:00Z", datetime(2030, 1, 31, 12, tzinfo=UTC)),
        ("2030-01-31t12:00:00z", datetime(2030, 1, 31, 12, tzinfo=UTC)),
        ("2030-01-31T14:00:00+02:00", datetime(2030, 1, 31, 12, tzinfo=UTC)),
        ("2030-01-31T12:00:00.123456789Z", datetime(2030, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)),
    ],
)
def test_instants(text: str, expected: datetime) -> None:
    assert parse_instant(text) == expected
    assert parse_instant(to_rfc3339(expected)) == expected


@pytest.mark.parametrize(
    "text", ["", "2030-01-31", "2030-01-31T12:00:00", "2030-13-31T12:00:00Z", "20300131T120000Z", "90d"]
)
def test_other_instants_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(MalformedTime, match="write it like 2030-01-31T12:00:00Z"):
        parse_instant(text)


@given(st.text(max_size=30))
def test_any_text_is_an_instant_or_refused(text: str) -> None:
    with contextlib.suppress(MalformedTime):
        assert parse_instant(text).tzinfo is UTC


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10.0.0.5/24", '"10.0.0.5/24" has host bits set; did you mean 10.0.0.0/24?'),
        ("fd00::1/64", '"fd00::1/64" has host bits set; did you mean fd00::/64?'),
        ("10.0.0.5", '"10.0.0.5" has no prefix length; for this one address write 10.0.0.5/32'),
        ("fd00::1", '"fd00::1" has no prefix length; for this one address write fd00::1/128'),
        ("10.0.0.0/33", '"10.0.0.0/33" is not a route: write an address prefix like 192.168.0.0/24'),
        ("lan", '"lan" is not a route: write an address prefix like 192.168.0.0/24'),
    ],
)
def test_a_wrong_prefix_is_named_with_the_right_form(text: str, message: str) -> None:
    with pytest.raises(CommandError) as error:
        parse_prefix(text)
    assert message in error.value.message


@given(st.text(max_size=50) | st.ip_addresses().map(lambda address: f"{address}/9"))
def test_any_text_is_a_prefix_or_refused(text: str) -> None:
    with contextlib.suppress(CommandError):
        assert ip_network(str(parse_prefix(text)))


def test_each_prefix_counts_once() -> None:
    prefixes = parse_prefixes(["::/0", "10.0.0.0/8", "::/0"])
    assert [str(prefix) for prefix in prefixes] == ["::/0", "10.0.0.0/8"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([], []), ([""], []), (["a,b", "c"], ["a", "b", "c"]), ([" a , ,b"], ["a", "b"])],
)
def test_lists_are_comma_separated_and_repeatable(values: list[str], expected: list[str]) -> None:
    assert split_list(values) == expected


@given(st.integers(min_value=1, max_value=(1 << 63) - 1))
def test_ids(number: int) -> None:
    assert NODE_ID.convert(str(number), None, None) == number


@pytest.mark.parametrize("text", ["", "0", "-1", "x", "1.0", "²", str(1 << 63), "1" * 5000])
def test_other_ids_are_refused_with_how_to_list(text: str) -> None:
    with pytest.raises(click.BadParameter, match="coordinator nodes list"):
        NODE_ID.convert(text, None, None)
