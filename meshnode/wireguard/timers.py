"""The timers of one peer: deadlines by name, armed by what happens (whitepaper 6, reference §3.5).

A hook says what happened, never what to arm; the caller names no timer. Deadlines are floats and are looked
at when somebody asks for them: nothing is scheduled per packet. Times are monotonic seconds.

| timer | armed | disarmed | what is then due |
| --- | --- | --- | --- |
| retransmit_handshake | initiation sent: 5 s + jitter | handshake complete | an initiation, or giving up |
| send_keepalive | data received, unless armed: 10 s | any authenticated packet sent | a keepalive |
| delayed_handshake | an initiation must wait | initiation sent, handshake complete | that initiation |
| new_handshake | data sent, unless armed: 15 s + jitter | any authenticated packet received | an initiation |
| persistent_keepalive | any authenticated packet sent or received: its interval | interval 0 | a keepalive |
| expire_keys | a key was derived: when the oldest key is 180 s old | - | that key is of no use any more |
| zero_keys | a key was derived: 540 s | - | no key material may remain |
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from typing import Final

from meshnode.wireguard.constants import Timings

NEVER: Final = math.inf


class Timer(enum.Enum):
    """The value names the deadline in `Timers`. Those due at one moment are handled in this order."""

    EXPIRE_KEYS = "expire_keys"
    ZERO_KEYS = "zero_keys"
    RETRANSMIT_HANDSHAKE = "retransmit_handshake"
    DELAYED_HANDSHAKE = "delayed_handshake"
    NEW_HANDSHAKE = "new_handshake"
    SEND_KEEPALIVE = "send_keepalive"
    PERSISTENT_KEEPALIVE = "persistent_keepalive"


class Timers:
    """Deadlines by name. Moving one later costs nothing: `wake_at` is only a lower bound of them all."""

    __slots__ = (
        "_jitter",
        "_need_another_keepalive",
        "_silence_timeout",
        "_timings",
        "attempts",
        "delayed_handshake",
        "expire_keys",
        "new_handshake",
        "persistent_interval",
        "persistent_keepalive",
        "retransmit_handshake",
        "send_keepalive",
        "sent_last_minute_handshake",
        "wake_at",
        "zero_keys",
    )

    def __init__(
        self, timings: Timings, jitter: Callable[[], float], persistent_interval: float = 0.0
    ) -> None:
        self._timings = timings
        self._jitter = jitter
        self._need_another_keepalive = False
        self.persistent_interval = persistent_interval
        self.attempts = 0
        """Retransmissions of the present attempt."""
        self.sent_last_minute_handshake = False
        """Whether the rekey on receive was already asked for under the present key."""
        self.expire_keys = NEVER
        self.zero_keys = NEVER
        self.retransmit_handshake = NEVER
        self.delayed_handshake = NEVER
        self.new_handshake = NEVER
        self.send_keepalive = NEVER
        self.persistent_keepalive = NEVER
        self._silence_timeout = timings.new_handshake_timeout + jitter()
        self.wake_at = NEVER
        """No deadline is earlier than this. It may be too early, never too late."""

    # --- what happened ---

    def initiation_sent(self, now: float) -> None:
        """Should be called after an initiation was sent, retransmitted or not."""
        self.delayed_handshake = NEVER
        self.retransmit_handshake = now + self._timings.rekey_timeout + self._jitter()
        self._wake_by(self.retransmit_handshake)

    def initiation_delayed(self, allowed_at: float) -> None:
        """Should be called when an initiation is wanted but may not be sent before `allowed_at`."""
        self.delayed_handshake = allowed_at + self._jitter()
        self._wake_by(self.delayed_handshake)

    def initiation_outdated(self, sent_at: float) -> None:
        """Should be called when the one sent at `sent_at` can have no answer any more: the next is due."""
        self.retransmit_handshake = NEVER
        self.initiation_delayed(sent_at)

    @property
    def is_handshake_due(self) -> bool:
        """Whether an initiation will leave without anybody asking again."""
        return self.retransmit_handshake != NEVER or self.delayed_handshake != NEVER

    def response_sent(self, now: float) -> None:
        """Should be called after a response was sent: an initiation that waits has to wait again."""
        if self.delayed_handshake != NEVER:
            self.initiation_delayed(now + self._timings.rekey_timeout)

    def handshake_complete(self) -> None:
        """Should be called after both sides are known to have the new key."""
        self.retransmit_handshake = NEVER
        self.delayed_handshake = NEVER
        self.attempts = 0
        self.sent_last_minute_handshake = False
        # Drawn once per key: a random number per batch of data would cost more than the rest of the hook.
        self._silence_timeout = self._timings.new_handshake_timeout + self._jitter()

    def session_derived(self, now: float) -> None:
        """Should be called after a key was derived, in either role."""
        self.zero_keys = now + self._timings.zero_keys_after
        self._wake_by(self.zero_keys)

    def keys_expire(self, deadline: float) -> None:
        """Should be called after a change of the keys, with the moment when the oldest expires."""
        self.expire_keys = deadline
        self._wake_by(deadline)

    def handshake_given_up(self, now: float) -> None:
        """Should be called after the last retransmission stayed without answer."""
        self.send_keepalive = NEVER
        self._need_another_keepalive = False
        if self.zero_keys == NEVER:
            self.session_derived(now)

    def data_sent(self, now: float) -> None:
        """Should be called after non-empty transport data was sent."""
        if self.new_handshake == NEVER:
            self.new_handshake = now + self._silence_timeout
            self._wake_by(self.new_handshake)

    def data_received(self, now: float) -> None:
        """Should be called after non-empty transport data was received. A keepalive must not be answered."""
        if self.send_keepalive == NEVER:
            self.send_keepalive = now + self._timings.keepalive_timeout
            self._wake_by(self.send_keepalive)
        else:
            self._need_another_keepalive = True

    def any_authenticated_packet_sent(self, now: float) -> None:
        """Should be called after a handshake message, data or a keepalive was sent."""
        self.send_keepalive = NEVER
        self._need_another_keepalive = False
        if self.persistent_interval > 0:
            self._traversal(now)

    def any_authenticated_packet_received(self, now: float) -> None:
        """Should be called after an authentic handshake message, data or a keepalive was received."""
        self.new_handshake = NEVER
        if self.persistent_interval > 0:
            self._traversal(now)

    def keepalive_answered_for(self, now: float) -> None:
        """Should be called after the due keepalive was sent, if `take_need_another_keepalive` said so."""
        self.send_keepalive = now + self._timings.keepalive_timeout
        self._wake_by(self.send_keepalive)

    def take_need_another_keepalive(self) -> bool:
        """Whether more data came after the packet that the due keepalive answers; asked once."""
        need, self._need_another_keepalive = self._need_another_keepalive, False
        return need

    def set_persistent_interval(self, interval: float, now: float) -> None:
        """Change the persistent keepalive; 0 turns it off."""
        self.persistent_interval = interval
        self.persistent_keepalive = NEVER
        if interval > 0:
            self._traversal(now)

    def stop(self) -> None:
        """Disarm everything."""
        for timer in Timer:
            setattr(self, timer.value, NEVER)

    # --- what is due ---

    def next_timeout(self) -> float:
        """The earliest deadline, or NEVER."""
        self.wake_at = min(
            self.expire_keys,
            self.zero_keys,
            self.retransmit_handshake,
            self.delayed_handshake,
            self.new_handshake,
            self.send_keepalive,
            self.persistent_keepalive,
        )
        return self.wake_at

    def pop_expired(self, now: float) -> Timer | None:
        """Disarm and return one timer that is due, to be called until it returns None.

        One at a time, because handling one may disarm another: the keepalive that was due makes the
        persistent one unnecessary.
        """
        if now < self.wake_at:
            return None
        for timer in Timer:
            if getattr(self, timer.value) <= now:
                setattr(self, timer.value, NEVER)
                return timer
        return None

    def _traversal(self, now: float) -> None:
        self.persistent_keepalive = now + self.persistent_interval
        self._wake_by(self.persistent_keepalive)

    def _wake_by(self, deadline: float) -> None:
        if deadline < self.wake_at:
            self.wake_at = deadline
