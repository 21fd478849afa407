"""The compiled fast path against its Python twin: the same traffic must have the same outcome."""

from __future__ import annotations

import random
from contextlib import ExitStack, closing
from typing import Any

import pytest

from meshnode.dataplane import Coalescing
from tests.meshnode.dataplane.packets import udp_packet
from tests.meshnode.dataplane.test_batch import bulk
from tests.meshnode.engine.fast_paths import (
    FAST_PATHS,
    FOR_EVER,
    NOWHERE,
    OTHER,
    US,
    Far,
    Near,
    Outcome,
    handshake,
    incoming,
    outgoing,
)


class Replica:
    """One implementation in the scenario."""

    def __init__(self, make: Any) -> None:
        self.near = Near(make)
        self.names = {far.address: f"peer {peer}" for peer, far in self.near.fars.items()}

    def outcome(self, turn: Outcome) -> list[object]:
        """What can be compared: sources by name, sessions by index; and all that reached the outside."""
        fields: dict[str, Any] = dict(vars(turn))
        fields["heard"] = [
            heard._replace(session=heard.session.local_index, source=self.names[heard.source])  # type: ignore[arg-type]
            for heard in turn.heard
        ]
        for name in ("admitted", "cookies_wanted", "other"):
            fields[name] = [(datagram, self.names[source]) for datagram, source in fields[name]]
        wire = [far.receives() for far in self.near.fars.values()]
        return [fields, self.near.tun.written(), wire]


def reads(rng: random.Random) -> list[bytes]:
    """What the host may send: mostly sound."""
    few = rng.choice([1, 2, 5, 20])
    size = rng.choice([0, 10, 100, 1000])
    return rng.choice(
        [
            [bytes(10) + outgoing(rng.choice([1, 2]), rng.randbytes(size)) for _ in range(few)],
            [bytes(10) + outgoing(1, rng.randbytes(rng.choice([size, 1200]))) for _ in range(few)],
            [bulk(rng.randrange(1, 30_000), rng.choice([500, 1240]))],
            [bytes(10) + udp_packet(b"x", addresses=(US, bytes([192, 0, 2, 1])))],
            [rng.randbytes(rng.randrange(1, 80))],
        ]
    )


def datagrams(rng: random.Random, far: Far) -> list[bytes]:
    """What a peer may send in one batch: sound, forged, replayed, truncated, or something else."""
    size = rng.choice([0, 10, 100, 1000])
    sealed = far.seal([incoming(rng.choice([1, far.peer]), rng.randbytes(size)) for _ in range(8)])
    for _ in range(rng.choice([0, 0, 1, 3])):
        position = rng.randrange(8)
        forged = bytearray(sealed[position])
        forged[rng.choice([0, 4, 8, -1])] ^= 1
        sealed[position] = rng.choice([bytes(forged), sealed[0]])
    sealed[-1] = sealed[-1][: rng.choice([3, 20, 40, 2000])]
    return rng.choice(
        [
            sealed,
            sealed,
            sealed[:1],
            [handshake(rng.choice([1, 2]))],
            [OTHER],
            [handshake(mac1_key=bytes(32))],
        ]
    )


def step(replica: Replica, rng: random.Random, number: int) -> list[object] | None:
    near = replica.near
    kind = rng.choice(["give", "give", "send", "send", "decide", "clear", "room", "turn", "turn", "turn"])
    peer = rng.choice([1, 2])
    far = near.fars[peer]
    now = number / 8
    if kind == "give":
        for read in reads(rng):
            near.tun.give(read)
    elif kind == "send":
        far.send(datagrams(rng, far), near.sock)
    elif kind == "decide":
        to = rng.choice([None, None, None, None, NOWHERE])
        near.decide(peer, to=to, until=rng.choice([now, now + 1, FOR_EVER, FOR_EVER]))
    elif kind == "clear":
        near.path.clear_flows()
    elif kind == "room":
        near.gate.set_room(rng.choice([0, 2, 64]))
    else:
        merge = rng.choice([Coalescing.NONE, Coalescing.TCP, Coalescing.TCP | Coalescing.UDP])
        udp, tun = rng.choice([(True, True), (True, True), (True, False), (False, True)])
        near.merge(merge)
        return replica.outcome(near.turn(udp=udp, tun=tun, now=now))
    return None


@pytest.mark.parametrize("seed", range(25))
def test_twins(seed: int) -> None:
    """Where there is only one, that it runs at all."""
    with ExitStack() as stack:
        replicas = [Replica(make) for make in FAST_PATHS]
        for replica in replicas:
            stack.enter_context(closing(replica.near))
            replica.near.decide(1, 2)
        for number in range(100):
            outcomes = [step(replica, random.Random(f"{seed} {number}"), number) for replica in replicas]
            assert outcomes[0] == outcomes[-1]
