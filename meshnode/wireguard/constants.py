"""The numbers of the protocol, and ours.

The first part is the specification: the WireGuard whitepaper (edition of 2020-06-01), section 6.1 and 5.4.
Changing one of them breaks interoperation. The second part is ours to choose. Times are seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

# --- Specification ---

CONSTRUCTION: Final = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
IDENTIFIER: Final = b"WireGuard v1 zx2c4 Jason@zx2c4.com"
LABEL_MAC1: Final = b"mac1----"
LABEL_COOKIE: Final = b"cookie--"

REKEY_AFTER_MESSAGES: Final = 2**60
REJECT_AFTER_MESSAGES: Final = 2**64 - 2**13 - 1  # some implementations subtract 2**4
REKEY_AFTER_TIME: Final = 120.0
REJECT_AFTER_TIME: Final = 180.0
REKEY_ATTEMPT_TIME: Final = 90.0
REKEY_TIMEOUT: Final = 5.0
KEEPALIVE_TIMEOUT: Final = 10.0
COOKIE_SECRET_MAX_AGE: Final = 120.0

INITIATIONS_PER_SECOND: Final = 50
"""Initiations accepted per peer and second (§5.4.2); also what the timestamps are whitened to."""

COOKIE_LIFETIME: Final = 120.0
"""How long a received cookie is used (§6.6)."""

# --- Implementation ---

MAX_JITTER: Final = 0.333
"""Greatest random delay added to a retransmission, so that two peers do not stay in step."""

MAX_STAGED_PACKETS: Final = 128
MAX_STAGED_BYTES: Final = 256 * 1024
"""What waits for a session, per peer; the oldest is dropped when either is exceeded (reference §3.6)."""

HANDSHAKE_QUEUE_SIZE: Final = 512
UNDER_LOAD_DEPTH: Final = 64
"""Waiting handshake messages from which on strangers must prove their address (reference §1.9)."""

HANDSHAKES_PER_TURN: Final = 8
"""Handshake messages worked on in one `handle_timeout`: about 0.5 ms each, so that data does not wait."""

BUSY_HANDSHAKE_INTERVAL: Final = 0.005
"""Between two handshake messages that are worked on while data moves: a tenth of the time at most."""

BUSY_FOR: Final = 0.01
"""How long data is thought to move after it last did."""

SCHEDULE_SLACK: Final = 64
"""Outdated entries of the schedule, besides one per peer, before it is tidied."""

MAX_PENDING_COOKIE_REPLIES: Final = 256
"""Cookie replies that wait for `take_datagrams`; more are not made."""

MIN_PATH_INITIATION_INTERVAL: Final = 0.25
"""Between two initiations when the path changed, which suspends the wait of REKEY_TIMEOUT."""

HEARD_FROM_INTERVAL: Final = 1.0
"""PeerHeardFrom is repeated this often for an unchanged source, for those who judge how fresh a path is."""


@dataclass(frozen=True, slots=True)
class Timings:
    """What a test may compress. The defaults are the specification."""

    rekey_after_messages: int = REKEY_AFTER_MESSAGES
    reject_after_messages: int = REJECT_AFTER_MESSAGES
    rekey_after_time: float = REKEY_AFTER_TIME
    reject_after_time: float = REJECT_AFTER_TIME
    rekey_attempt_time: float = REKEY_ATTEMPT_TIME
    rekey_timeout: float = REKEY_TIMEOUT
    keepalive_timeout: float = KEEPALIVE_TIMEOUT
    max_jitter: float = MAX_JITTER
    cookie_secret_max_age: float = COOKIE_SECRET_MAX_AGE
    cookie_lifetime: float = COOKIE_LIFETIME
    initiation_interval: float = 1 / INITIATIONS_PER_SECOND

    @property
    def new_handshake_timeout(self) -> float:
        """Silence after sent data that makes us doubt the session (§6.4): 15 s, plus jitter."""
        return self.keepalive_timeout + self.rekey_timeout

    @property
    def rekey_on_receive_after(self) -> float:
        """Age of our key at which receiving asks for a new one, early enough not to run dry (§6.2): 165 s."""
        return self.reject_after_time - self.keepalive_timeout - self.rekey_timeout

    @property
    def zero_keys_after(self) -> float:
        """Time after the last new key at which all key material is erased (§6.3): 540 s."""
        return 3 * self.reject_after_time

    @property
    def max_attempts(self) -> int:
        """Retransmissions counted before giving up: 18. The way they count, 20 initiations leave."""
        return math.floor(self.rekey_attempt_time / self.rekey_timeout)


DEFAULT: Final = Timings()
