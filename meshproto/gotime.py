"""Go's `time.Time` as JSON writes it (reference §0): RFC 3339 with up to nine fractional digits.

Go has no absent time, only its zero value, the first second of the year 1. Where that only ever means
"none" a field is an `OptionalTime` and reads as None; where it means something of its own ("remove the
expiry") the field is a `Time` and reads as `ZERO_TIME`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING

from meshproto.json_union import json_union

ZERO_TIME = datetime(1, 1, 1, tzinfo=UTC)

if TYPE_CHECKING:
    Time = datetime
    OptionalTime = datetime | None
else:
    # Decoded by our hook: the JSON library would round nanoseconds up and keep foreign offsets.
    Time = json_union("Time", datetime)
    OptionalTime = json_union("OptionalTime", datetime, type(None))

_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:Z|([+-])(\d\d):(\d\d))", re.ASCII
)


class MalformedTime(ValueError):
    """The text is not an RFC 3339 time that Python can hold."""


def parse_time(text: str) -> datetime:
    """The time in UTC, cut (not rounded) to microseconds. Raises MalformedTime."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise MalformedTime(f"not an RFC 3339 time: {text[:80]!r}")
    *date_and_time, fraction, sign, hours, minutes = match.groups()
    microsecond = int((fraction or "0")[:6].ljust(6, "0"))
    try:
        offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
        zone = timezone(-offset if sign == "-" else offset)
        year, month, day, hour, minute, second = map(int, date_and_time)
        return datetime(year, month, day, hour, minute, second, microsecond, zone).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise MalformedTime(f"no such time: {text!r}") from error


def none_if_zero(time: datetime) -> datetime | None:
    """The time, or None when it is Go's zero time."""
    return None if time == ZERO_TIME else time
