"""Who is connected, so where a packet goes and who must hear of whom (nat-traversal reference §1.6, §1.7).

A node key may have several connections: a machine came back before its old connection was noticed to be dead,
or, by mistake, two machines have one key. All stay open. Packets go to the one that spoke last; the newest
counts as having spoken. When an older one speaks up again there are two machines, and both are told so.

Relays of one region are a mesh: each watches who is connected to the others, and forwards what is for those.
A packet is forwarded once at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from derp import frames
from derp.counters import Counters
from derp.drops import DropReason, Kind
from derp.frames import PeerGoneReason, is_disco
from derp.member import Member
from meshproto.keys import NodePublic

DUPLICATE_KEY = (
    "another machine is connected to the relay with this node's key, so packets for the two get mixed up; "
    "log out and in again on one of them"
)
_HEALTH = b"health"  # the subject of such updates; no key is as short


class Forwarder(Protocol):
    """A link to another relay of the region."""

    def forward(self, source: bytes, destination: bytes, packets: Sequence[bytes]) -> None:
        """Send packets there, which are as in `Packets`. Keys are raw."""


class ClientSet:
    """The connections of one node key, oldest first. `active` is the one that gets packets."""

    __slots__ = ("_is_warned", "active", "members")

    def __init__(self, first: Member) -> None:
        self.members = [first]
        self.active = first
        self._is_warned = False

    def add(self, member: Member) -> None:
        self.members.append(member)
        self.active = member

    def activate(self, member: Member) -> None:
        """One that was not active has spoken."""
        self.active = member
        if not self._is_warned:
            self._is_warned = True
            for each in self.members:
                each.send_update(_HEALTH, frames.health(DUPLICATE_KEY))

    def remove(self, member: Member) -> None:
        self.members.remove(member)
        if not self.members:
            return
        if self.active is member:
            self.active = self.members[-1]
        if self._is_warned and len(self.members) == 1:
            self._is_warned = False
            self.active.send_update(_HEALTH, frames.health(""))


class Registry:
    """See the module. Keys are raw on the way of packets, for speed."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._clients: dict[bytes, ClientSet] = {}
        self._forwarders: dict[bytes, list[Forwarder]] = {}
        self._watchers: set[Member] = set()
        self._heard_by: dict[bytes, set[Member]] = {}  # source -> who received packets from it

    @property
    def local_keys(self) -> int:
        """Node keys with a connection to this relay."""
        return len(self._clients)

    @property
    def remote_keys(self) -> int:
        """Node keys that only other relays of the region have."""
        return len(self._forwarders.keys() - self._clients.keys())

    @property
    def watchers(self) -> int:
        return len(self._watchers)

    @property
    def duplicate_keys(self) -> int:
        """Node keys with more than one connection."""
        return sum(len(client_set.members) > 1 for client_set in self._clients.values())

    # Coming and going.

    def add(self, member: Member) -> None:
        """A client has logged in."""
        client_set = self._clients.get(member.key)
        if client_set is None:
            client_set = self._clients[member.key] = ClientSet(member)
        else:
            self._counters.duplicate_connections += 1
            client_set.add(member)
        member.client_set = client_set
        for watcher in self._watchers:
            watcher.send_update(member.key, frames.peer_present(member.presence()))

    def remove(self, member: Member) -> None:
        """Its connection is over."""
        self._watchers.discard(member)
        self._forget_whom_it_heard(member)
        client_set = self._clients[member.key]
        client_set.remove(member)
        if client_set.members:
            return
        del self._clients[member.key]
        for watcher in self._watchers:
            watcher.send_update(member.key, frames.peer_gone(member.key, PeerGoneReason.DISCONNECTED))
        if member.key not in self._forwarders:
            self._gone_from_region(member.key)

    def watch(self, member: Member) -> None:
        """Tell this relay of the region who is connected, now and from now on."""
        self._watchers.add(member)
        for key, client_set in self._clients.items():
            member.send_update(key, frames.peer_present(client_set.active.presence()))

    def add_forwarder(self, key: NodePublic, forwarder: Forwarder) -> None:
        """A node is reachable through another relay. Of several, the first that said so is used."""
        forwarders = self._forwarders.setdefault(key.raw, [])
        if forwarder not in forwarders:
            forwarders.append(forwarder)

    def remove_forwarder(self, key: NodePublic, forwarder: Forwarder) -> None:
        """It is not any more."""
        forwarders = self._forwarders.get(key.raw, [])
        if forwarder not in forwarders:
            return
        forwarders.remove(forwarder)
        if not forwarders:
            del self._forwarders[key.raw]
            if key.raw not in self._clients:
                self._gone_from_region(key.raw)

    def _forget_whom_it_heard(self, member: Member) -> None:
        for source in member.heard_from:
            heard_by = self._heard_by[source]
            heard_by.discard(member)
            if not heard_by:
                del self._heard_by[source]
        member.heard_from.clear()

    def _gone_from_region(self, key: bytes) -> None:
        for member in self._heard_by.pop(key, ()):
            member.heard_from.discard(key)
            member.send_update(key, frames.peer_gone(key, PeerGoneReason.DISCONNECTED))
            self._counters.peer_gone_disconnected_frames += 1

    # Packets come in runs, and a run is what costs time: see `frame_reader`.

    def deliver(self, sender: Member, destination: bytes, packets: Sequence[bytes], now: float) -> None:
        """A run of packets from a client of ours."""
        disco = is_disco(packets[0])
        if disco:
            self._counters.packets_received_disco += len(packets)
        else:
            self._counters.packets_received_other += len(packets)
        client_set = self._clients.get(destination)
        if client_set is not None:
            self._hand_over(client_set.active, sender.key, packets, disco)
        elif destination in self._forwarders:
            self._counters.packets_forwarded_out += len(packets)
            self._forwarders[destination][0].forward(sender.key, destination, packets)
        else:
            self._not_here(sender, destination, packets, disco, DropReason.UNKNOWN_DEST, now)

    def deliver_forwarded(
        self, relay: Member, source: bytes, destination: bytes, packets: Sequence[bytes], now: float
    ) -> None:
        """A run of packets that another relay forwards to us."""
        disco = is_disco(packets[0])
        self._counters.packets_forwarded_in += len(packets)
        client_set = self._clients.get(destination)
        if client_set is not None:
            self._hand_over(client_set.active, source, packets, disco)
        else:
            self._not_here(relay, destination, packets, disco, DropReason.UNKNOWN_DEST_ON_FWD, now)

    def connections_of(self, key: bytes) -> list[Member]:
        """Every connection of a node key."""
        client_set = self._clients.get(key)
        return list(client_set.members) if client_set else []

    def _hand_over(self, member: Member, source: bytes, packets: Sequence[bytes], disco: bool) -> None:
        if source not in member.heard_from:
            member.heard_from.add(source)
            self._heard_by.setdefault(source, set()).add(member)
        self._counters.packets_sent += len(packets)
        member.send_packets(source, packets, disco)

    def _not_here(
        self,
        sender: Member,
        destination: bytes,
        packets: Sequence[bytes],
        disco: bool,
        reason: DropReason,
        now: float,
    ) -> None:
        """Only disco is answered: a node that wants to talk sends some, and learns that it is in vain."""
        size = sum(map(len, packets))
        self._counters.drop(reason, Kind.DISCO if disco else Kind.OTHER, size, len(packets))
        if disco and sender.may_hear_not_here(now):
            self._counters.peer_gone_not_here_frames += 1
            sender.send_update(destination, frames.peer_gone(destination, PeerGoneReason.NOT_HERE))
