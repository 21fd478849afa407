"""The preference flags that `up`, `login` and `set` share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from meshnode.cli.grammar import Duration, flag, switch

Callback = TypeVar("Callback", bound=Callable[..., Any])

login_server = flag("--login-server", metavar="URL", help="The coordinator, as in https://vpn.example.org.")
auth_key = flag(
    "--auth-key",
    "--authkey",
    "auth_key",
    metavar="KEY",
    help="Pre-auth key, or file:PATH of a file that holds it.",
)
timeout = flag(
    "--timeout",
    type=Duration(),
    default=0.0,
    metavar="DURATION",
    help="Give up waiting after this long, as in 30s (default 0: wait forever).",
)

_PREFERENCES = (
    flag("--hostname", metavar="NAME", help="Name of this node, instead of the host's."),
    switch("--accept-routes", help="Use the subnet routes that peers offer."),
    flag(
        "--advertise-routes",
        metavar="PREFIXES",
        help="Offer these networks, as in 10.0.0.0/8,192.168.0.0/24.",
    ),
    switch("--advertise-exit-node", help="Offer to carry other nodes' internet traffic."),
    flag(
        "--exit-node",
        metavar="NODE",
        help="Send internet traffic by way of NODE (name or address); empty: no more.",
    ),
    switch("--exit-node-allow-lan-access", help="Keep direct access to the local network with an exit node."),
    switch("--snat-subnet-routes", help="Masquerade traffic to advertised routes (default true)."),
    flag("--operator", metavar="USER", help="User of this host who may control the daemon without root."),
)


def preferences(command: Callback) -> Callback:
    """Decorate a command with every flag that sets a preference, apart from the login server."""
    for option in reversed(_PREFERENCES):
        command = option(command)
    return command
