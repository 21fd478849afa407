"""Control-protocol Noise (reference §3): the IK handshake and the records after it, as values."""

from meshproto.noise.ik import (
    INITIATION_SIZE,
    RESPONSE_SIZE,
    Accepted,
    CoordinatorRefused,
    Initiator,
    Responder,
    ResponseReader,
    error_frame,
)
from meshproto.noise.records import MAX_FRAME_SIZE, MAX_PLAINTEXT_SIZE, Transport
from meshproto.noise.symmetric import NoiseError

__all__ = [
    "INITIATION_SIZE",
    "MAX_FRAME_SIZE",
    "MAX_PLAINTEXT_SIZE",
    "RESPONSE_SIZE",
    "Accepted",
    "CoordinatorRefused",
    "Initiator",
    "NoiseError",
    "Responder",
    "ResponseReader",
    "Transport",
    "error_frame",
]
