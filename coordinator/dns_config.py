"""The section `dns` of the configuration, as Headscale's (coordinator-behaviour §4, §9)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from coordinator.config_values import WrongValue, read_bool, read_path, read_text
from coordinator.dns_settings import DnsSettings
from meshproto.messages import DNSRecord

DEFAULT_BASE_DOMAIN = "mesh.internal"
MAX_NAME = 253
_ADDRESS_KINDS = {"": (IPv4Address, IPv6Address), "A": (IPv4Address,), "AAAA": (IPv6Address,)}
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")


@dataclass(frozen=True, slots=True)
class DnsConfig:
    """The keys below `dns`. `overrides_local` None: if there are global nameservers."""

    magic_dns: bool = True
    base_domain: str = DEFAULT_BASE_DOMAIN
    overrides_local: bool | None = None
    nameservers: tuple[str, ...] = ()
    split: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    search_domains: tuple[str, ...] = ()
    extra_records: tuple[DNSRecord, ...] = ()
    extra_records_path: Path | None = None

    def with_absolute_paths(self, directory: Path) -> DnsConfig:
        """Relative paths are relative to `directory`."""
        path = self.extra_records_path
        return self if path is None else replace(self, extra_records_path=directory / path)

    def settings(self, reverse_zones: tuple[str, ...]) -> DnsSettings:
        """What maps are made with. `reverse_zones` are those of the network's addresses."""
        overrides = self.overrides_local
        base = (self.base_domain,) if self.base_domain else ()
        return DnsSettings(
            magic_dns=self.magic_dns,
            overrides_local=bool(self.nameservers) if overrides is None else overrides,
            nameservers=self.nameservers,
            split=self.split,
            domains=tuple(dict.fromkeys((*base, *self.search_domains))),
            reverse_zones=reverse_zones,
            extra_records=self.extra_records,
        )

    def contradictions(self, server_url: str) -> list[str]:
        """What cannot be true together, one line each."""
        problems = []
        if self.magic_dns and not self.base_domain:
            problems.append(
                "dns.base_domain: needed for the names of nodes; "
                "set a domain such as mesh.example.org, or dns.magic_dns to false"
            )
        host = (urlsplit(server_url).hostname or "").rstrip(".")
        if self.base_domain and (host == self.base_domain or host.endswith(f".{self.base_domain}")):
            problems.append(
                f"dns.base_domain: {self.base_domain} holds the coordinator's own name {host}; "
                "nodes would look it up among themselves: use another domain"
            )
        if self.overrides_local and not self.nameservers:
            problems.append(
                "dns.override_local_dns: true leaves nodes without any resolver; "
                "list some in dns.nameservers.global, or set it to false"
            )
        if self.extra_records and self.extra_records_path is not None:
            problems.append("dns.extra_records_path: not together with dns.extra_records; remove one of them")
        return problems


def read_base_domain(value: object) -> str:
    text = read_text(value).lower()
    if text and not _DOMAIN.fullmatch(text):
        raise WrongValue("expected a domain without a dot at the end, such as mesh.example.org")
    return text


def read_record(value: object) -> DNSRecord:
    """One entry of dns.extra_records or of the file, whose keys may be in either case. Raises WrongValue."""
    if not isinstance(value, Mapping):
        raise WrongValue("expected records with name, type and value")
    entry = {str(key).lower(): text for key, text in value.items()}
    unknown = sorted(entry.keys() - {"name", "type", "value"})
    if unknown:
        raise WrongValue(f"expected records with name, type and value, and no {unknown[0]}")
    name, kind, text = (_entry_text(entry, key) for key in ("name", "type", "value"))
    if name.startswith("*"):
        raise WrongValue(f"expected a name in full (clients know no wildcards such as {name})")
    kind = kind.upper()
    if kind not in _ADDRESS_KINDS:
        raise WrongValue(f"expected type A or AAAA for {name} (clients look up nothing else)")
    try:
        address = ip_address(text)
    except ValueError:
        raise WrongValue(f"expected an IP address as the value of {name}") from None
    if not isinstance(address, _ADDRESS_KINDS[kind]):
        raise WrongValue(
            f"expected an {'IPv6' if kind == 'AAAA' else 'IPv4'} address for {name}, type {kind}"
        )
    return DNSRecord(name=_name(name), type=kind, value=str(address))


def _entry_text(entry: Mapping[str, object], key: str) -> str:
    text = entry.get(key, "")
    if not isinstance(text, str) or not (text.strip() or key == "type"):
        raise WrongValue(f"expected {key} as text in each record")
    return text.strip()


def read_records(value: object) -> tuple[DNSRecord, ...]:
    """Records without repetitions. Raises WrongValue, which says of which one."""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise WrongValue("expected a list of records with name, type and value")
    records = []
    for number, entry in enumerate(value, 1):
        try:
            records.append(read_record(entry))
        except WrongValue as wrong:
            raise WrongValue(f"record {number}: {wrong}") from None
    return tuple(dict.fromkeys(records))


def _name(text: str) -> str:
    name = text.strip().lower().removesuffix(".")
    if len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise WrongValue(f"expected a domain name such as corp.example.org instead of {text!r}")
    return name


def _words(value: object) -> list[object]:
    """A list, or text with one or more words: that is all an environment variable can hold."""
    if value is None:
        return []
    if isinstance(value, str):
        return [*value.replace(",", " ").split()]
    if not isinstance(value, list):
        raise WrongValue("expected a list")
    return value


def _read_domains(value: object) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_name(read_text(one)) for one in _words(value)))


def _read_nameservers(value: object) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_read_nameserver(one) for one in _words(value)))


def _read_nameserver(value: object) -> str:
    text = read_text(value)
    if _is_address(text) or _is_address_and_port(text) or _is_url(text):
        return text
    raise WrongValue(
        f"expected IP addresses, or URLs such as https://dns.nextdns.io/abc123 ({text!r} is neither)"
    )


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _is_address_and_port(text: str) -> bool:
    host, _, port = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    return _is_address(host) and port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536


def _is_url(text: str) -> bool:
    try:
        url = urlsplit(text)
    except ValueError:
        return False
    return url.scheme in ("https", "http") and bool(url.hostname)


def _read_split(value: object) -> dict[str, tuple[str, ...]]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise WrongValue("expected domains, each with a list of nameservers")
    return {_name(read_text(domain)): _read_nameservers(servers) for domain, servers in value.items()}


def _read_optional_path(value: object) -> Path | None:
    return None if value in (None, "") else read_path(value)


FIELDS: dict[str, tuple[str, Callable[[object], Any]]] = {
    "dns.magic_dns": ("magic_dns", read_bool),
    "dns.base_domain": ("base_domain", read_base_domain),
    "dns.override_local_dns": ("overrides_local", read_bool),
    "dns.nameservers.global": ("nameservers", _read_nameservers),
    "dns.nameservers.split": ("split", _read_split),
    "dns.search_domains": ("search_domains", _read_domains),
    "dns.extra_records": ("extra_records", read_records),
    "dns.extra_records_path": ("extra_records_path", _read_optional_path),
}
"""Key in the file -> field of DnsConfig, and its reader."""
