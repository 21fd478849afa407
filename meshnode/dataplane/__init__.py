"""The batch kernel: what happens per packet, called once per TUN read or per receive.

Callers import from here; which implementation answers is decided once. The last argument of `open_batch` says
which inner packets may be merged (`Coalescing`): only the shell knows what its tunnel device takes back.
"""

from meshnode.dataplane.allowed_ips import AllowedIPs
from meshnode.dataplane.drops import DropReason, count_drop
from meshnode.dataplane.reference import (
    open_batch,
    route,
    seal_packet,
    seal_superpacket,
    segments_per_unit,
)
from meshnode.dataplane.replay import COUNTER_LIMIT, REPLAY_WINDOW, ReplayWindow
from meshnode.dataplane.sessions import Session, SessionSpent, SessionTable
from meshnode.dataplane.types import (
    MAX_UNIT_IPV4,
    MAX_UNIT_IPV6,
    MAX_UNIT_SEGMENTS,
    NO_PEER,
    RECEIVE_BUFFER_SIZE,
    SEAL_BUFFER_SIZE,
    TUN_BUFFER_SIZE,
    Activity,
    Coalescing,
    Opened,
    Unit,
)

__all__ = [
    "COUNTER_LIMIT",
    "MAX_UNIT_IPV4",
    "MAX_UNIT_IPV6",
    "MAX_UNIT_SEGMENTS",
    "NO_PEER",
    "RECEIVE_BUFFER_SIZE",
    "REPLAY_WINDOW",
    "SEAL_BUFFER_SIZE",
    "TUN_BUFFER_SIZE",
    "Activity",
    "AllowedIPs",
    "Coalescing",
    "DropReason",
    "Opened",
    "ReplayWindow",
    "Session",
    "SessionSpent",
    "SessionTable",
    "Unit",
    "count_drop",
    "open_batch",
    "route",
    "seal_packet",
    "seal_superpacket",
    "segments_per_unit",
]
