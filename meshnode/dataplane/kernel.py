"""Which implementation of the batch kernel this process runs on: decided once, here, on the first import.

The compiled one (`native/`) where it was built, its Python twin (`meshnode.dataplane.reference`) where not,
or where MESHNODE_PURE=1 is in the environment. A core does not look at the environment: the compiled module
does, and refuses to load. For the type checker there is only the Python twin, whose types the other has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from meshnode.dataplane.allowed_ips import AllowedIPs
from meshnode.dataplane.gate import Gate
from meshnode.dataplane.reference import open_batch, route, seal_packet, seal_superpacket
from meshnode.dataplane.replay import ReplayWindow
from meshnode.dataplane.sessions import Session, SessionTable

__all__ = [
    "KERNEL",
    "WHY_PURE",
    "AllowedIPs",
    "Gate",
    "ReplayWindow",
    "Session",
    "SessionTable",
    "open_batch",
    "route",
    "seal_packet",
    "seal_superpacket",
]

_why_pure = ""

if not TYPE_CHECKING:
    try:
        from meshnode._native import (
            AllowedIPs,
            Gate,
            ReplayWindow,
            Session,
            SessionTable,
            open_batch,
            route,
            seal_packet,
            seal_superpacket,
        )
    except ModuleNotFoundError:
        _why_pure = "it was not built when meshnode was installed, which takes cargo and its registry"
    except ImportError as error:
        _why_pure = str(error)

WHY_PURE: Final = _why_pure
"""Why the compiled kernel is not in use; empty when it is."""

KERNEL: Final = "pure" if WHY_PURE else "native"
"""The one in use, as `meshnode version --json`, `status --json` and `debug dataplane` name it."""
