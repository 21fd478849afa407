"""The direction towards a client: when it needs a keep-alive, and when it has stopped reading."""

from __future__ import annotations


class WriteWatch:
    """Its clock is that of the caller. A client has stalled when its socket takes nothing for a while."""

    __slots__ = ("_keep_alive_s", "_last_output", "_stalled_since", "_unsent")

    def __init__(self, keep_alive_s: float, now: float) -> None:
        self._keep_alive_s = keep_alive_s
        self._last_output = now
        self._stalled_since: float | None = None
        self._unsent = 0

    def sent(self, now: float) -> None:
        """Something was handed to the socket, which is as good as a keep-alive."""
        self._last_output = now

    def blocked(self, unsent: int, now: float) -> None:
        """The socket takes no more for now; it has `unsent` bytes left."""
        self._stalled_since = now
        self._unsent = unsent

    def unblocked(self) -> None:
        self._stalled_since = None

    def next_timeout(self, write_timeout_s: float) -> float:
        """When to look: for a stalled client, or at whether a keep-alive is due."""
        if self._stalled_since is not None:
            return self._stalled_since + write_timeout_s
        return self._last_output + self._keep_alive_s

    def is_keep_alive_due(self, now: float) -> bool:
        return self._stalled_since is None and now >= self._last_output + self._keep_alive_s

    def has_stalled(self, unsent: int, write_timeout_s: float, now: float) -> bool:
        """True when none of the bytes was taken in all that time; if some were, it has as long again."""
        if self._stalled_since is None or now < self._stalled_since + write_timeout_s:
            return False
        if unsent >= self._unsent:
            return True
        self.blocked(unsent, now)
        return False
