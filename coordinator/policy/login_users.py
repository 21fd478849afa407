"""The `users` of an `ssh` entry: as whom somebody may log in at the destination.

Login names in a compiled rule map what is asked for to the local user: a name to itself, `*` to `=` (any name
stays as it is), and a name to nothing to refuse it although `*` would match (control-protocol §8.8).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

ROOT: Final = "root"
NONROOT: Final = "autogroup:nonroot"
LOCALPART: Final = "localpart:*@"
NONROOT_NAME: Final = "*"
KEEP_NAME: Final = "="
# Every label of a domain name. `*` or nothing is no domain, and matches nobody's address.
_DOMAIN = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class LoginUsers:
    """`names` are those that everybody may use; `domains` those where a user's own name is let in too.

    In `localpart:*@example.com` the login name is what stands before the `@` in the source user's e-mail
    address, for users with an address at that domain.
    """

    names: Mapping[str, str]
    domains: frozenset[str]

    def own_name(self, email: str) -> str | None:
        """The login name that the user with this e-mail address gets by the address; None for none."""
        name, at, domain = email.rpartition("@")
        return name if at and name and domain.lower() in self.domains else None


def login_users(entries: Iterable[str]) -> LoginUsers:
    """What the texts of `users` mean together. Without `root` among them, root is refused."""
    listed = list(entries)
    names = {NONROOT_NAME: KEEP_NAME} if NONROOT in listed else {}
    names[ROOT] = ROOT if ROOT in listed else ""
    domains = set()
    for entry in listed:
        domain = localpart_domain(entry)
        if domain:
            domains.add(domain)
        elif entry not in (ROOT, NONROOT):
            names[entry] = entry
    return LoginUsers(names, frozenset(domains))


def localpart_domain(entry: str) -> str | None:
    """The domain of `localpart:*@domain`, in lower case; None for any other text, which is a plain name."""
    return entry.removeprefix(LOCALPART).lower() if entry.startswith(LOCALPART) else None


def refusal(entry: str) -> str | None:
    """Why an element of `users` cannot be used; None when it can.

    Anything but these is the name of a local user: also what looks like a tag or a group.
    """
    if entry in ("", "*"):
        return f'user "{entry}" is not valid; name local users, or use "{NONROOT}" for all but root'
    domain = localpart_domain(entry)
    if domain is not None and not _DOMAIN.fullmatch(domain):
        return f'"{domain}" is not a domain; write localpart:*@ and the domain of e-mail addresses'
    return None


def lets_in(names: Mapping[str, str], user: str) -> bool:
    """Whether the `sshUsers` of a rule let somebody log in as `user`."""
    if user in names:
        return bool(names[user])
    # A rule names root or says nothing of it: `*` only stands for the others.
    return user not in ("", ROOT) and bool(names.get(NONROOT_NAME))
