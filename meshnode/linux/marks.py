"""The numbers by which the kernel's tables show what is ours: packet mark, protocol, table, rule priorities.

They are all derived from the interface's name, so that what a crashed daemon left can be found without any
other state, and several nodes can run in one network namespace under different interface names. Why these
numbers, and how they sit beside other programs': docs/adr/0003-linux-ownership.md.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

FWMARK = 0x0D00_0000
"""On every packet that a daemon of ours sends itself: it must not enter a tunnel. One value for all nodes."""
FWMARK_MASK = 0x0F00_0000
"""The bits of the mark that are ours; the others belong to the administrator and other programs."""

PROTOCOL = 109
"""Routing protocol number on our routes, rules and addresses (rtnetlink(7); unassigned, ASCII "m")."""

# Tables of mesh0 … mesh99, and the block from which every other name gets its own.
NUMBERED_TABLE_BASE = 41641
HASHED_TABLE_BASE = 0x6D00_0000

# Rule priorities: a phase for each purpose, and in each phase a slot for each interface name. Phase by phase,
# not interface by interface, so that the addresses of one node's peers win over the exit node of another.
SLOTS = 200
NUMBERED_SLOTS = 100

PHASE_OWN_TO_MAIN = 4000
PHASE_OWN_TO_DEFAULT = 4200
PHASE_OWN_UNREACHABLE = 4400
PHASE_PEERS = 4600
# (5210–5270 are Tailscale's)
PHASE_FROM_TUNNEL = 5400
PHASE_LAN = 5600
PHASE_SUBNETS = 5800
PHASE_EXIT = 6000

PHASES = (
    PHASE_OWN_TO_MAIN,
    PHASE_OWN_TO_DEFAULT,
    PHASE_OWN_UNREACHABLE,
    PHASE_PEERS,
    PHASE_FROM_TUNNEL,
    PHASE_LAN,
    PHASE_SUBNETS,
    PHASE_EXIT,
)

# What the kernel allows (IFNAMSIZ) and what nft, ip and file names take without quoting.
_INTERFACE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")
_NUMBERED_NAME = re.compile(r"mesh(0|[1-9][0-9]?)")


@dataclass(frozen=True, slots=True)
class Ownership:
    """What belongs to the node whose tunnel has this interface name."""

    interface: str
    table: int
    """Routing table."""
    slot: int
    """Added to each phase to give the rule priority."""

    @property
    def priorities(self) -> frozenset[int]:
        """Every rule priority that a rule of this node can have."""
        return frozenset(phase + self.slot for phase in PHASES)

    @property
    def nft_table(self) -> str:
        """Name of the nftables table, family inet."""
        return f"meshnode-{self.interface}"


def ownership(interface: str) -> Ownership:
    """The numbers for an interface name. Raises ValueError on a name that is no plain interface name."""
    if not _INTERFACE_NAME.fullmatch(interface):
        raise ValueError(
            f"{interface!r} cannot be an interface name here: up to 15 letters, digits, '_', '.', '-'"
        )
    if numbered := _NUMBERED_NAME.fullmatch(interface):
        number = int(numbered[1])
        return Ownership(interface, NUMBERED_TABLE_BASE + number, number)
    digest = zlib.crc32(interface.encode())
    slot = NUMBERED_SLOTS + digest % (SLOTS - NUMBERED_SLOTS)
    return Ownership(interface, HASHED_TABLE_BASE | digest & 0xFF_FFFF, slot)
