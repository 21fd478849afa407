"""API keys as text, `hskey-api-<12>-<64>`, and as what is kept of them: their own form of `authkeys`.

A key opens the whole admin API to whoever holds it. As with pre-auth keys the secret half is 256 random bits,
kept as one SHA-256 (docs/adr/0004).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from coordinator.model import ApiKey
from coordinator.store import View

START = "hskey-api-"
# Ours are hex; Headscale's are of the same lengths in the alphabet of URL-safe base64.
_FORM = re.compile(r"hskey-api-([A-Za-z0-9_-]{12})-([A-Za-z0-9_-]{64})")
_PREFIX = re.compile(r"(?:hskey-api-)?([A-Za-z0-9_-]{12})(?:-.*)?")


class ApiSecret(NamedTuple):
    """The two halves of a key as its holder has it."""

    prefix: str
    secret: str

    def __str__(self) -> str:
        return f"{START}{self.prefix}-{self.secret}"

    def __repr__(self) -> str:
        return f"<ApiSecret {self.prefix}>"

    @property
    def hash(self) -> str:
        """What is stored of the secret half: SHA-256, hex."""
        return hashlib.sha256(self.secret.encode()).hexdigest()

    def opens(self, key: ApiKey) -> bool:
        """Whether this is the secret of `key`, compared in constant time."""
        return hmac.compare_digest(self.hash, key.hash)


def generate(entropy: Callable[[int], bytes]) -> ApiSecret:
    """A new key."""
    return ApiSecret(entropy(6).hex(), entropy(32).hex())


def parse(text: str) -> ApiSecret | None:
    """The key in `text`, or None when it does not have the form of one."""
    match = _FORM.fullmatch(text.strip())
    return ApiSecret(match[1], match[2]) if match else None


def prefix_in(text: str) -> str:
    """The prefix that `text` names: bare, masked as lists show it, or in front of the whole key."""
    match = _PREFIX.fullmatch(text)
    return match[1] if match else text


def authenticate(view: View, text: str, wall: datetime) -> ApiKey | None:
    """The key that `text` is the whole of, if it is known and its time is not over."""
    secret = parse(text)
    key_id = None if secret is None else view.api_key_ids_by_prefix.get(secret.prefix)
    if secret is None or key_id is None:
        return None
    key = view.api_keys[key_id]
    return key if secret.opens(key) and not key.is_expired(wall) else None
