"""`make lab NET=cgnat-both`: two nodes in a network of the catalogue, and a shell to look around.

In the shell every host of the lab is a command: `left meshnode ping right`, `left-router nft list ruleset`,
or `left` alone for a shell in it. When the shell ends everything is removed. Without a terminal the commands
come from standard input.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.netlab.lab import Lab
from tests.netlab.natmesh import NatMesh
from tests.netlab.networks import KINDS, NETWORKS, Network, find
from tests.netlab.programs import BIN
from tests.netlab.sites import Place

LAB_NAME = "natlab"


def list_names(console: Console) -> None:
    """All that NET can be, with a line for each."""
    networks = Table("NET=", "", title="Networks of two nodes", title_justify="left", box=None)
    for name, network in NETWORKS.items():
        networks.add_row(name, network.about)
    kinds = Table("kind", "", title="\nOr two kinds of places, NET=kind,kind", title_justify="left", box=None)
    for name, kind in KINDS.items():
        kinds.add_row(name, kind.about)
    console.print(networks)
    console.print(kinds)


def write_commands(mesh: NatMesh) -> Path:
    """A directory with a command for each host, which is a shell, or runs a command, in it."""
    directory = mesh.lab.directory / "bin"
    directory.mkdir()
    sockets = {member.name: member.node.socket for member in mesh.members.values()}
    for name, host in mesh.lab.hosts.items():
        lines = [
            "#!/bin/sh",
            f"# {name} [COMMAND...]: a shell, or a command, in {name}.",
            f'export PATH={shlex.quote(str(BIN))}:"$PATH"',  # in there, `coordinator` is the program
        ]
        if name in sockets:
            lines.append(f"export MESHNODE_SOCKET={shlex.quote(str(sockets[name]))}")
        if name == mesh.coordinator.host.name:
            lines.append(f"export COORDINATOR_CONFIG={shlex.quote(str(mesh.coordinator.config))}")
        lines += [
            f'[ $# -gt 0 ] || {{ export PS1="{name}# "; set -- bash --norc; }}',
            f'exec {shlex.join(host.argv())} "$@"',
        ]
        command = directory / name
        command.write_text("\n".join(lines) + "\n")
        command.chmod(0o755)
    return directory


def describe(console: Console, mesh: NatMesh, network: Network) -> None:
    """What was built, and what to do with it."""
    table = Table("host", "addresses", "what it is", box=None, title=network.about, title_justify="left")
    table.add_row("coordinator", mesh.coordinator.host.address_text(), "coordinator, relay, STUN")
    seen = set()
    for member in mesh.members.values():
        place = member.place
        own = [member.ipv4, place.host.address_text()]
        table.add_row(member.name, "  ".join(own), "meshnode; the first address is its own in the mesh")
        for router in place.routers:
            if router.name not in seen:
                table.add_row(router.name, router.address_text(), _what(place, router.name))
            seen.add(router.name)
    console.print(table)
    console.print(
        "\nEvery host is a command here, for a shell in it or with a command to run there:\n\n"
        "  left meshnode ping --until-direct right\n"
        "  left meshnode status\n"
        "  right meshnode debug paths left\n"
        "  left meshnode netcheck\n"
        "  coordinator coordinator nodes list\n"
    )


def _what(place: Place, router: str) -> str:
    site = place.site
    if place.carrier is not None and router == place.carrier.router.name:
        return "the carrier's NAT"
    assert site.nat is not None
    behaviour = site.nat.behaviour
    words = f"mapping {behaviour.mapping.value}, filtering {behaviour.filtering.value}"
    return f"the home's router: {words}, ports {behaviour.ports.value}"


def open_shell(mesh: NatMesh, name: str) -> int:
    """Let the person look around; the exit status of what they did."""
    commands = write_commands(mesh)
    environment = {**os.environ, "PATH": f"{commands}:{BIN}:{os.environ['PATH']}", "PS1": f"{name}# "}
    if sys.stdin.isatty():
        old = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for what runs in the shell
        try:
            subprocess.run(["bash", "--norc"], env=environment, check=False)
        finally:
            signal.signal(signal.SIGINT, old)
        return 0
    return subprocess.run(["bash"], env=environment, check=False).returncode


def run(console: Console, name: str, network: Network) -> int:
    """Build, let look around, remove."""
    with Lab(LAB_NAME) as lab:
        with console.status("building the network, starting a coordinator and two nodes"):
            mesh = NatMesh.of(lab, network)
            mesh.start()
        describe(console, mesh, network)
        status = open_shell(mesh, name)
    left = Lab.leftovers(lab.id)
    console.print(f"Left behind: {', '.join(left) or 'nothing'}")
    return 1 if left else status


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="make lab", description=__doc__)
    parser.add_argument("name", nargs="?", default="", metavar="NET")
    name = parser.parse_args().name
    console = Console(highlight=False, stderr=not sys.stdout.isatty())
    try:
        network = find(name)
    except KeyError as unknown:
        if name:
            console.print(f"There is no network {unknown}.\n", style="red")
        list_names(console)
        return 2 if name else 0
    if os.geteuid() != 0:
        console.print("make lab needs root: it makes network namespaces. Run: sudo make lab …", style="red")
        return 1
    try:
        return run(console, name, network)
    except AssertionError as failure:  # what the lab raises when something does not come true
        console.print(
            "\n".join([str(failure), *getattr(failure, "__notes__", ())]), style="red", markup=False
        )
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
