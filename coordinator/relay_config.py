"""The section `derp` of the configuration: the relay and STUN responder inside, and the maps of others.

Keys and meanings are Headscale's. Ours alone is `derp.server.stun_alternate_listen_addr`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from coordinator.config_values import (
    WrongValue,
    read_bool,
    read_duration,
    read_listen_address,
    read_path,
    read_text,
)
from derp.listen import ListenAddress

DEFAULT_STUN_ADDRESS = ListenAddress("0.0.0.0", 3478)
DEFAULT_STUN_ALTERNATE_ADDRESS = ListenAddress("0.0.0.0", 3479)
MAX_REGION_ID = 65535
"""Clients keep a region's id where a UDP port goes."""
MIN_UPDATE_FREQUENCY = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class RelayConfig:
    """What nodes relay over: see `docs/operations.md` for the keys."""

    is_enabled: bool = True
    region_id: int = 999
    region_code: str = "embedded"
    region_name: str = "Embedded DERP"
    stun_listen_addr: ListenAddress = DEFAULT_STUN_ADDRESS
    stun_alternate_listen_addr: ListenAddress | None = DEFAULT_STUN_ALTERNATE_ADDRESS
    """Where a second STUN server answers: two answers tell a node whether its NAT is a hard one."""
    private_key_path: Path | None = None
    verifies_clients: bool = True
    adds_region: bool = True
    ipv4: str = ""
    ipv6: str = ""
    urls: tuple[str, ...] = ()
    paths: tuple[Path, ...] = ()
    updates: bool = True
    update_frequency: timedelta = timedelta(hours=3)

    @property
    def is_without_relays(self) -> bool:
        """Whether nodes are told of no relay at all."""
        return not (self.is_enabled and self.adds_region) and not self.urls and not self.paths

    def with_absolute_paths(self, directory: Path) -> RelayConfig:
        """Relative paths are relative to `directory`."""
        key = self.private_key_path
        return replace(
            self,
            private_key_path=None if key is None else directory / key,
            paths=tuple(directory / path for path in self.paths),
        )


def _read_region_id(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_REGION_ID:
        return value
    raise WrongValue(f"expected a number between 1 and {MAX_REGION_ID}; 900 to 999 are free for own regions")


def _read_name(value: object) -> str:
    text = read_text(value)
    if not text:
        raise WrongValue("expected a name")
    return text


def _read_optional_listen_address(value: object) -> ListenAddress | None:
    return None if value in (None, "") else read_listen_address(value)


def _read_ipv4(value: object) -> str:
    return _read_address(value, IPv4Address, "an IPv4 address such as 198.51.100.1")


def _read_ipv6(value: object) -> str:
    return _read_address(value, IPv6Address, "an IPv6 address such as 2001:db8::1")


def _read_address(value: object, family: type[IPv4Address | IPv6Address], expected: str) -> str:
    if value in (None, ""):
        return ""
    try:
        address = ip_address(read_text(value))
    except ValueError:
        raise WrongValue(f"expected {expected}") from None
    if not isinstance(address, family):
        raise WrongValue(f"expected {expected}")
    return str(address)


def _read_urls(value: object) -> tuple[str, ...]:
    urls = tuple(read_text(one) for one in _read_list(value))
    for url in urls:
        try:
            parts = urlsplit(url)
        except ValueError:
            raise WrongValue("expected a list of URLs") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise WrongValue(
                "expected a list of URLs such as https://controlplane.tailscale.com/derpmap/default"
            )
    return urls


def _read_paths(value: object) -> tuple[Path, ...]:
    return tuple(read_path(one) for one in _read_list(value))


def _read_list(value: object) -> list[object]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise WrongValue("expected a list")
    return value


def _read_update_frequency(value: object) -> timedelta:
    frequency = read_duration(value)
    if frequency < MIN_UPDATE_FREQUENCY:
        raise WrongValue("expected a minute or more, such as 3h")
    return frequency


FIELDS: dict[str, tuple[str, Callable[[object], Any]]] = {
    "derp.server.enabled": ("is_enabled", read_bool),
    "derp.server.region_id": ("region_id", _read_region_id),
    "derp.server.region_code": ("region_code", _read_name),
    "derp.server.region_name": ("region_name", _read_name),
    "derp.server.stun_listen_addr": ("stun_listen_addr", read_listen_address),
    "derp.server.stun_alternate_listen_addr": (
        "stun_alternate_listen_addr",
        _read_optional_listen_address,
    ),
    "derp.server.private_key_path": ("private_key_path", read_path),
    "derp.server.verify_clients": ("verifies_clients", read_bool),
    "derp.server.automatically_add_embedded_derp_region": ("adds_region", read_bool),
    "derp.server.ipv4": ("ipv4", _read_ipv4),
    "derp.server.ipv6": ("ipv6", _read_ipv6),
    "derp.urls": ("urls", _read_urls),
    "derp.paths": ("paths", _read_paths),
    "derp.auto_update_enabled": ("updates", read_bool),
    "derp.update_frequency": ("update_frequency", _read_update_frequency),
}
"""Key in the file -> field of RelayConfig, and its reader."""
