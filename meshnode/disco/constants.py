"""The times and limits of path discovery, in seconds. Nothing here is on the wire: any peer takes any of it.

`TAILSCALE` is what its clients do (reference §3.1, §3.3 to §3.6), for comparison. `DEFAULT` is ours; where it
differs, the simulation in tests/meshnode/disco shows what it gains.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Timings:
    """When what happens. Tests may change them."""

    # --- the path in use (liveness.py) ---

    heartbeat: float = 3.0
    """Between pings over the path in use, while the session is active (§3.1)."""
    busy_heartbeat: float = 1.0
    """The same while there is traffic, so that a dead path costs little. Tailscale has no such thing."""
    busy_for: float = 5.0
    """How long after a packet there still is traffic in this sense."""
    session_active: float = 45.0
    """How long after the last packet heartbeats and discovery go on (§3.1)."""
    trust: float = 6.5
    """How long a pong proves a path (§3.1)."""
    min_answer_time: float = 0.4
    """A ping without answer for this long, or for a longer time that the path's own latency calls for
    (RFC 6298), is a reason to use DERP as well. Infinite: trust alone decides."""
    retry: float = 0.2
    """Until a heartbeat without answer is repeated, if the path's latency allows for an answer by then."""
    give_up: float = 5.0
    """A path is no longer used at all when a ping over it got no answer for this long (§3.1)."""
    data_doubt: float = 30.0
    """A path that pings get through, but no handshake, is not relied on for this long."""

    # --- looking for a path (discovery.py) ---

    steps: tuple[float, ...] = (0.0, 0.15, 0.4, 0.9)
    """When, in a round, candidates that have not answered are pinged. Tailscale pings once."""
    round_interval: float = 5.0
    """Between rounds (§3.1: between pings to one address)."""
    max_round_interval: float = 30.0
    """It doubles up to this while nothing answers and nothing changes."""
    upgrade_interval: float = 60.0
    """Between rounds that look for something better than a direct path that works (§3.1)."""
    good_enough_latency: float = 0.005
    """With which such rounds are not worth their packets (§3.1)."""
    triggered_gap: float = 0.02
    """A ping that comes over an unconfirmed path is answered by a ping of ours too, unless the last one is
    younger than this (RFC 8445 §7.3.1.4). Infinite: never. Tailscale does not, and waits for its 5 s."""
    call_me_maybe_interval: float = 5.0
    """A call is answered by one of ours, which tells where we are now, unless the last one is younger.
    Infinite: never."""
    min_call_interval: float = 1.0
    """Between calls that we make, unless our endpoints have changed."""

    # --- what is known (candidates.py) ---

    endpoint_freshness: float = 27.0
    """Our own endpoints are measured again for a call when they are older: a NAT keeps a mapping for 30 s
    at least (§3.1)."""
    learned_lifetime: float = 45.0
    """Of a candidate that is only known because pings come from it (§3.1)."""

    # --- hard NATs (spray.py; §7.3) ---

    spray_delay: float = 1.0
    """How long plain discovery gets first."""
    spray_time: float = 4.0
    """The most that one spray takes."""
    spray_again_after: float = 300.0
    """A pair that a spray has helped may be helped again after this."""

    # --- path MTU (mtu.py; §3.10) ---

    mtu_again_after: float = 600.0
    """A path's MTU is measured anew after this."""


DEFAULT: Final = Timings()

TAILSCALE: Final = Timings(
    busy_heartbeat=3.0,
    min_answer_time=math.inf,
    retry=3.0,
    steps=(0.0,),
    max_round_interval=5.0,
    triggered_gap=math.inf,
    call_me_maybe_interval=math.inf,
    min_call_interval=0.0,
    data_doubt=0.0,
)
"""What a peer of the other implementation does, as near as this machine can act it."""

# --- Limits: what a peer, or somebody who pretends to be one, can make us keep or send ---

MAX_NETMAP_ENDPOINTS: Final = 32
"""Candidates of a peer that the coordinator told us, the first ones."""
MAX_CALL_ENDPOINTS: Final = 64
"""Candidates of one CallMeMaybe, the first ones: a peer must not make us ping half the Internet (§7.3)."""
MAX_LEARNED: Final = 16
"""Candidates of a peer that are known from its pings only; the one heard longest ago gives way."""
MAX_SENT_ENDPOINTS: Final = 64
"""Of our own, in a CallMeMaybe."""

PINGS_PER_SECOND: Final = 100.0
PING_BURST: Final = 300.0
"""Pings to candidates of one peer, heartbeats aside. A burst is four steps over every candidate."""
ANSWERS_PER_SECOND: Final = 100.0
ANSWER_BURST: Final = 300.0
"""Pongs to one peer."""
CALLS_PER_SECOND: Final = 1.0
CALL_BURST: Final = 5.0
"""CallMeMaybe of one peer that we act on."""
OPENINGS_PER_SECOND: Final = 1000.0
OPENING_BURST: Final = 3000.0
"""Envelopes that name one known sender and are opened. Anybody can copy the name: 10 µs each."""
MAX_PINGS_IN_FLIGHT: Final = 1024
"""Per peer, the oldest forgotten first."""

SPRAY_SOCKETS: Final = 256
"""That the side behind the hard NAT opens (§7.3)."""
SPRAY_PROBES: Final = 2048
"""That the other side sends at most: one of 256 ports among 64,512 is met with a probability of 99.97 %."""
SPRAY_PROBES_PER_SECOND: Final = 800.0
SPRAY_OPENINGS_PER_SECOND: Final = 1000.0
MAX_SPRAYS: Final = 2
"""At a time, over all peers."""

RELAY_BIND_STEPS: Final = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds after which a peer relay that has not answered is asked again."""
RELAY_BIND_TIME: Final = 30.0
"""After which it is not (§2.6)."""
MAX_RELAY_ADDRESSES: Final = 8
"""Addresses of a peer relay that are tried, the first ones."""
MAX_RELAYED_PEERS: Final = 1024
"""Peers that we may be using a peer relay for, at a time."""

SAFE_WIRE_MTU: Final = 1360
"""Bytes of IP packet that every path is taken to carry: a tunnel MTU of 1280 and 80 of headers (§3.10)."""
WIRE_MTUS: Final = (1280, 1360, 1400, 1500, 8000, 9000)
"""Sizes of IP packets that a path is tried with (§3.10)."""
