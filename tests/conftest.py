"""What every test shares: what privileged tests need, and the logs of a lab in the report of a failure."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.lacking import lacking
from tests.netlab.lab import open_labs

# Examples are judged by what they do, never by how long a shared machine took over them. CI draws the same
# examples every time; a person's runs look for new ones.
settings.register_profile(
    "house",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
)
settings.load_profile("house")

pytest_plugins = ["tests.relay_certificates"]

# The programs that tests with a marker call, and the Debian package of each.
PROGRAMS = {
    "system": {
        "ip": "iproute2",
        "nft": "nftables",
        "ping": "iputils-ping",
        "sysctl": "procps",
        "tcpdump": "tcpdump",
        "curl": "curl",
        "iperf3": "iperf3",
    },
    "interop": {
        "ip": "iproute2",
        "ping": "iputils-ping",
        "tcpdump": "tcpdump",
        "wg": "wireguard-tools",
        "wireguard-go": "wireguard-go",
        "stun": "stun-client",
        "turnutils_stunclient": "coturn",
        "miniupnpd": "miniupnpd-nftables",
    },
}


def missing_for(marker: str) -> list[str]:
    """What this machine lacks for the tests with this marker, in words for a person."""
    missing = [] if os.geteuid() == 0 else ["root"]
    if not Path("/dev/net/tun").exists():
        missing.append("/dev/net/tun")
    wanted = PROGRAMS[marker].items()
    missing += [f"{program} (package {package})" for program, package in wanted if not shutil.which(program)]
    return missing


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Privileged tests say what they lack: as a failure where CI is set, as a skip on a person's machine."""
    for marker in PROGRAMS:
        if item.get_closest_marker(marker) and (missing := missing_for(marker)):
            reason = f"{marker} tests need {', '.join(missing)}; `make setup` as root installs programs"
            lacking(reason)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those with programs in networks come first: they wait for seconds, which others fill, and none is left
    to be waited for when all others are done."""
    items.sort(key=lambda item: not any(item.get_closest_marker(marker) for marker in PROGRAMS))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the programs of the open labs wrote, when a test that uses them failed."""
    report = yield
    if report.failed:
        report.sections += [(f"programs in lab {lab.id}", lab.report()) for lab in open_labs]
    return report
