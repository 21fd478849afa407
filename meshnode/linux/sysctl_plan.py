"""Which kernel settings a configuration needs, and everything else that changes with them. Pure.

A change is listed with the value it will have, also where the kernel makes it along with another: what is not
listed cannot be put back. Writing `ip_forward` sets `forwarding` of every interface and `accept_redirects` to
the opposite; writing it back does it again, whatever they were before (inet_forward_change in devinet.c).

Keys are paths below /proc/sys, since an interface's name may have dots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import msgspec

from meshnode.linux.router_config import RouterConfig

# Groups of settings that belong together.
LINK = "link"
FORWARDING_4 = "forwarding-4"
FORWARDING_6 = "forwarding-6"
REVERSE_PATH = "reverse-path"

FORWARD_4 = "net/ipv4/ip_forward"
FORWARD_6 = "net/ipv6/conf/all/forwarding"

# Not interfaces, though they have a directory like one.
PSEUDO = frozenset({"all", "default"})

STRICT = 1
"""Value of rp_filter: a packet must arrive by the interface by which its answer would leave (RFC 3704)."""
ADDRESS_GENERATION_NONE = "1"
"""Value of addr_gen_mode: no link-local address."""


class SettingChange(msgspec.Struct, frozen=True):
    """One setting, as it was and as we set it. In the journal until it is put back."""

    group: str
    """Why: settings of one group are put back together."""
    key: str
    """Path below /proc/sys."""
    old: str
    written: str
    """What we write. If another value is there later, someone else has decided, and it stays."""


class Reader(Protocol):
    """The settings as they are."""

    def read(self, key: str) -> str | None:
        """The value, or None where there is no such setting."""

    def interfaces(self, version: int) -> Sequence[str]:
        """The directories of net/ipv4/conf or net/ipv6/conf, sorted: every interface, `all` and `default`."""


def forwarding_4(settings: Reader) -> list[SettingChange]:
    """What turns IPv4 forwarding on; nothing if it is on already."""
    if settings.read(FORWARD_4) != "0":
        return []
    redirects = "net/ipv4/conf/all/accept_redirects"
    return [
        *_forwarding_interfaces(settings, 4, FORWARDING_4),
        SettingChange(FORWARDING_4, redirects, settings.read(redirects) or "0", "0"),
        SettingChange(FORWARDING_4, FORWARD_4, "0", "1"),
    ]


def forwarding_6(settings: Reader, tunnel: str, held: frozenset[str]) -> list[SettingChange]:
    """The same for IPv6, and that the host itself still listens to routers.

    A host that forwards takes no router advertisements where `accept_ra` is 1, and the kernel drops the
    default routes it has from them: so it is set to 2 first, on every interface that took them until now.
    `held`: the settings of this group that we changed; not empty where forwarding is on because of us.
    """
    value = settings.read(FORWARD_6)
    if value is None or (value != "0" and not held):
        return []
    changes = [
        change
        for name in settings.interfaces(6)
        if name not in PSEUDO | {"lo", tunnel}
        for change in _keep_accept_ra(settings, name, held)
    ]
    if value == "0":
        changes = [
            *_forwarding_interfaces(settings, 6, FORWARDING_6),
            *changes,
            SettingChange(FORWARDING_6, FORWARD_6, "0", "1"),
        ]
    return changes


def reverse_path(settings: Reader, tunnel: str) -> list[SettingChange]:
    """With the default route in the tunnel, a strict filter must look at marks (ruleset.py puts them on).

    Only on interfaces that are strict: the setting under `all` would hit the marks of other programs too.
    """
    if settings.read("net/ipv4/conf/all/src_valid_mark") != "0":
        return []
    return [
        change
        for name in strict_interfaces(settings, tunnel)
        for change in _change(settings, REVERSE_PATH, f"net/ipv4/conf/{name}/src_valid_mark", "1")
    ]


def strict_interfaces(settings: Reader, tunnel: str) -> list[str]:
    """The interfaces, without the tunnel's, whose reverse-path filter is strict: the higher value holds."""
    everywhere = int(settings.read("net/ipv4/conf/all/rp_filter") or 0)
    return [
        name
        for name in settings.interfaces(4)
        if name not in PSEUDO | {"lo", tunnel}
        and max(everywhere, int(settings.read(f"net/ipv4/conf/{name}/rp_filter") or 0)) == STRICT
    ]


def link(settings: Reader, tunnel: str) -> list[SettingChange]:
    """No link-local address and no router solicitations in a tunnel that has no link."""
    return list(_change(settings, LINK, f"net/ipv6/conf/{tunnel}/addr_gen_mode", ADDRESS_GENERATION_NONE))


def wanted(
    config: RouterConfig, settings: Reader, tunnel: str, held: Callable[[str], frozenset[str]]
) -> dict[str, list[SettingChange] | None]:
    """For each group: the changes still to make, or None where it is not needed and is to be put back.

    `held` gives the settings of a group that we changed already.
    """
    if config.is_empty:
        return dict.fromkeys((LINK, FORWARDING_4, FORWARDING_6, REVERSE_PATH))
    return {
        LINK: link(settings, tunnel),
        FORWARDING_4: forwarding_4(settings) if config.forwards(4) else None,
        FORWARDING_6: forwarding_6(settings, tunnel, held(FORWARDING_6)) if config.forwards(6) else None,
        REVERSE_PATH: reverse_path(settings, tunnel) if config.uses_exit(4) else None,
    }


def forwarding_warnings(config: RouterConfig, settings: Reader) -> list[str]:
    """What keeps this host from forwarding what it serves, one line each with the command that helps."""
    warnings = []
    if config.forwards(4) and settings.read(FORWARD_4) == "0":
        warnings.append(
            "IPv4 forwarding is off: peers cannot reach the routes that this node offers."
            " To turn it on: sysctl -w net.ipv4.ip_forward=1"
        )
    if config.forwards(6) and settings.read(FORWARD_6) is None:
        warnings.append("this host has no IPv6: peers cannot reach the IPv6 routes that this node offers")
    elif config.forwards(6) and settings.read(FORWARD_6) == "0":
        warnings.append(
            "IPv6 forwarding is off: peers cannot reach the IPv6 routes that this node offers."
            " To turn it on: sysctl -w net.ipv6.conf.all.forwarding=1"
        )
    return warnings


def _change(settings: Reader, group: str, key: str, new: str) -> Iterator[SettingChange]:
    old = settings.read(key)
    if old is not None and old != new:
        yield SettingChange(group, key, old, new)


def _forwarding_interfaces(settings: Reader, version: int, group: str) -> Iterator[SettingChange]:
    """Interfaces that forward already, which turning the whole host off again would stop."""
    for name in settings.interfaces(version):
        key = f"net/ipv{version}/conf/{name}/forwarding"
        if name != "all" and settings.read(key) == "1":
            yield SettingChange(group, key, "1", "1")


def _keep_accept_ra(settings: Reader, name: str, held: frozenset[str]) -> Iterator[SettingChange]:
    key = f"net/ipv6/conf/{name}/forwarding"
    forwarded_before = key in held if held else settings.read(key) == "1"
    if settings.read(f"net/ipv6/conf/{name}/accept_ra") == "1" and not forwarded_before:
        yield SettingChange(FORWARDING_6, f"net/ipv6/conf/{name}/accept_ra", "1", "2")
