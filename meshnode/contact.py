"""Whether the coordinator is there: the map stream's health, and how far its clock is from ours."""

from __future__ import annotations

import logging
import time
from datetime import datetime

from meshnode.control.errors import ControlError

log = logging.getLogger(__name__)

CLOCK_SKEW_TOLERATED_S = 60.0
"""The coordinator's clock counts for expiry when ours differs by more (node behaviour §8.1)."""


class Contact:
    """What is known of the coordinator's presence."""

    def __init__(self) -> None:
        self.is_polling = False
        """A map stream is alive: the coordinator sees this node online."""
        self.failure = ""
        """Why it is not alive, while it is being tried."""
        self._silent_since = time.monotonic()
        self._clock_offset_s = 0.0

    @property
    def silent_for_s(self) -> float:
        """Seconds since contact was lost, where there is a failure."""
        return time.monotonic() - self._silent_since

    def wall(self) -> float:
        """Unix time by the clock that decides about expiry."""
        return time.time() + self._clock_offset_s

    def made(self) -> None:
        """A message came."""
        if self.failure:
            log.info("in contact with the coordinator again")
        self.is_polling, self.failure = True, ""

    def lost(self, error: ControlError) -> None:
        """The stream broke, or could not be begun."""
        if not self.failure:
            self._silent_since = time.monotonic()
            log.warning("no contact with the coordinator: %s", error)
        self.is_polling, self.failure = False, str(error)

    def ended(self) -> None:
        """We have stopped trying."""
        self.is_polling, self.failure = False, ""

    def clock_read(self, control_time: datetime | None) -> None:
        """The coordinator said what time it is."""
        if control_time is not None:
            offset = control_time.timestamp() - time.time()
            self._clock_offset_s = offset if abs(offset) > CLOCK_SKEW_TOLERATED_S else 0.0
