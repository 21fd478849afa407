"""The capability version: the one integer by which the two ends know what the other understands.

History as in reference §7.4. A version promises all that earlier ones promised.
"""

from __future__ import annotations

CURRENT_CAPABILITY_VERSION = 130
"""What we announce, in the Noise prologue and in every request."""

MINIMUM_CAPABILITY_VERSION = 113
"""Oldest node that the coordinator serves: Tailscale 1.80."""

CLIENT_RELEASES = {
    113: "1.80",
    115: "1.82",
    116: "1.84",
    122: "1.86",
    125: "1.88",
    130: "1.90",
    131: "1.92",
    133: "1.96",
    138: "1.98",
    141: "1.100",
    142: "1.102",
}
"""Capability version -> the first Tailscale release that announced it."""

HISTORY = {
    28: "control protocol over Noise",
    39: "control on any HTTPS port",
    49: "early payload",
    68: "streaming map requests are read-only",
    74: "CapMap",
    79: "ClientVersion on every system",
    81: "PacketFilters",
    89: "no Capabilities in patches",
    109: "cap:<node capability> as a filter source",
    111: "HomeDERP as a number",
    112: "absent AllowedIPs mean the addresses",
    115: "DERPRegion.NoMeasureNoHome",
    117: "DisplayMessages in place of Health",
    121: "peer relays",
    125: "Resolver.UseWithExitNode",
    126: "key renewal without interruption",
    131: "default-auto-update as a capability",
    137: "status 429 on register",
}
"""Capability version -> what it brought."""


def client_release(version: int) -> str:
    """The newest Tailscale release that announces at most `version`, or `unknown` below 1.80."""
    known = [release for release in sorted(CLIENT_RELEASES) if release <= version]
    return CLIENT_RELEASES[known[-1]] if known else "unknown"


def is_supported(version: int) -> bool:
    """Whether the coordinator serves a node of this capability version."""
    return version >= MINIMUM_CAPABILITY_VERSION
