"""The control-channel vectors of tests/vectors/control-noise.json, and a handshake made of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from meshproto.keys import MachinePrivate, MachinePublic
from meshproto.noise import Accepted, Initiator, Responder, Transport

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "control-noise.json").read_text()
)
VERSION: int = VECTORS["protocol_version"]


def raw(name: str) -> bytes:
    return bytes.fromhex(VECTORS[name])


MACHINE = MachinePrivate(raw("machine_private"))
SERVER = MachinePrivate(raw("server_private"))


def once(*answers: bytes) -> Callable[[int], bytes]:
    """Entropy that gives `answers` in turn, and fails when asked for more."""
    remaining = list(answers)

    def entropy(size: int) -> bytes:
        answer = remaining.pop(0)
        assert len(answer) == size
        return answer

    return entropy


def initiator(server: MachinePublic = SERVER.public, version: int = VERSION) -> Initiator:
    return Initiator(MACHINE, server, version, once(raw("client_ephemeral_private")))


def responder(handshakes: int = 1) -> Responder:
    return Responder(SERVER, once(*[raw("server_ephemeral_private")] * handshakes))


def connected() -> tuple[Transport, Transport]:
    """The node's and the coordinator's end of the handshake of the vectors."""
    node = initiator()
    accepted: Accepted = responder().consume_initiation(node.initiation())
    return node.consume_response(accepted.response), accepted.transport
