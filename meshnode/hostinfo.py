"""What this node says of itself to the coordinator (control protocol §7.3)."""

from __future__ import annotations

import platform
import socket
from functools import cache
from pathlib import Path

import msgspec

from meshnode import __version__
from meshnode.prefs import Prefs
from meshproto.messages import Hostinfo, NetInfo

OS_RELEASE_FILES = (Path("/etc/os-release"), Path("/usr/lib/os-release"))
FALLBACK_HOSTNAME = "meshnode"


def describe_host(prefs: Prefs, net_info: NetInfo | None = None) -> Hostinfo:
    """The inventory of this machine with what the preferences offer and what its network is like."""
    return msgspec.structs.replace(
        _inventory(),
        hostname=prefs.hostname or own_hostname(),
        routable_ips=prefs.advertised,
        net_info=net_info,
    )


def own_hostname() -> str:
    """The host's name without its domain."""
    return socket.gethostname().partition(".")[0] or FALLBACK_HOSTNAME


@cache
def _inventory() -> Hostinfo:
    release = _os_release()
    return Hostinfo(
        ipn_version=__version__,
        os="linux",
        os_version=platform.release(),
        distro=release.get("ID", ""),
        distro_version=release.get("VERSION_ID", ""),
        distro_code_name=release.get("VERSION_CODENAME", ""),
        machine=platform.machine(),
        go_arch={"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
        no_logs_no_support=True,
        userspace=False,
        userspace_router=False,
    )


def _os_release() -> dict[str, str]:
    for file in OS_RELEASE_FILES:
        try:
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        pairs = (line.partition("=") for line in lines if "=" in line and not line.startswith("#"))
        return {name.strip(): value.strip().strip("\"'") for name, _, value in pairs}
    return {}
