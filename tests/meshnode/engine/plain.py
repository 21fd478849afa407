"""Paths of peers that speak WireGuard and nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from meshnode.disco.events import PeerInfo
from meshnode.disco.manager import Manager
from meshproto.addresses import AddrPort
from meshproto.keys import DiscoPrivate, NodePublic


def plain_paths(own: NodePublic) -> Manager:
    """Path discovery as every node has it."""
    return Manager(DiscoPrivate.generate(os.urandom), own, entropy=os.urandom)


def plain_peers(candidates: Mapping[NodePublic, Sequence[AddrPort]]) -> list[PeerInfo]:
    """Peers without a disco key that may be reached at these addresses."""
    return [PeerInfo(peer, endpoints=tuple(known)) for peer, known in candidates.items()]
