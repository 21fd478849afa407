"""Where a daemon keeps and offers things: flags, then the configuration file, then the defaults.

The file is YAML with the names of the flags: `state_dir`, `socket`, `tun`, `port`, `mtu`, `port_mapping`,
`spray`, `verbose`. What a person sets about the node itself (routes, exit node, host name) is not in it:
those are preferences, see `meshnode set`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from meshnode.linux.marks import ownership
from meshnode.linux.router_config import MAX_MTU, MIN_MTU

DEFAULT_FILE = Path("/etc/meshnode/config.yaml")
"""Read where it exists and no other is named."""
MAX_PORT = 65535


class InvalidConfig(ValueError):
    """A setting that cannot be; the text names it and its source."""


@dataclass(frozen=True, slots=True)
class DaemonConfig:
    """All that a daemon is started with."""

    state_dir: Path = Path("/var/lib/meshnode")
    socket: Path = Path("/run/meshnode/meshnode.sock")
    tun: str = "mesh0"
    """Name of the tunnel's interface."""
    port: int = 41641
    """UDP port of WireGuard; 0 lets the kernel choose."""
    mtu: int = 1280
    """Of the tunnel's interface."""
    port_mapping: bool = True
    """Whether to ask the router for a port that others can reach."""
    spray: bool = True
    """Whether to try hard NATs with many sockets and probes."""
    verbose: bool = False


_KINDS: dict[str, type] = {
    "state_dir": str,
    "socket": str,
    "tun": str,
    "port": int,
    "mtu": int,
    "port_mapping": bool,
    "spray": bool,
    "verbose": bool,
}


def load_config(file: Path | None, flags: dict[str, Any]) -> DaemonConfig:
    """The configuration that holds: `flags` with a value other than None over the file over the defaults.

    Raises InvalidConfig.
    """
    settings = _read(file) if file is not None else _read(DEFAULT_FILE) if DEFAULT_FILE.exists() else {}
    settings |= {name: value for name, value in flags.items() if value is not None}
    for name in ("state_dir", "socket"):
        if name in settings:
            settings[name] = Path(settings[name]).absolute()
    config = replace(DaemonConfig(), **settings)
    _check(config)
    return config


def _read(file: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidConfig(f"cannot read {file}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InvalidConfig(f"{file} is not valid YAML: {reason}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise InvalidConfig(f"{file} must hold settings as `name: value`")
    for name, value in document.items():
        kind = _KINDS.get(name)
        if kind is None:
            raise InvalidConfig(f"{file}: unknown setting {name}; known are {', '.join(_KINDS)}")
        if type(value) is not kind:
            raise InvalidConfig(f"{file}: {name} must be {_NAMES[kind]}, not {value!r}")
    return dict(document)


_NAMES: dict[type, str] = {str: "a text", int: "a number", bool: "true or false"}


def _check(config: DaemonConfig) -> None:
    try:
        ownership(config.tun)
    except ValueError as error:
        raise InvalidConfig(f"--tun: {error}") from error
    if not 0 <= config.port <= MAX_PORT:
        raise InvalidConfig(f"--port: {config.port} is not between 0 and {MAX_PORT}")
    if not MIN_MTU <= config.mtu <= MAX_MTU:
        raise InvalidConfig(f"--mtu: {config.mtu} is not between {MIN_MTU} and {MAX_MTU}")
