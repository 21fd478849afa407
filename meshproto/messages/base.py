"""What all control messages share: spelling of Go names, and which zero values are written.

Every field has a default, because Go leaves fields it does not find at zero and so do we. A plain default is
not written when unchanged (Go's `omitempty`); a default made by `always` is written even so, which is how Go
sends the fields that the reference does not mark "opt".
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec

Value = TypeVar("Value")

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Uint16 = Annotated[int, msgspec.Meta(ge=0, le=2**16 - 1)]

CapMap = dict[str, tuple[Any, ...] | None]
"""Capability name -> its JSON arguments; None and () both mean "has it, without arguments"."""

# fmt: off
_SPELLINGS = (
    "ACE", "API", "DERP", "DNS", "ICMPv4", "ID", "IP", "IPN", "IPs", "IPv4", "IPv6", "NL", "OS", "PCP", "PMP",
    "SSH", "STUN", "TKA", "TPM", "UDP", "UPnP", "URL", "WireGuard",
)
# fmt: on
_SPELLING_OF = {word.lower(): word for word in _SPELLINGS}


def go_name(name: str) -> str:
    """`home_derp` -> `HomeDERP`: the spelling that Go's `encoding/json` uses."""
    return "".join(_SPELLING_OF.get(word, word.capitalize()) for word in name.split("_"))


def always(value: Value) -> Value:
    """A default that is written to JSON like any other value. `value` must be immutable."""
    # A default factory other than list, dict or set is never compared, hence never omitted.
    default: Value = msgspec.field(default_factory=lambda: value)
    return default


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename=go_name):
    """A JSON object of the control protocol. Immutable; change one with `msgspec.structs.replace`.

    Datetimes must be aware: a naive one would be written without its offset, which Go refuses.
    """
