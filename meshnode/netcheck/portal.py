"""Whether a captive portal stands between us and the internet (reference §5.1).

Relays answer `/generate_204` in clear with 204 and our challenge. A portal answers for them, with its login
page or a redirect to it, and cannot know that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from meshproto.addresses import MalformedAddress, parse_address
from meshproto.messages import DERPNode, DERPRegion

__all__ = ["CHALLENGE_HEADER", "challenge_for", "is_portal", "portal_witnesses"]

CHALLENGE_HEADER: Final = "X-Tailscale-Challenge"
RESPONSE_HEADER: Final = "X-Tailscale-Response"
MAX_WITNESSES: Final = 5
NO_CONTENT: Final = 204


def portal_witnesses(regions: Mapping[int, DERPRegion], home: int) -> list[DERPNode]:
    """Relays to ask, those of `home` first. Only ones with an address: a portal's DNS may lie."""
    ranked = sorted(regions.items(), key=lambda item: (item[0] != home, item[0]))
    nodes = [node for _, region in ranked for node in region.nodes]
    return [node for node in nodes if node.can_port80 and _is_ipv4(node.ipv4)][:MAX_WITNESSES]


def challenge_for(host: str) -> str:
    """What the relay is to repeat."""
    return f"ts_{host}"


def is_portal(status: int, headers: Mapping[str, str], challenge: str) -> bool:
    """Whether an answer is not the relay's own. Header names are lower case."""
    return status != NO_CONTENT or headers.get(RESPONSE_HEADER.lower()) != f"response {challenge}"


def _is_ipv4(text: str) -> bool:
    try:
        return parse_address(text).version == 4
    except MalformedAddress:
        return False
