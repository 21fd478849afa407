"""A client that has logged in, as the others see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from derp.buckets import TokenBucket
from derp.frames import NO_FLAGS, FrameType, PeerPresent, PresenceFlag
from derp.login import ClientInfo
from derp.outbox import Outbox
from meshproto.keys import NodePublic

if TYPE_CHECKING:
    from derp.registry import ClientSet

NOT_HERE_PER_SECOND = 1.0
NOT_HERE_BURST = 3.0

_RECV_PACKET = int(FrameType.RECV_PACKET)


class Member:
    """`wake` is called when there is something new to send to it; `key` is raw."""

    __slots__ = (
        "_not_here",
        "_outbox",
        "_wake",
        "client_set",
        "heard_from",
        "host",
        "info",
        "is_home",
        "is_ideal",
        "is_mesh_peer",
        "key",
        "port",
    )

    def __init__(
        self,
        key: bytes,
        info: ClientInfo,
        address: tuple[str, int],
        outbox: Outbox,
        wake: Callable[[], None],
        *,
        is_mesh_peer: bool = False,
        is_ideal: bool = True,
    ) -> None:
        self.key = key
        self.info = info
        self.host, self.port = address
        self.is_mesh_peer = is_mesh_peer
        """Whether it is a relay of our region, as the mesh key proved."""
        self.is_ideal = is_ideal
        """False when the client wanted another relay of the region."""
        self.is_home = False
        """Whether it says that this relay is where it can be found."""
        self.heard_from: set[bytes] = set()
        """Whom it received packets from, and so wants to know about when they go."""
        self.client_set: ClientSet | None = None
        self._outbox = outbox
        self._wake = wake
        self._not_here: TokenBucket | None = None

    def presence(self) -> PeerPresent:
        """What the relays of the region hear of it."""
        flags = NO_FLAGS
        if self.info.is_prober:
            flags |= PresenceFlag.PROBER
        if self.is_mesh_peer:
            flags |= PresenceFlag.MESH_PEER
        if not self.is_ideal:
            flags |= PresenceFlag.NOT_IDEAL
        return PeerPresent(NodePublic(self.key), self.host, self.port, flags or PresenceFlag.REGULAR)

    def send_packets(self, source: bytes, packets: Sequence[bytes], is_disco: bool) -> None:
        """Packets of a node, as `encode_packets` has them, which may be dropped when it does not read."""
        self._outbox.add_packets(_RECV_PACKET, source, packets, is_disco)
        self._wake()

    def send_update(self, subject: bytes, frame: bytes) -> None:
        """A frame that replaces an earlier one about the same subject."""
        self._outbox.add_update(subject, frame)
        self._wake()

    def may_hear_not_here(self, now: float) -> bool:
        """Whether it has not been told too often, lately, that a peer is not here."""
        if self._not_here is None:
            self._not_here = TokenBucket(NOT_HERE_PER_SECOND, NOT_HERE_BURST, now)
        return self._not_here.take(1, now)
