"""The batch kernel: what happens per packet, called once per TUN read or per receive.

Callers import from here; which implementation answers is decided once, in `meshnode.dataplane.kernel`. The
last argument of `open_batch` says which inner packets may be merged (`Coalescing`): only the shell knows what
its tunnel device takes back. The buffers of a call are the call's until it returns, and must not overlap.
"""

from meshnode.dataplane.drops import DropReason, count_drop
from meshnode.dataplane.gate import REFUSALS, Verdict, cookie, is_handshake
from meshnode.dataplane.kernel import (
    KERNEL,
    WHY_PURE,
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
from meshnode.dataplane.reference import segments_per_unit
from meshnode.dataplane.replay import COUNTER_LIMIT, REPLAY_WINDOW
from meshnode.dataplane.sessions import SessionSpent
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
    Heard,
    Moved,
    Opened,
    Sent,
    SocketAddress,
    Turn,
    Unit,
    Unsent,
)

__all__ = [
    "COUNTER_LIMIT",
    "KERNEL",
    "MAX_UNIT_IPV4",
    "MAX_UNIT_IPV6",
    "MAX_UNIT_SEGMENTS",
    "NO_PEER",
    "RECEIVE_BUFFER_SIZE",
    "REFUSALS",
    "REPLAY_WINDOW",
    "SEAL_BUFFER_SIZE",
    "TUN_BUFFER_SIZE",
    "WHY_PURE",
    "Activity",
    "AllowedIPs",
    "Coalescing",
    "DropReason",
    "Gate",
    "Heard",
    "Moved",
    "Opened",
    "ReplayWindow",
    "Sent",
    "Session",
    "SessionSpent",
    "SessionTable",
    "SocketAddress",
    "Turn",
    "Unit",
    "Unsent",
    "Verdict",
    "cookie",
    "count_drop",
    "is_handshake",
    "open_batch",
    "route",
    "seal_packet",
    "seal_superpacket",
    "segments_per_unit",
]
