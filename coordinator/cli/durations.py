"""Durations in Prometheus' syntax, and instants in RFC 3339, as the flags take them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_UNITS = {  # largest first, the order in which they must be written
    "y": timedelta(days=365),
    "w": timedelta(weeks=1),
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
}
_DURATION = re.compile("".join(f"(?:(?P<{unit}>[0-9]+){unit})?" for unit in _UNITS))
_INSTANT = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


class MalformedTime(ValueError):
    """The text is neither a duration nor an instant as wanted; the message says what was expected."""


def parse_duration(text: str) -> timedelta:
    """`30m`, `90d`, `1d12h`: whole numbers, each unit (y w d h m s ms) at most once, largest first, or `0`.

    A year has 365 days. Raises MalformedTime.
    """
    if text == "0":
        return timedelta()
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        raise MalformedTime(f'"{text}" is not a duration: write it like 30m, 1h, 1d12h or 90d')
    try:
        return sum((_UNITS[unit] * int(n) for unit, n in match.groupdict().items() if n), timedelta())
    except OverflowError:
        raise MalformedTime(f'"{text}" is too long a duration') from None


def parse_instant(text: str) -> datetime:
    """An RFC 3339 instant, with its zone, in UTC. Raises MalformedTime."""
    expected = f'"{text}" is not an RFC 3339 instant: write it like 2030-01-31T12:00:00Z'
    if not _INSTANT.fullmatch(text):
        raise MalformedTime(expected)
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise MalformedTime(expected) from None


def to_rfc3339(instant: datetime) -> str:
    """`2030-01-31T12:00:00Z`; fractions of a second only where there are any."""
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")
