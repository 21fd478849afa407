"""Durations as Go writes them, such as `1h30m`: what Headscale and Tailscale take for `checkPeriod`."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from typing import Final

_MICROSECONDS: Final = {
    "ns": Decimal("0.001"),
    "us": Decimal(1),
    "µs": Decimal(1),
    "μs": Decimal(1),  # the Greek letter, which looks the same
    "ms": Decimal(1_000),
    "s": Decimal(1_000_000),
    "m": Decimal(60_000_000),
    "h": Decimal(3_600_000_000),
}
_PART = re.compile(r"([0-9]{1,18}(?:\.[0-9]{0,18})?|\.[0-9]{1,18})(ns|us|µs|μs|ms|s|m|h)")


def parse(text: str) -> timedelta | None:
    """The duration: an optional sign, then numbers with units (ns us ms s m h) in any order, or `0`.

    None when it is no duration, or one of more than some million years.
    """
    sign, unsigned = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if unsigned == "0":
        return timedelta()
    total, end = Decimal(0), 0
    for part in _PART.finditer(unsigned):
        if part.start() != end:
            return None
        total += Decimal(part[1]) * _MICROSECONDS[part[2]]
        end = part.end()
    if not unsigned or end != len(unsigned):
        return None
    try:
        return timedelta(microseconds=sign * int(total))
    except OverflowError:
        return None
