"""Preferences: everything a person can set about a node, and the rules that a change must keep.

The JSON names are Tailscale's (node behaviour §1.5), because the LocalAPI and its scripts use them. A change
comes as *masked* preferences: each field `X` counts only where `XSet` is true.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from meshproto.addresses import IPNetwork
from meshproto.routes import EXIT_ROUTE_IPV4, EXIT_ROUTE_IPV6, EXIT_ROUTES, sorted_prefixes

MAX_HOSTNAME_LENGTH = 253


class InvalidPrefs(ValueError):
    """A setting that cannot be; the text names it and says what to write instead."""


class Prefs(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """What the person who runs the node wants. The defaults are those of a node that was never set up."""

    control_url: str = msgspec.field(name="ControlURL", default="")
    """The coordinator; empty before the first `up`."""
    want_running: bool = msgspec.field(name="WantRunning", default=False)
    logged_out: bool = msgspec.field(name="LoggedOut", default=False)
    """`logout` was the last word: do not log in again by ourselves."""
    hostname: str = msgspec.field(name="Hostname", default="")
    """Empty: the host's own name."""
    route_all: bool = msgspec.field(name="RouteAll", default=False)
    """Accept peers' subnet routes."""
    exit_node_id: str = msgspec.field(name="ExitNodeID", default="")
    """Stable ID of the exit node in use. At most one of this and `exit_node_ip` is set."""
    exit_node_ip: str = msgspec.field(name="ExitNodeIP", default="")
    exit_node_allow_lan_access: bool = msgspec.field(name="ExitNodeAllowLANAccess", default=False)
    advertise_routes: tuple[str, ...] = msgspec.field(name="AdvertiseRoutes", default=())
    """Prefixes in canonical text, sorted; both /0 of an exit node among them."""
    no_snat: bool = msgspec.field(name="NoSNAT", default=False)
    operator_user: str = msgspec.field(name="OperatorUser", default="")

    @property
    def uses_exit_node(self) -> bool:
        return bool(self.exit_node_id or self.exit_node_ip)

    @property
    def advertises_exit_node(self) -> bool:
        return all(str(route) in self.advertise_routes for route in EXIT_ROUTES)

    @property
    def advertised(self) -> tuple[IPNetwork, ...]:
        """The advertised routes as networks."""
        return tuple(ipaddress.ip_network(route) for route in self.advertise_routes)


FIELD_BY_JSON_NAME = {field.encode_name: field for field in msgspec.structs.fields(Prefs)}


def apply_masked(prefs: Prefs, masked: Mapping[str, Any]) -> Prefs:
    """`prefs` with every `X` of `masked` whose `XSet` is true. Raises InvalidPrefs on an unknown or ill-typed
    one.
    """
    changes: dict[str, object] = {}
    for flag, is_set in masked.items():
        if not flag.endswith("Set") or is_set is not True:
            continue
        name = flag.removesuffix("Set")
        field = FIELD_BY_JSON_NAME.get(name)
        if field is None:
            raise InvalidPrefs(f"this daemon has no setting {name}; is it older than the command line?")
        value = masked.get(name, field.default)
        try:
            changes[field.name] = msgspec.convert(value, field.type)
        except msgspec.ValidationError as error:
            raise InvalidPrefs(f"{name}: {error}") from error
    return normalise(msgspec.structs.replace(prefs, **changes))


def mask(**changes: object) -> dict[str, object]:
    """The masked form of a change given by Python names: `mask(want_running=True)`."""
    body: dict[str, object] = {}
    names = {field.name: field.encode_name for field in msgspec.structs.fields(Prefs)}
    for name, value in changes.items():
        body[names[name]] = value
        body[names[name] + "Set"] = True
    return body


def normalise(prefs: Prefs) -> Prefs:
    """Canonical text for what can be written in several ways. Raises InvalidPrefs, as `check` does."""
    routes = parse_routes(prefs.advertise_routes)
    changed = msgspec.structs.replace(prefs, advertise_routes=tuple(str(route) for route in routes))
    check(changed)
    return changed


def check(prefs: Prefs) -> None:
    """Rules between settings (node behaviour §1.5, §2.2). Raises InvalidPrefs."""
    if prefs.hostname:
        check_hostname(prefs.hostname)
    if prefs.exit_node_ip:
        try:
            ipaddress.ip_address(prefs.exit_node_ip)
        except ValueError as error:
            raise InvalidPrefs(f'exit node "{prefs.exit_node_ip}" is not an IP address') from error
    if prefs.exit_node_id and prefs.exit_node_ip:
        raise InvalidPrefs("an exit node is chosen by ID or by IP address, not by both")
    if prefs.uses_exit_node and prefs.advertises_exit_node:
        raise InvalidPrefs(
            "a node cannot use an exit node and offer itself as one; "
            "drop --advertise-exit-node, or clear the other with --exit-node="
        )
    if prefs.exit_node_allow_lan_access and not prefs.uses_exit_node:
        raise InvalidPrefs("--exit-node-allow-lan-access is valid only together with --exit-node")


def check_hostname(name: str) -> None:
    """A host name that can become a DNS name. Raises InvalidPrefs."""
    labels = name.split(".")
    is_valid = len(name) <= MAX_HOSTNAME_LENGTH and all(
        0 < len(label) <= 63
        and label.isascii()
        and all(character.isalnum() or character in "-_" for character in label)
        and not label.startswith("-")
        and not label.endswith("-")
        for label in labels
    )
    if not is_valid:
        raise InvalidPrefs(
            f'hostname "{name}" is not valid; use letters, digits and hyphens, as in "home-router"'
        )


def parse_route(text: str) -> IPNetwork:
    """One advertised prefix. Raises InvalidPrefs for a bare address, host bits and non-prefixes."""
    if "/" not in text:
        try:
            bits = ipaddress.ip_address(text).max_prefixlen
        except ValueError as error:
            raise InvalidPrefs(f'route "{text}" is not a prefix; write it as in 192.168.0.0/24') from error
        raise InvalidPrefs(f'route "{text}" lacks its length; for this one address write {text}/{bits}')
    try:
        loose = ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise InvalidPrefs(f'route "{text}" is not a prefix; write it as in 192.168.0.0/24') from error
    if "." in text.partition("/")[2]:
        raise InvalidPrefs(f'route "{text}" has a netmask; write its length instead: {loose}')
    if loose.network_address != ipaddress.ip_address(text.partition("/")[0]):
        raise InvalidPrefs(f'route "{text}" has bits set beyond its length; the prefix is {loose}')
    return loose


def parse_routes(texts: Sequence[str]) -> tuple[IPNetwork, ...]:
    """Several prefixes, each once, sorted: IPv4 first. Raises InvalidPrefs, also for one /0 without the
    other.
    """
    routes = {parse_route(text) for text in texts}
    for route, other in ((EXIT_ROUTE_IPV4, EXIT_ROUTE_IPV6), (EXIT_ROUTE_IPV6, EXIT_ROUTE_IPV4)):
        if route in routes and other not in routes:
            raise InvalidPrefs(
                f"{route} cannot be advertised without {other}; for both write --advertise-exit-node"
            )
    return sorted_prefixes(routes)
