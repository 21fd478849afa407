"""`meshnode debug paths PEER`: how a peer is reached, why that way, and what became of every other way."""

from __future__ import annotations

import json
from collections.abc import Iterator

import click

from meshnode.cli.grammar import Command, switch
from meshnode.cli.peers import Json, find_peer
from meshnode.cli.session import local_client
from meshnode.cli.status import columns

HEADER = ("", "Path", "Known from", "Latency", "Last ping", "Last pong", "MTU", "Verdict")
NEVER = "-"
PATIENCE_S = 1.0
"""A ping that is younger may still be answered."""
CLOCK_SLACK_S = 0.002
"""Of the ages' rounding."""
ORIGINS = {
    "map": "coordinator",
    "call": "peer's call",
    "ping": "peer's ping",
    "relay": "peer relay",
}
REASONS = {
    "udp_blocked": (
        "UDP does not get out of this network",
        "allow outgoing UDP in this network's firewall",
    ),
    "spraying": (
        "the hard NAT on one side is being tried: many ports, for a few seconds",
        "look again in some seconds",
    ),
    "both_behind_hard_nat": (
        "both sides are behind NATs that give every destination another port",
        "forward a UDP port to one of the two, or turn on UPnP, NAT-PMP or PCP in one of the routers",
    ),
    "spray_failed": (
        "one side is behind a NAT that gives every destination another port, and guessing ports did not help",
        "forward a UDP port to one of the two, or turn on UPnP, NAT-PMP or PCP in one of the routers",
    ),
    "path_lost": (
        "the direct path stopped answering, and another one is being looked for",
        "look again in some seconds; if it stays so, see what changed in the networks between the two",
    ),
    "discovering": (
        "a direct path is being looked for",
        "look again in some seconds",
    ),
    "no_candidates": (
        "nobody has said where this peer could be reached directly",
        'see on the peer whether "meshnode netcheck" finds UDP to work',
    ),
    "no_answer": (
        "no candidate answers our pings",
        'see on both sides whether a firewall drops UDP, and what "meshnode netcheck" says',
    ),
    "idle": (
        "nothing was sent lately, so no direct path is kept up",
        "send something, as with: meshnode ping {name}",
    ),
}


@click.command("paths", cls=Command)
@switch("--json", "as_json", default=False, help="Print everything, for programs.")
@click.argument("peer")
@click.pass_context
def command(ctx: click.Context, as_json: bool, peer: str) -> None:
    """Show how PEER, a name or address, is reached, with every path that was tried."""
    client = local_client(ctx)
    paths = client.paths(find_peer(client.status(), peer)["PublicKey"])
    if as_json:
        click.echo(json.dumps(paths, indent=2, ensure_ascii=False))
    else:
        for line in describe_paths(paths):
            click.echo(line)


def describe_paths(paths: Json) -> Iterator[str]:
    """The whole text."""
    addresses = ", ".join(paths["TailscaleIPs"])
    yield f"{paths['Name']} ({addresses}), home relay {paths['HomeRelay'] or 'unknown'}"
    if not paths["Online"]:
        yield "The coordinator says that it is offline."
    if not paths["SpeaksDisco"]:
        yield "It does not speak disco: WireGuard's handshakes alone decide where data goes."
        return
    yield from _summary(paths)
    yield from _calls(paths)
    candidates = sorted(paths["Candidates"], key=_rank)
    if candidates:
        yield ""
        yield from (line.rstrip() for line in columns([HEADER, *map(_row, candidates)]))


def _summary(paths: Json) -> Iterator[str]:
    data = " and ".join(paths["Destinations"]) or "nowhere: no way is known"
    activity = "active" if paths["Active"] else "idle"
    if paths["Direct"]:
        yield f"Direct, {activity}: data goes to {data}."
        return
    yield f"Not direct, {activity}: data goes to {data}."
    reason, advice = REASONS.get(paths["RelayReason"], (paths["RelayReason"], ""))
    yield f"Why: {reason}."
    if advice:
        yield f"What to do: {advice.format(name=paths['Name'])}."


def _calls(paths: Json) -> Iterator[str]:
    """When either side last asked the other to ping it."""
    sent, received = paths["CallMeMaybeSentAgo"], paths["CallMeMaybeReceivedAgo"]
    yield f"Asked to be pinged: we the peer {_ago(sent, 'never')}, the peer us {_ago(received, 'never')}."


def _row(candidate: Json) -> tuple[str, ...]:
    return (
        "*" if candidate["InUse"] else "",
        candidate["Path"],
        ", ".join(ORIGINS.get(origin, origin) for origin in candidate["Origins"]) or NEVER,
        _latency(candidate["LatencySeconds"]),
        _ago(candidate["LastPingAgo"], NEVER),
        _ago(candidate["LastPongAgo"], NEVER),
        str(candidate["WireMTU"]),
        _verdict(candidate),
    )


def _verdict(candidate: Json) -> str:
    pinged, answered = candidate["LastPingAgo"], candidate["LastPongAgo"]
    if pinged is None:
        return "in use" if candidate["InUse"] else "not tried"
    if answered is None or answered > pinged + CLOCK_SLACK_S:
        waiting = "waiting for an answer" if pinged < PATIENCE_S else "no answer"
        return f"in use, {waiting}" if candidate["InUse"] else waiting
    return "in use" if candidate["InUse"] else "answers, not as good"


def _rank(candidate: Json) -> tuple[bool, bool, float, str]:
    """The one in use, those that answered by their latency, the others."""
    latency = candidate["LatencySeconds"]
    return not candidate["InUse"], latency is None, latency or 0.0, candidate["Path"]


def _latency(seconds: float | None) -> str:
    return NEVER if seconds is None else f"{seconds * 1000:.1f}ms"


def _ago(seconds: float | None, never: str) -> str:
    if seconds is None:
        return never
    if seconds < 60:
        return f"{seconds:.1f}s ago"
    minutes = int(seconds // 60)
    return f"{minutes}m ago" if minutes < 60 else f"{minutes // 60}h ago"
