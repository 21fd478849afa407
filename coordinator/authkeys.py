"""Pre-auth keys as text, `hskey-auth-<12 hex>-<64 hex>`, and as what is kept of them.

The secret half is 256 random bits, so one SHA-256 of it is as hard to invert as any slow hash and costs the
coordinator nothing per join (docs/adr/0004).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from typing import NamedTuple

from coordinator.model import PreAuthKey

_FORM = re.compile(r"hskey-auth-([0-9a-f]{12})-([0-9a-f]{64})")


class Secret(NamedTuple):
    """The two halves of a key as its holder has it."""

    prefix: str
    secret: str

    def __str__(self) -> str:
        return f"hskey-auth-{self.prefix}-{self.secret}"

    def __repr__(self) -> str:
        return f"<Secret {self.prefix}>"

    @property
    def hash(self) -> str:
        """What is stored of the secret half: SHA-256, hex."""
        return hashlib.sha256(self.secret.encode()).hexdigest()

    def opens(self, key: PreAuthKey) -> bool:
        """Whether this is the secret of `key`, compared in constant time."""
        return hmac.compare_digest(self.hash, key.hash)


def generate(entropy: Callable[[int], bytes]) -> Secret:
    """A new key."""
    return Secret(entropy(6).hex(), entropy(32).hex())


def parse(text: str) -> Secret | None:
    """The key in `text`, or None when it does not have the form of one."""
    match = _FORM.fullmatch(text.strip())
    return Secret(match[1], match[2]) if match else None
