"""Typed keys: one class per purpose, so that a disco key never passes where a node key belongs.

All are 32 raw bytes, X25519 unless noted. The text form is a prefix and 64 lower-case hex digits
(control protocol reference §1). Machine and node private keys share the prefix `privkey:` in state files.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable
from typing import ClassVar, Self, TypeVar

from meshproto.primitives import clamp, x25519_base

KEY_SIZE = 32


class MalformedKey(ValueError):
    """The text or bytes are not a key of the wanted kind; the message says what was expected."""


def _parse_hex(kind: str, prefix: str, text: str) -> bytes:
    if not text.startswith(prefix):
        raise MalformedKey(f"not a {kind}: expected {prefix}<64 hex digits>")
    digits = text[len(prefix) :]
    try:
        raw = bytes.fromhex(digits)
    except ValueError:
        raw = b""
    if len(digits) != 2 * KEY_SIZE or len(raw) != KEY_SIZE:
        raise MalformedKey(f"not a {kind}: expected {prefix} and 64 hex digits, got {len(digits)} characters")
    return raw


class PublicKey:
    """A 32-byte public key. Hashable, equal only to the same bytes of the same kind. Not secret."""

    __slots__ = ("raw",)
    prefix: ClassVar[str] = ""
    kind: ClassVar[str] = "public key"

    def __init__(self, raw: bytes) -> None:
        if len(raw) != KEY_SIZE:
            raise MalformedKey(f"a {self.kind} has {KEY_SIZE} bytes, got {len(raw)}")
        self.raw = bytes(raw)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The key that `str()` of it printed. Raises MalformedKey."""
        return cls(_parse_hex(cls.kind, cls.prefix, text))

    @classmethod
    def zero(cls) -> Self:
        """All zero bytes: how the protocol writes "no key"."""
        return cls(bytes(KEY_SIZE))

    @property
    def is_zero(self) -> bool:
        return self.raw == bytes(KEY_SIZE)

    def short(self) -> str:
        """The form of logs and tables: `[` five base64 characters `]`."""
        return f"[{base64.b64encode(self.raw)[:5].decode()}]"

    def base64(self) -> str:
        """The form that `wg` uses."""
        return base64.b64encode(self.raw).decode()

    def __str__(self) -> str:
        return self.prefix + self.raw.hex()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.short()})"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.raw == self.raw

    def __hash__(self) -> int:
        return hash(self.raw)

    def __lt__(self, other: PublicKey) -> bool:
        return self.raw < other.raw


class MachinePublic(PublicKey):
    """Identity of a machine on the control channel (Noise static)."""

    __slots__ = ()
    prefix = "mkey:"
    kind = "machine key"


class NodePublic(PublicKey):
    """Identity of a node for WireGuard and DERP; rotates at login."""

    __slots__ = ()
    prefix = "nodekey:"
    kind = "node key"


class DiscoPublic(PublicKey):
    """Path-discovery identity of one run of a node."""

    __slots__ = ()
    prefix = "discokey:"
    kind = "disco key"


class ChallengePublic(PublicKey):
    """The early payload's node-key challenge."""

    __slots__ = ()
    prefix = "chalpub:"
    kind = "challenge key"


class NetworkLockPublic(PublicKey):
    """Tailnet-lock identity (Ed25519). Also read with its older prefix `tlpub:`."""

    __slots__ = ()
    prefix = "nlpub:"
    kind = "tailnet-lock key"
    old_prefix: ClassVar[str] = "tlpub:"

    @classmethod
    def parse(cls, text: str) -> Self:
        prefix = cls.old_prefix if text.startswith(cls.old_prefix) else cls.prefix
        return cls(_parse_hex(cls.kind, prefix, text))


Public = TypeVar("Public", bound=PublicKey)


class PrivateKey:
    """A clamped X25519 private key. Never printed; compared in constant time."""

    __slots__ = ("_public_raw", "raw")
    prefix: ClassVar[str] = "privkey:"
    kind: ClassVar[str] = "private key"

    def __init__(self, raw: bytes) -> None:
        if len(raw) != KEY_SIZE:
            raise MalformedKey(f"a {self.kind} has {KEY_SIZE} bytes, got {len(raw)}")
        if bytes(raw) == bytes(KEY_SIZE):
            raise MalformedKey(f"a {self.kind} must not be all zero")
        self.raw = clamp(raw)
        self._public_raw = x25519_base(self.raw)

    @classmethod
    def generate(cls, entropy: Callable[[int], bytes]) -> Self:
        """A new key from `entropy(32)`, which must be a cryptographic source such as `os.urandom`."""
        return cls(entropy(KEY_SIZE))

    @classmethod
    def parse(cls, text: str) -> Self:
        """The key that `to_text` printed. Raises MalformedKey, whose message never holds the key."""
        return cls(_parse_hex(cls.kind, cls.prefix, text))

    def to_text(self) -> str:
        """`privkey:<64 hex>`, for a state file of mode 0600 only."""
        return self.prefix + self.raw.hex()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} redacted>"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and hmac.compare_digest(self.raw, other.raw)

    __hash__ = None  # type: ignore[assignment]


class MachinePrivate(PrivateKey):
    __slots__ = ()
    kind = "machine private key"

    @property
    def public(self) -> MachinePublic:
        return MachinePublic(self._public_raw)


class NodePrivate(PrivateKey):
    __slots__ = ()
    kind = "node private key"

    @property
    def public(self) -> NodePublic:
        return NodePublic(self._public_raw)


class DiscoPrivate(PrivateKey):
    __slots__ = ()
    kind = "disco private key"

    @property
    def public(self) -> DiscoPublic:
        return DiscoPublic(self._public_raw)


class ChallengePrivate(PrivateKey):
    __slots__ = ()
    kind = "challenge private key"

    @property
    def public(self) -> ChallengePublic:
        return ChallengePublic(self._public_raw)
