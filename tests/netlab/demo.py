"""`make demo`: a coordinator and four nodes at work on this one machine, which is left as it was.

It joins a laptop in a café, a home router, a rented server and an exit node to one mesh, and shows with real
pings and real web pages what that is good for. The network is drawn in `tests.netlab.homelab`.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table

from tests.netlab import Lab, wait_for
from tests.netlab.homelab import (
    CAFE_UPLINK,
    EXIT_UPLINK,
    EXIT_UPLINK_V6,
    HOME_LAN,
    HOME_LAN_ADDRESS,
    SITE_ADDRESS_V6,
    HomeMesh,
    address_seen_by_site,
    fetches_web_page,
)
from tests.netlab.lab import kept_labs
from tests.netlab.programs import BIN

LAB_NAME = "demo"


class Report:
    """What was done and seen: progress while it happens, a table at the end."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.table = Table(title="What was done, and what was seen")
        self.table.add_column("done")
        self.table.add_column("seen")
        self.failed = False

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """One line of progress, with the seconds it took."""
        began = time.monotonic()
        try:
            with self.console.status(what):
                yield
        except BaseException:
            self.console.print(f"[red]✗[/red] {what}", soft_wrap=True)
            raise
        took = time.monotonic() - began
        self.console.print(f"[green]✓[/green] {what} [dim]({took:.1f} s)[/dim]", soft_wrap=True)

    def saw(self, done: str, seen: object, wanted: object) -> None:
        """A row of the table: what was done, what was seen, and whether that is what had to be seen."""
        right = seen == wanted
        self.failed |= not right
        self.table.add_row(
            done, f"[green]{seen}[/green]" if right else f"[red]{seen}[/red] instead of {wanted}"
        )


def tell(mesh: HomeMesh, report: Report) -> None:
    """The story, in the order in which it happens."""
    join_everybody(mesh, report)
    ping_everybody(mesh, report)
    go_around_a_cut(mesh, report)
    open_the_home_lan(mesh, report)
    go_out_by_the_exit_node(mesh, report)
    report.console.print(report.table)
    show(report.console, "laptop: meshnode status", mesh.nodes["laptop"].run("status").stdout)
    shown = mesh.coordinator.run("nodes", "list-routes").stdout
    show(report.console, "coordinator: coordinator nodes list-routes", shown)


def join_everybody(mesh: HomeMesh, report: Report) -> None:
    """One coordinator, four nodes."""
    with report.step("coordinator serve; coordinator users create ana"):
        mesh.start_coordinator()
    for name in mesh.nodes:
        with report.step(f"{name}: meshnode up --login-server … --authkey … {shlex.join(mesh.FLAGS[name])}"):
            mesh.join(name)
    report.saw(
        "nodes in `coordinator nodes list`", len(mesh.coordinator.query("nodes", "list")), len(mesh.nodes)
    )


def ping_everybody(mesh: HomeMesh, report: Report) -> None:
    """Every node to every other, over both families."""
    pairs = mesh.pairs()
    answered = {"IPv4": 0, "IPv6": 0}
    with report.step("pings over IPv4 and IPv6 among all nodes"):
        addresses = {node.name: (node.ipv4, node.ipv6) for node in mesh.nodes.values()}
        for source, destination in pairs:
            for family, address in zip(answered, addresses[destination.name], strict=True):
                source.host.wait_to_reach(address)
                answered[family] += 1
    wanted = f"{len(pairs)} of {len(pairs)}"
    for family, count in answered.items():
        report.saw(f"pings over {family} among all nodes", f"{count} of {len(pairs)}", wanted)


def go_around_a_cut(mesh: HomeMesh, report: Report) -> None:
    """The laptop and home, which are both behind a NAT: directly, over the relay, and directly again."""
    with report.step("laptop and home find a direct path through two routers that let nothing in"):
        wait_for(lambda: way_home(mesh) == "direct", 15, what="a direct path")
    report.saw("laptop to home, each behind its router", way_home(mesh), "direct")
    with report.step("the café drops all UDP"):
        mesh.network.cafe.cut("meta l4proto udp")
        wait_for(lambda: way_home(mesh) == "relay", 15, what="the relay")
    report.saw("… the café drops UDP", way_home(mesh), "relay")
    with report.step("the café lets UDP through again"):
        mesh.network.cafe.mend()
        wait_for(lambda: way_home(mesh) == "direct", 30, what="a direct path again")
    report.saw("… and no longer", way_home(mesh), "direct")


def way_home(mesh: HomeMesh) -> str:
    """How a ping from the laptop to home travels now."""
    laptop, home = mesh.nodes["laptop"], mesh.nodes["home"]
    if not laptop.host.reaches(home.ipv4):
        return "no answer"
    return "direct" if (laptop.peer("home") or {}).get("CurAddr") else "relay"


def open_the_home_lan(mesh: HomeMesh, report: Report) -> None:
    """The page on the home's LAN, before and after its route is approved."""
    laptop = mesh.nodes["laptop"].host
    with report.step("laptop: the page on the home's LAN, before its route is approved"):
        report.saw("page on the home's LAN, route not approved", page(fetches_web_page(laptop)), page(False))
    with report.step(f"coordinator nodes approve-routes --identifier … --routes {HOME_LAN}"):
        mesh.coordinator.approve("home", HOME_LAN)
        wait_for(lambda: fetches_web_page(laptop), 15, what="the page behind the subnet router")
    report.saw("the same page, route approved", page(fetches_web_page(laptop)), page(True))
    caller = mesh.network.web_log.output().splitlines()[-1].split()[0]
    report.saw("caller in the log of that web server", caller, HOME_LAN_ADDRESS)


def page(came: bool) -> str:
    return "fetched" if came else "no answer"


def go_out_by_the_exit_node(mesh: HomeMesh, report: Report) -> None:
    """The laptop's address as a site on the internet sees it."""
    laptop = mesh.nodes["laptop"]
    with report.step("laptop: asks a site on the internet for its own address"):
        report.saw(
            "laptop's address on the internet, no exit node", address_seen_by_site(laptop.host), CAFE_UPLINK
        )
    with report.step(
        "coordinator nodes approve-routes … --routes 0.0.0.0/0,::/0; meshnode set --exit-node exit"
    ):
        mesh.coordinator.approve("exit", "0.0.0.0/0", "::/0")
        wait_for(lambda: (laptop.peer("exit") or {}).get("ExitNodeOption"), 15, what="the exit node's offer")
        laptop.run("set", "--exit-node", "exit")
        wait_for(lambda: address_seen_by_site(laptop.host) == EXIT_UPLINK, 15, what="the exit node's uplink")
    report.saw("… with --exit-node exit, IPv4", address_seen_by_site(laptop.host), EXIT_UPLINK)
    report.saw(
        "… with --exit-node exit, IPv6", address_seen_by_site(laptop.host, SITE_ADDRESS_V6), EXIT_UPLINK_V6
    )
    with report.step("laptop: meshnode set --exit-node="):
        laptop.run("set", "--exit-node=")
        wait_for(lambda: address_seen_by_site(laptop.host) == CAFE_UPLINK, 15, what="the café's uplink")
    report.saw("… after --exit-node=", address_seen_by_site(laptop.host), CAFE_UPLINK)


def show(console: Console, title: str, text: str) -> None:
    console.print(f"\n[bold]{title}[/bold]")
    print(text.rstrip())


def write_entry(mesh: HomeMesh) -> str:
    """A script that opens a shell in a host with both commands ready; its path."""
    path = mesh.network.lab.directory / "enter"
    cases = [
        f"{name}) export MESHNODE_SOCKET={shlex.quote(str(node.socket))};;"
        for name, node in mesh.nodes.items()
    ]
    script = f"""#!/bin/sh
# enter HOST [COMMAND...]: a shell, or a command, in a host of the demo.
host=$1; shift
case $host in
{os.linesep.join(cases)}
coordinator) export COORDINATOR_CONFIG={shlex.quote(str(mesh.coordinator.config))};;
esac
export PATH={shlex.quote(str(BIN))}:"$PATH" PS1="$host# "
[ $# -gt 0 ] || set -- bash --norc
exec ip netns exec "{mesh.network.lab.id}-$host" "$@"
"""
    path.write_text(script)
    path.chmod(0o755)
    return str(path)


def explain_kept(console: Console, mesh: HomeMesh, enter: str) -> None:
    """How to look around in what was left running."""
    console.print("\n[bold]Left running.[/bold] Enter a host, or run a command in it:\n")
    for host in ("coordinator", *mesh.nodes, "web", "site"):
        print(f"  {enter} {host}")
    print(f"\n  {enter} laptop meshnode status\n  {enter} coordinator coordinator nodes list\n")
    console.print("End it with: [bold]make demo-stop[/bold]")


def stop_kept(console: Console) -> None:
    """End every demo that was left running."""
    for lab_id in kept_labs():
        Lab.destroy(lab_id)
        console.print(f"ended {lab_id}")


def main() -> int:
    """Run the demo; the exit status."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave everything running at the end")
    parser.add_argument("--stop", action="store_true", help="end what --keep left, and do nothing else")
    arguments = parser.parse_args()
    console = Console(highlight=False)
    if arguments.stop:
        stop_kept(console)
        return 0
    if os.geteuid() != 0:
        console.print("make demo needs root: it makes network namespaces. Run: sudo make demo", style="red")
        return 1
    try:
        return perform(Report(console), keep=arguments.keep)
    except AssertionError as failure:  # what the lab raises when something does not come true
        console.print(
            "\n".join([str(failure), *getattr(failure, "__notes__", ())]), style="red", markup=False
        )
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; everything is ended and removed again")
        return 128 + signal.SIGINT


def perform(report: Report, *, keep: bool) -> int:
    """The whole demo in a lab of its own; the exit status."""
    with Lab(LAB_NAME, keep=keep) as lab:
        with report.step("a small internet of network namespaces"):
            mesh = HomeMesh(lab)
        tell(mesh, report)
        if keep:
            explain_kept(report.console, mesh, write_entry(mesh))
    if not keep:
        left = Lab.leftovers(lab.id)
        report.failed |= bool(left)
        report.console.print(f"\nLeft behind: {', '.join(left) or 'nothing'}")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
