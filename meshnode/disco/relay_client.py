"""Using a peer relay that a peer has asked to meet us at (reference §2.6).

    peer ──CallMeMaybeVia──► us                over DERP: an endpoint of a relay, allocated for both of us
    us ──Bind──► every address of the relay    under a Geneve header, control
    relay ──Challenge──► us                    from the address that works
    us ──Answer──► relay, and a Ping through it to the peer: from here on it is a path like any other

The relay is known by its disco key only, and trusted with nothing: what goes through it is sealed already.
"""

from __future__ import annotations

import math
from typing import Final

from meshnode.disco.constants import MAX_RELAY_ADDRESSES, RELAY_BIND_STEPS, RELAY_BIND_TIME
from meshnode.disco.context import Context
from meshnode.disco.destinations import RelayPath
from meshnode.disco.geneve import MAX_VNI
from meshnode.disco.messages import (
    BindUDPRelayEndpoint,
    BindUDPRelayEndpointAnswer,
    BindUDPRelayEndpointChallenge,
    RelayEndpoint,
)
from meshproto.addresses import AddrPort
from meshproto.keys import DiscoPublic

NEVER: Final = math.inf


class RelayClient:
    """Our part of the handshake for one peer; a newer allocation replaces an older one."""

    __slots__ = ("_context", "_generation", "_remote", "_started_at", "_step", "endpoint", "path")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._generation = 0
        self._remote: DiscoPublic | None = None
        self._started_at = -math.inf
        self._step = len(RELAY_BIND_STEPS)
        self.endpoint: RelayEndpoint | None = None
        """The one being used or tried."""
        self.path: RelayPath | None = None
        """What came of it."""

    @property
    def key(self) -> tuple[DiscoPublic, int] | None:
        """What a message of the relay names: its disco key, and the VNI."""
        endpoint = self.endpoint
        return (endpoint.server_key, endpoint.vni) if endpoint is not None else None

    @property
    def next_timeout(self) -> float:
        """When to ask the relay again."""
        if self.path is not None or self._step >= len(RELAY_BIND_STEPS):
            return NEVER
        return self._started_at + RELAY_BIND_STEPS[self._step]

    def offered(self, endpoint: RelayEndpoint, remote: DiscoPublic, now: float) -> bool:
        """`remote`, our peer, wants to meet at `endpoint`. Returns whether we go there.

        Not to one that is not for the two of us, nor to an allocation older than the one we have.
        """
        ours = {self._context.keys.public, remote}
        known = self.endpoint
        if set(endpoint.client_keys) != ours or not 0 < endpoint.vni <= MAX_VNI:
            return False
        if known is not None and known.server_key == endpoint.server_key:
            is_same = (known.vni, known.lamport_id) == (endpoint.vni, endpoint.lamport_id)
            if endpoint.lamport_id < known.lamport_id or (is_same and self.path is not None):
                return False
        self.endpoint = endpoint
        self.path = None
        self._remote = remote
        self._generation = 1 + int.from_bytes(self._context.entropy(4), "big") % 0xFFFFFFFF
        self._started_at = now
        self._step = 0
        return True

    def handle_timeout(self, now: float) -> None:
        """Ask, at every address of the relay."""
        endpoint, remote = self.endpoint, self._remote
        if endpoint is None or remote is None or now < self.next_timeout:
            return
        while self.next_timeout <= now:
            self._step += 1
        if now - self._started_at >= min(endpoint.bind_lifetime, RELAY_BIND_TIME):
            self._step = len(RELAY_BIND_STEPS)
            return
        message = BindUDPRelayEndpoint(endpoint.vni, self._generation, remote)
        for address in endpoint.addresses[:MAX_RELAY_ADDRESSES]:
            self._context.send_to_relay(address, endpoint.server_key, endpoint.vni, message)

    def challenge_received(
        self, message: BindUDPRelayEndpointChallenge, source: AddrPort
    ) -> RelayPath | None:
        """Answer the relay. Returns the path through it; None when the challenge is not for us.

        One that comes again is answered again: our answer may have been lost.
        """
        endpoint = self.endpoint
        is_ours = (
            endpoint is not None
            and message.vni == endpoint.vni
            and message.generation == self._generation
            and message.remote_key == self._remote
        )
        if endpoint is None or not is_ours:
            return None
        answer = BindUDPRelayEndpointAnswer(
            message.vni, message.generation, message.remote_key, message.challenge
        )
        self._context.send_to_relay(source, endpoint.server_key, endpoint.vni, answer)
        if self.path is None:
            self.path = RelayPath(source, endpoint.vni)
        return self.path

    def stop(self) -> None:
        """The relay is not used any more."""
        self.endpoint = self.path = self._remote = None
        self._step = len(RELAY_BIND_STEPS)
