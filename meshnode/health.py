"""The health list: what a person should know although nothing has failed yet, a line each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from meshnode.netmap.session import NetworkMap
from meshproto.messages import NetInfo

EXPIRY_WARNING = timedelta(days=3)
"""How long before the end of our key the list says so."""
UDP_BLOCKED = (
    "UDP does not get out of this network: peers are reached over DERP relays only, which is slower; "
    "allow outgoing UDP to reach them directly"
)
NO_RELAYS = (
    "No DERP relay answers, so peers that cannot be reached directly are out of reach; "
    'see which ones are tried with "meshnode netcheck"'
)
SILENCE_TOLERATED_S = 5.0
"""A coordinator that is away for less is not worth a line."""


def health_lines(
    *,
    network_map: NetworkMap | None,
    login_error: str,
    contact_failure: str,
    silent_for_s: float,
    problems: Sequence[str],
    advice: Sequence[str],
    wall: float,
    relay_problem: str = "",
    net_info: NetInfo | None = None,
) -> tuple[str, ...]:
    """All lines, the gravest first. `contact_failure` is the last error, or empty while the stream lives.

    `relay_problem` is why the home relay cannot be reached, or empty; `net_info` what the last netcheck says.
    """
    lines = [*_lines(network_map, login_error, contact_failure, silent_for_s, problems)]
    if network_map is not None:
        lines += _connectivity(network_map, relay_problem, net_info)
        lines += _told(network_map, wall)
    return (*lines, *advice)


def _lines(
    network_map: NetworkMap | None,
    login_error: str,
    contact_failure: str,
    silent_for_s: float,
    problems: Sequence[str],
) -> Iterator[str]:
    if login_error:
        yield f"Login failed: {login_error}"
    yield from problems
    if contact_failure and silent_for_s >= SILENCE_TOLERATED_S:
        consequence = "; known peers stay reachable" if network_map is not None else ""
        yield f"No contact with the coordinator{consequence}: {contact_failure}"


def _connectivity(network_map: NetworkMap, relay_problem: str, net_info: NetInfo | None) -> Iterator[str]:
    has_relays = network_map.derp_map is not None and bool(network_map.derp_map.regions)
    if relay_problem:
        yield f"The home relay cannot be reached: {relay_problem}"
    elif has_relays and net_info is not None and not net_info.preferred_derp:
        yield NO_RELAYS
    elif net_info is not None and net_info.working_udp is False:
        yield UDP_BLOCKED  # relays answer, but none over UDP; where none answers at all, nobody knows


def _told(network_map: NetworkMap, wall: float) -> Iterator[str]:
    """What follows from the map alone."""
    yield from _expiry(network_map, wall)
    yield from network_map.health
    for message in network_map.display_messages.values():
        yield f"{message.title}: {message.text}" if message.text else message.title


def _expiry(network_map: NetworkMap, wall: float) -> Iterator[str]:
    expiry = network_map.self_node.key_expiry
    if expiry is None:
        return
    left = expiry - datetime.fromtimestamp(wall, UTC)
    renew = "log in again with: meshnode up --force-reauth"
    if left <= timedelta(0):
        yield f"This node's key has expired; {renew}"
    elif left <= EXPIRY_WARNING:
        hours = int(left.total_seconds() // 3600)
        remaining = f"{hours // 24} days" if hours >= 48 else f"{hours} hours"
        yield f"This node's key expires in {remaining}; {renew}"
