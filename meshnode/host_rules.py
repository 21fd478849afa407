"""What preferences must fulfil that depends on this host."""

from __future__ import annotations

import pwd

from meshnode.control.server_url import InvalidServerURL, ServerURL
from meshnode.prefs import InvalidPrefs, Prefs


def check_on_this_host(prefs: Prefs) -> None:
    """Raises InvalidPrefs for a coordinator that cannot be, or an operator that is no user here."""
    if prefs.control_url:
        try:
            ServerURL.parse(prefs.control_url)
        except InvalidServerURL as error:
            raise InvalidPrefs(str(error)) from error
    if prefs.operator_user:
        try:
            pwd.getpwnam(prefs.operator_user)
        except KeyError as error:
            raise InvalidPrefs(f'operator "{prefs.operator_user}" is no user of this host') from error
