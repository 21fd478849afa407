"""How far a login has come, and what to return to when it fails (docs/adr/0007-login-is-a-trial.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshnode.prefs import Prefs, apply_masked


class LoginTrial:
    """The login that is being tried, or that waits for a person; at most one at a time."""

    def __init__(self) -> None:
        self.is_under_way = False
        """It is going on and needs nobody, so far."""
        self.url = ""
        """Where a person must go for it to go on."""
        self.error = ""
        """Why the last one failed."""
        self._before: tuple[Prefs, str] | None = None

    def begin(self, prefs: Prefs) -> None:
        """Preferences are about to change for a login. What was before the first unfinished one counts."""
        if self._before is None:
            self._before = (prefs, self.url)
        self.url = self.error = ""

    def go_on(self) -> None:
        """It has been sent."""
        self.is_under_way = True

    def needs_person(self, url: str) -> None:
        """Somebody must visit `url`."""
        self.is_under_way, self.url = False, url

    def amend(self, masked: Mapping[str, Any]) -> None:
        """Settings that are changed meanwhile are to outlive a failure. Raises InvalidPrefs."""
        if self._before is not None:
            prefs, url = self._before
            self._before = (apply_masked(prefs, masked), url)

    def succeed(self) -> None:
        """We are logged in, or nothing is being tried any more."""
        self.is_under_way, self.url, self.error, self._before = False, "", "", None

    def fail(self, error: str) -> Prefs | None:
        """It has failed. Returns the preferences to return to."""
        before, self._before = self._before, None
        self.is_under_way, self.error = False, error
        if before is None:
            return None
        prefs, self.url = before
        return prefs
