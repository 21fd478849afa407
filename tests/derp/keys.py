"""Fixed keys, so that bytes can be compared with bytes written down."""

from __future__ import annotations

from meshproto.keys import NodePrivate

RELAY = NodePrivate(bytes(range(32)))
ALICE = NodePrivate(bytes(range(1, 33)))
BOB = NodePrivate(bytes(range(2, 34)))
CAROL = NodePrivate(bytes(range(3, 35)))
MESH_KEY = bytes(range(0x40, 0x60))


def zeros(size: int) -> bytes:
    """Entropy of which a test knows every bit."""
    return bytes(size)
