"""The configuration: Headscale's key names, checked one by one, every mistake named with its key and the fix.

`load` reads `/etc/coordinator/config.yaml` or the file it is given; without any file the defaults hold. A
key that Headscale has and this version does nothing about is warned of, and refused where passing over it
would be unsafe.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

import yaml

from coordinator.config_values import (
    WrongValue,
    one_of,
    read_allocation,
    read_ephemeral_timeout,
    read_expiry,
    read_listen_address,
    read_path,
    read_permission,
    read_prefix_v4,
    read_prefix_v6,
    read_probe_interval,
    read_probe_timeout,
    read_seconds,
    read_url,
)
from coordinator.dns_config import FIELDS as _DNS_FIELDS
from coordinator.dns_config import DnsConfig
from coordinator.dns_settings import reverse_zones
from coordinator.errors import StartupError
from coordinator.model import IPNetwork
from coordinator.relay_config import FIELDS as _RELAY_FIELDS
from coordinator.relay_config import RelayConfig
from coordinator.router_health import ProbeTimes
from coordinator.settings import NetworkSettings
from derp.listen import ListenAddress
from meshproto.routes import CGNAT_RANGE, ULA_RANGE

DEFAULT_PATH = Path("/etc/coordinator/config.yaml")
DEFAULT_LISTEN_ADDRESS = ListenAddress("0.0.0.0", 8080)


@dataclass(frozen=True, slots=True)
class Config:
    """The effective configuration. `warnings` are lines for the person who starts the coordinator.

    An empty `server_url` means: the address at which each node reached us.
    """

    server_url: str = ""
    listen_addr: ListenAddress = DEFAULT_LISTEN_ADDRESS
    state_dir: Path = Path("/var/lib/coordinator")
    noise_private_key_path: Path | None = None
    database_path: Path | None = None
    prefix_v4: IPv4Network | None = CGNAT_RANGE
    prefix_v6: IPv6Network | None = ULA_RANGE
    random_allocation: bool = False
    unix_socket: Path = Path("/run/coordinator/coordinator.sock")
    unix_socket_permission: int = 0o770
    ephemeral_inactivity_timeout: timedelta = timedelta(minutes=2)
    node_expiry: timedelta | None = None
    dns: DnsConfig = field(default_factory=DnsConfig)
    probes: ProbeTimes = field(default_factory=ProbeTimes)
    log_level: str = "info"
    log_format: str = "text"
    cli_timeout: float = 5.0
    relay: RelayConfig = field(default_factory=RelayConfig)
    warnings: tuple[str, ...] = field(default=(), compare=False)

    @property
    def private_key_file(self) -> Path:
        """The server's Noise key."""
        return self.noise_private_key_path or self.state_dir / "noise_private.key"

    @property
    def database_file(self) -> Path:
        """The SQLite database."""
        return self.database_path or self.state_dir / "db.sqlite"

    @property
    def relay_private_key_file(self) -> Path:
        """The embedded relay's key."""
        return self.relay.private_key_path or self.state_dir / "derp_server_private.key"

    @property
    def network(self) -> NetworkSettings:
        """The part that the state and the maps are made with."""
        return NetworkSettings(
            server_url=self.server_url,
            prefix_v4=self.prefix_v4,
            prefix_v6=self.prefix_v6,
            random_allocation=self.random_allocation,
            base_domain=self.dns.base_domain,
            dns=self.dns.settings(reverse_zones(self.prefix_v4, self.prefix_v6)),
            node_expiry=self.node_expiry,
        )


def load(path: Path | None = None) -> Config:
    """The configuration in `path`, else in the default file if there is one, else the defaults.

    Raises StartupError.
    """
    if path is None:
        if not DEFAULT_PATH.exists():
            return Config()
        path = DEFAULT_PATH
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise StartupError(
            f"configuration {path}: {error.strerror}; give another file with --config"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StartupError(f"configuration {path} is not YAML: {_yaml_problem(error)}") from error
    return parse(document, path)


def parse(document: object, path: Path) -> Config:
    """The configuration in a parsed YAML document. Relative paths are relative to the directory of `path`.

    Raises StartupError with one line for each mistake.
    """
    if document is None:
        return Config()
    if not isinstance(document, Mapping):
        raise StartupError(f"configuration {path}: expected `key: value` lines at the top")
    values: dict[str, Any] = {}
    relay_values: dict[str, Any] = {}
    dns_values: dict[str, Any] = {}
    probe_values: dict[str, Any] = {}
    sections = (
        (_FIELDS, values),
        (_RELAY_FIELDS, relay_values),
        (_DNS_FIELDS, dns_values),
        (_PROBE_FIELDS, probe_values),
    )
    problems: list[str] = []
    warnings: list[str] = []
    for key, value in _leaves(document, problems):
        section = next((one for one in sections if key in one[0]), None)
        if section is not None:
            fields, into = section
            name, read = fields[key]
            try:
                into[name] = read(value)
            except WrongValue as wrong:
                problems.append(f"{key}: {wrong}, not {value!r}")
        elif key in _UNSAFE_TO_IGNORE and _is_set(key, value):
            problems.append(f"{key}: {_UNSAFE_TO_IGNORE[key]}")
        elif key not in _UNSAFE_TO_IGNORE and _is_set(key, value):
            warnings.append(f"{key} has no effect in this version")
    if values.keys() & {"prefix_v4", "prefix_v6"}:
        # Whoever names one family and not the other wants only that one.
        values = {"prefix_v4": None, "prefix_v6": None} | values
    values["relay"] = RelayConfig(**relay_values)
    values["dns"] = DnsConfig(**dns_values)
    values["probes"] = ProbeTimes(**probe_values)
    if not problems:
        problems += _contradictions(values)
    if problems:
        raise StartupError("\n".join(f"configuration {path}: {problem}" for problem in problems))
    config = Config(**values, warnings=tuple(warnings + _doubts(values)))
    return _with_absolute_paths(config, path.resolve().parent)


def _leaves(section: Mapping[Any, Any], problems: list[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values; what is unknown or no section goes into `problems`."""
    for name, value in section.items():
        key = f"{prefix}{name}"
        if key in _KNOWN or key in _WHOLE_SECTIONS:
            yield key, value
        elif any(known.startswith(f"{key}.") for known in _KNOWN):
            if isinstance(value, Mapping):
                yield from _leaves(value, problems, f"{key}.")
            elif value is not None:
                problems.append(f"{key}: expected a section with keys below it, not {value!r}")
        else:
            close = difflib.get_close_matches(key, [*_KNOWN, *_WHOLE_SECTIONS], n=1)
            hint = f"; did you mean {close[0]}?" if close else "; remove it"
            problems.append(f"unknown key {key}{hint}")


def _contradictions(values: Mapping[str, Any]) -> list[str]:
    config = Config(**values)
    problems = []
    if config.prefix_v4 is None and config.prefix_v6 is None:
        problems.append("prefixes: at least one of v4 and v6 is needed")
    if 0 < config.probes.interval_s <= config.probes.timeout_s:
        problems.append("node.routes.ha.probe_timeout: expected less than node.routes.ha.probe_interval")
    return problems + config.dns.contradictions(config.server_url)


def _doubts(values: Mapping[str, Any]) -> list[str]:
    config = Config(**values)
    ranges: tuple[tuple[str, IPNetwork | None, IPNetwork], ...] = (
        ("prefixes.v4", config.prefix_v4, CGNAT_RANGE),
        ("prefixes.v6", config.prefix_v6, ULA_RANGE),
    )
    doubts = [
        f"{key}: {prefix} is outside {expected}; Tailscale's clients will not work with it"
        for key, prefix, expected in ranges
        if prefix is not None and not _inside(prefix, expected)
    ]
    if config.relay.is_without_relays:
        doubts.append(
            "derp: there is no relay; nodes that cannot reach each other directly will not reach each other, "
            "and Tailscale's clients will not start"
        )
    return doubts


def _inside(prefix: IPNetwork, expected: IPNetwork) -> bool:
    return prefix.network_address in expected and prefix.prefixlen >= expected.prefixlen


def _with_absolute_paths(config: Config, directory: Path) -> Config:
    def absolute(path: Path) -> Path:
        return directory / path

    return replace(
        config,
        state_dir=absolute(config.state_dir),
        unix_socket=absolute(config.unix_socket),
        noise_private_key_path=(
            None if config.noise_private_key_path is None else absolute(config.noise_private_key_path)
        ),
        database_path=None if config.database_path is None else absolute(config.database_path),
        relay=config.relay.with_absolute_paths(directory),
        dns=config.dns.with_absolute_paths(directory),
    )


# Key in the file -> field of Config, and its reader.
_FIELDS: dict[str, tuple[str, Callable[[object], Any]]] = {
    "server_url": ("server_url", read_url),
    "listen_addr": ("listen_addr", read_listen_address),
    "state_dir": ("state_dir", read_path),
    "noise.private_key_path": ("noise_private_key_path", read_path),
    "prefixes.v4": ("prefix_v4", read_prefix_v4),
    "prefixes.v6": ("prefix_v6", read_prefix_v6),
    "prefixes.allocation": ("random_allocation", read_allocation),
    "database.sqlite.path": ("database_path", read_path),
    "unix_socket": ("unix_socket", read_path),
    "unix_socket_permission": ("unix_socket_permission", read_permission),
    "ephemeral_node_inactivity_timeout": ("ephemeral_inactivity_timeout", read_ephemeral_timeout),
    "node.ephemeral.inactivity_timeout": ("ephemeral_inactivity_timeout", read_ephemeral_timeout),
    "node.expiry": ("node_expiry", read_expiry),
    "log.level": ("log_level", one_of("debug", "info", "warn", "warning", "error")),
    "log.format": ("log_format", one_of("text", "json")),
    "cli.timeout": ("cli_timeout", read_seconds),
}

_PROBE_FIELDS: dict[str, tuple[str, Callable[[object], Any]]] = {
    "node.routes.ha.probe_interval": ("interval_s", read_probe_interval),
    "node.routes.ha.probe_timeout": ("timeout_s", read_probe_timeout),
}

# Headscale's keys that this version does not act on, and that must not be passed over in silence.
_UNSAFE_TO_IGNORE = {
    "database.type": "this version stores in sqlite only; set it to sqlite",
    "oidc": "this version has no OIDC login; remove the section",
    "policy.mode": "this version has no policy and allows everything; remove it",
    "policy.path": "this version has no policy and allows everything; remove it",
    "tls_cert_path": "this version does not speak TLS; remove it and put a reverse proxy in front",
    "tls_key_path": "this version does not speak TLS; remove it and put a reverse proxy in front",
    "tls_letsencrypt_hostname": "this version does not speak TLS; remove it and put a reverse proxy in front",
}
_HARMLESS_VALUES: dict[str, tuple[object, ...]] = {
    "database.type": ("sqlite", "sqlite3"),
    "policy.mode": ("file",),
}

# Headscale's keys that only lose their effect. Those of _WHOLE_SECTIONS are not looked into.
_WITHOUT_EFFECT = frozenset(
    {
        "acme_email",
        "acme_url",
        "cli.address",
        "cli.api_key",
        "cli.insecure",
        "database.debug",
        "database.sqlite.wal_autocheckpoint",
        "database.sqlite.write_ahead_log",
        "disable_check_updates",
        "grpc_allow_insecure",
        "grpc_listen_addr",
        "metrics_listen_addr",
        "preauth_keys.revoked_retention",
        "randomize_client_port",
        "tls_letsencrypt_cache_dir",
        "tls_letsencrypt_challenge_type",
        "tls_letsencrypt_listen",
        "trusted_proxies",
    }
)
_WHOLE_SECTIONS = frozenset(
    {
        "auto_update",
        "database.gorm",
        "database.postgres",
        "logtail",
        "oidc",
        "taildrop",
        "tuning",
    }
)
_KNOWN = frozenset(
    {*_FIELDS, *_RELAY_FIELDS, *_DNS_FIELDS, *_PROBE_FIELDS, *_UNSAFE_TO_IGNORE, *_WITHOUT_EFFECT}
)


def _is_set(key: str, value: object) -> bool:
    """Whether the value asks for something."""
    return (
        value not in (None, "", False)
        and value != {}
        and value != []
        and value not in _HARMLESS_VALUES.get(key, ())
    )


def _yaml_problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or "not text"
    return f"line {mark.line + 1}: {problem}" if mark is not None else str(problem)
