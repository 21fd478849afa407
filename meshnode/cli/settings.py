"""Flags and preferences: which flag sets which preference, and the "mention everything" rule of `up`.

`up` describes the whole wanted state. A setting that differs from its default and is not on the line would be
reverted by it, which nobody means; so the line is refused, with the complete one ready to paste (node
behaviour §2.3). `set` changes only what is on the line. Everything here is computed from values; nothing asks
the daemon.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from meshnode.cli.errors import CommandError
from meshnode.cli.peers import matches, short_name
from meshnode.control.server_url import InvalidServerURL, ServerURL
from meshnode.prefs import InvalidPrefs, Prefs, normalise
from meshproto.routes import EXIT_ROUTES, sorted_prefixes

Json = dict[str, Any]
EXIT_ROUTE_TEXTS = tuple(str(route) for route in sorted_prefixes(EXIT_ROUTES))


@dataclass(frozen=True, slots=True)
class Flags:
    """The preference flags of one line; None where the line does not mention it."""

    login_server: str | None = None
    hostname: str | None = None
    accept_routes: bool | None = None
    advertise_routes: str | None = None
    advertise_exit_node: bool | None = None
    exit_node: str | None = None
    exit_node_allow_lan_access: bool | None = None
    snat_subnet_routes: bool | None = None
    operator: str | None = None

    @property
    def given(self) -> frozenset[str]:
        """The names of the flags on the line, as they are written after the dashes."""
        values = dataclasses.asdict(self)
        return frozenset(name.replace("_", "-") for name, value in values.items() if value is not None)


def _written(value: object) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def flag_values(prefs: Prefs) -> dict[str, str]:
    """Every preference flag with the value that would set what `prefs` says."""
    return {
        "login-server": prefs.control_url,
        "hostname": prefs.hostname,
        "accept-routes": _written(prefs.route_all),
        "advertise-routes": ",".join(r for r in prefs.advertise_routes if r not in EXIT_ROUTE_TEXTS),
        "advertise-exit-node": _written(prefs.advertises_exit_node),
        "exit-node": prefs.exit_node_id or prefs.exit_node_ip,
        "exit-node-allow-lan-access": _written(prefs.exit_node_allow_lan_access),
        "snat-subnet-routes": _written(not prefs.no_snat),
        "operator": prefs.operator_user,
    }


DEFAULT_VALUES = flag_values(Prefs())


def overlay(prefs: Prefs, flags: Flags, status: Json) -> Prefs:
    """`prefs` with what the line mentions. `status` is the daemon's, to find exit nodes by name.

    Raises CommandError with a line that names the flag's mistake.
    """
    if flags.login_server:
        try:
            ServerURL.parse(flags.login_server)
        except InvalidServerURL as error:
            raise CommandError(str(error)) from error
    changes: dict[str, Any] = {
        name: value
        for name, value in (
            ("control_url", flags.login_server),
            ("hostname", flags.hostname),
            ("route_all", flags.accept_routes),
            ("exit_node_allow_lan_access", flags.exit_node_allow_lan_access),
            ("operator_user", flags.operator),
        )
        if value is not None
    }
    if flags.snat_subnet_routes is not None:
        changes["no_snat"] = not flags.snat_subnet_routes
    if flags.advertise_routes is not None or flags.advertise_exit_node is not None:
        changes["advertise_routes"] = _advertised(prefs, flags)
    if flags.exit_node is not None:
        changes["exit_node_id"], changes["exit_node_ip"] = resolve_exit_node(flags.exit_node, status)
        if not flags.exit_node and flags.exit_node_allow_lan_access is None:
            changes["exit_node_allow_lan_access"] = False
    try:
        return normalise(msgspec.structs.replace(prefs, **changes))
    except InvalidPrefs as error:
        raise CommandError(str(error)) from error


def _advertised(prefs: Prefs, flags: Flags) -> tuple[str, ...]:
    """The two flags that make one list; each leaves the other's part alone when it is absent."""
    routes = [route for route in prefs.advertise_routes if route not in EXIT_ROUTE_TEXTS]
    offers_exit = prefs.advertises_exit_node
    if flags.advertise_routes is not None:
        routes = [route.strip() for route in flags.advertise_routes.split(",") if route.strip()]
    if flags.advertise_exit_node is not None:
        offers_exit = flags.advertise_exit_node
    return (*routes, *(EXIT_ROUTE_TEXTS if offers_exit else ()))


def resolve_exit_node(text: str, status: Json) -> tuple[str, str]:
    """The exit node that `text` means, as (stable ID, IP): one of them is "". Raises CommandError.

    An address that no map can confirm yet is taken as it is; a name needs the map.
    """
    if not text:
        return "", ""
    peers: list[Json] = list((status.get("Peer") or {}).values())
    if matches([status.get("Self") or {}], text):
        raise CommandError(
            f'"{text}" is this node itself and cannot be its exit node; '
            "to offer it to others use --advertise-exit-node"
        )
    try:
        address = str(ipaddress.ip_address(text))
    except ValueError:
        found = matches(peers, text)
    else:
        if not peers:
            return "", address
        found = matches(peers, address)
    if not found:
        raise CommandError(f'no node "{text}" for --exit-node{_exit_node_advice(peers)}')
    if len(found) > 1:
        raise CommandError(f'"{text}" names {len(found)} nodes; give the exit node by its IP address')
    if not found[0].get("ExitNodeOption"):
        raise CommandError(
            f'node "{text}" is not an exit node; it must advertise itself with --advertise-exit-node, '
            'and the coordinator must approve 0.0.0.0/0 and ::/0 with "coordinator nodes approve-routes"'
        )
    return str(found[0]["ID"]), ""


def _exit_node_advice(peers: Sequence[Json]) -> str:
    if not peers:
        return "; names are known once this node is connected: give its IP address now"
    offers = sorted(short_name(peer) for peer in peers if peer.get("ExitNodeOption"))
    if not offers:
        return "; no node in this network offers itself as an exit node"
    return f"; exit nodes here: {', '.join(offers)}"


def check_mentions(current: Prefs, flags: Flags, *, user: str, program: Sequence[str]) -> None:
    """Refuse a line of `up` that would silently revert settings.

    `program` is how the line began (`["meshnode", "up"]`), `user` the value of $USER. Raises CommandError.
    """
    values = flag_values(current)
    retained = {"operator"} if user and user == current.operator_user else set()
    forgotten = [
        name
        for name, value in values.items()
        if value != DEFAULT_VALUES[name] and name not in flags.given and name not in retained
    ]
    if not forgotten:
        return
    given = {name: _written(getattr(flags, name.replace("-", "_"))) for name in flags.given}
    complete = {name: values[name] for name in forgotten} | given
    command = shlex.join([*program, *(_argument(name, value) for name, value in sorted(complete.items()))])
    raise CommandError(
        'changing settings with "meshnode up" needs every setting that differs from its default mentioned. '
        f"To keep the others, run:\n\n\t{command}\n\n"
        'To change only some, use "meshnode set"; to return the others to their defaults, add --reset.'
    )


def _argument(name: str, value: str) -> str:
    return f"--{name}" if value == "true" else f"--{name}={value}"


def masked(prefs: Prefs) -> Json:
    """A change to all of `prefs`, as the LocalAPI takes it."""
    values: Json = msgspec.to_builtins(prefs)
    return values | {f"{name}Set": True for name in values}


def changes(before: Prefs, after: Prefs) -> Json:
    """A change to only those settings that differ."""
    old: Json = msgspec.to_builtins(before)
    new: Json = {name: value for name, value in msgspec.to_builtins(after).items() if value != old[name]}
    return new | {f"{name}Set": True for name in new}
