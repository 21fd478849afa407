"""The rules of the house that a reader of one file cannot see: who imports whom, and what a core never does.

The sources are parsed, not imported, so a rule also holds for a module that does not load on this machine.
docs/architecture.md has the picture of which these are the lines.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("meshproto", "stun", "derp", "meshnode", "coordinator")

# Ours that each package may build on, besides itself. Standard library and dependencies are not listed.
MAY_USE: dict[str, set[str]] = {
    "meshproto": set(),
    "stun": set(),
    "derp": {"meshproto"},
    "meshnode": {"meshproto", "derp", "stun"},
    "coordinator": {"meshproto", "derp", "stun"},
}


class Layer(Enum):
    """What a module is allowed to be."""

    PURE = "a pure core: bytes and the time go in, bytes and events come out"
    ADAPTER = "an adapter of the operating system or a store"
    SHELL = "an asyncio shell: sockets, tasks and timers around a core"
    COMPOSITION = "composition or command line: it puts the others together"


# The layer of a module is that of the longest entry that is the module or a package around it.
LAYERS: dict[str, Layer] = {
    "meshproto": Layer.PURE,
    "stun": Layer.SHELL,
    "stun.messages": Layer.PURE,
    "stun.ratelimit": Layer.PURE,
    "stun.responder": Layer.PURE,
    "stun.transactions": Layer.PURE,
    "stun.__main__": Layer.COMPOSITION,
    "derp": Layer.SHELL,
    "derp.__main__": Layer.COMPOSITION,
    "derp.app": Layer.COMPOSITION,
    "derp.buckets": Layer.PURE,
    "derp.cli": Layer.COMPOSITION,
    "derp.client_core": Layer.PURE,
    "derp.counters": Layer.PURE,
    "derp.drops": Layer.PURE,
    "derp.files": Layer.ADAPTER,
    "derp.frame_reader": Layer.PURE,
    "derp.frames": Layer.PURE,
    "derp.keyfile": Layer.ADAPTER,
    "derp.liveness": Layer.PURE,
    "derp.login": Layer.PURE,
    "derp.member": Layer.PURE,
    "derp.metrics": Layer.PURE,
    "derp.outbox": Layer.PURE,
    "derp.registry": Layer.PURE,
    "derp.relay_node": Layer.PURE,
    "derp.server_core": Layer.PURE,
    "derp.session": Layer.PURE,
    "derp.tcp_info": Layer.ADAPTER,
    "derp.upgrade": Layer.PURE,
    "derp.write_watch": Layer.PURE,
    "meshnode": Layer.COMPOSITION,
    "meshnode.wireguard": Layer.PURE,
    "meshnode.dataplane": Layer.PURE,
    "meshnode.dataplane_document": Layer.PURE,
    "meshnode.netmap": Layer.PURE,
    "meshnode.disco": Layer.PURE,
    "meshnode.netcheck": Layer.PURE,
    "meshnode.netcheck_runner": Layer.SHELL,
    "meshnode.probes": Layer.SHELL,
    "meshnode.paths": Layer.PURE,
    "meshnode.relay_nodes": Layer.PURE,
    "meshnode.prefs": Layer.PURE,
    "meshnode.backend_state": Layer.PURE,
    "meshnode.status": Layer.PURE,
    "meshnode.metrics": Layer.PURE,
    "meshnode.path_document": Layer.PURE,
    "meshnode.tsmp_messages": Layer.PURE,
    "meshnode.tsmp": Layer.SHELL,
    "meshnode.icmp_ping": Layer.SHELL,
    "meshnode.inner_socket": Layer.ADAPTER,
    "meshnode.state": Layer.ADAPTER,
    "meshnode.hostinfo": Layer.ADAPTER,
    "meshnode.local_address": Layer.ADAPTER,
    "meshnode.relays": Layer.SHELL,
    "meshnode.linux": Layer.ADAPTER,
    "meshnode.linux.marks": Layer.PURE,
    "meshnode.linux.netlink_events": Layer.PURE,
    "meshnode.linux.netstate": Layer.PURE,
    "meshnode.linux.nft_json": Layer.PURE,
    "meshnode.linux.plan": Layer.PURE,
    "meshnode.linux.router_config": Layer.PURE,
    "meshnode.linux.ruleset": Layer.PURE,
    "meshnode.linux.sysctl_plan": Layer.PURE,
    "meshnode.engine": Layer.SHELL,
    "meshnode.control": Layer.SHELL,
    "meshnode.notifications": Layer.SHELL,
    "meshnode.portmap": Layer.SHELL,
    "meshnode.portmap.igd": Layer.PURE,
    "meshnode.portmap.mapping": Layer.PURE,
    "meshnode.portmap.natpmp": Layer.PURE,
    "meshnode.portmap.pcp": Layer.PURE,
    "meshnode.portmap.ssdp": Layer.PURE,
    "meshnode.portmap.timing": Layer.PURE,
    "coordinator": Layer.SHELL,
    "coordinator.administration": Layer.PURE,
    "coordinator.apikeys": Layer.PURE,
    "coordinator.authkeys": Layer.PURE,
    "coordinator.changes": Layer.PURE,
    "coordinator.channel": Layer.PURE,
    "coordinator.derp_map": Layer.PURE,
    "coordinator.dns_settings": Layer.PURE,
    "coordinator.errors": Layer.PURE,
    "coordinator.ipalloc": Layer.PURE,
    "coordinator.mapper": Layer.PURE,
    "coordinator.model": Layer.PURE,
    "coordinator.names": Layer.PURE,
    "coordinator.nodeviews": Layer.PURE,
    "coordinator.peerdiff": Layer.PURE,
    "coordinator.pending": Layer.PURE,
    "coordinator.policy": Layer.PURE,
    "coordinator.presence": Layer.PURE,
    "coordinator.primaries": Layer.PURE,
    "coordinator.registration": Layer.PURE,
    "coordinator.relay_certificate": Layer.PURE,
    "coordinator.relay_tls": Layer.ADAPTER,
    "coordinator.reports": Layer.PURE,
    "coordinator.router_health": Layer.PURE,
    "coordinator.settings": Layer.PURE,
    "coordinator.store": Layer.PURE,
    "coordinator.visibility": Layer.PURE,
    "coordinator.db": Layer.ADAPTER,
    "coordinator.schema": Layer.ADAPTER,
    "coordinator.migrations": Layer.ADAPTER,
    "coordinator.app": Layer.COMPOSITION,
    "coordinator.cli": Layer.COMPOSITION,
    "coordinator.__main__": Layer.COMPOSITION,
}

# Who may import whom inside a package.
BELOW: dict[Layer, set[Layer]] = {
    Layer.PURE: {Layer.PURE},
    Layer.ADAPTER: {Layer.PURE, Layer.ADAPTER},
    Layer.SHELL: {Layer.PURE, Layer.ADAPTER, Layer.SHELL},
    Layer.COMPOSITION: set(Layer),
}

# What a pure core is given instead of taking it.
IMPURE: dict[str, str] = {
    "asyncio": "tasks and timers belong to a shell; a core has next_timeout() and handle_timeout(now)",
    "socket": "sockets belong to a shell; a core takes and returns bytes",
    "ssl": "sockets belong to a shell; a core takes and returns bytes",
    "select": "waiting belongs to a shell",
    "threading": "a core has one caller at a time and needs no lock",
    "subprocess": "programs are started by meshnode.linux.runner",
    "time": "the caller passes now (monotonic) and wall",
    "random": "the caller passes entropy",
    "secrets": "the caller passes entropy",
    "os": "the operating system is reached through adapters; entropy is passed in",
    "logging": "a core reports events and drop reasons; the shell logs them",
}

# The one door to other programs, and the one that starts our own daemon.
MAY_START_PROGRAMS = {"meshnode.linux.runner", "meshnode.cli.start_daemon"}
STARTS_PROGRAMS = {
    "subprocess",
    "asyncio.subprocess",
    "asyncio.create_subprocess_exec",
    "asyncio.create_subprocess_shell",
    "os.system",
    "os.popen",
    "os.posix_spawn",
    "os.posix_spawnp",
}


def modules() -> dict[str, Path]:
    """Every module of ours by its dotted name; a package by the name of its directory."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported_names(source: str, module: str, is_package: bool) -> set[str]:
    """Everything the source imports, dotted and absolute: `from a import b` gives `a` and `a.b`.

    Names used through a module (`os.system`) are included, whatever name the module was imported under.
    """
    names: set[str] = set()
    alias: dict[str, str] = {}
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                names.add(name.name)
                alias[name.asname or name.name.split(".")[0]] = (
                    name.name if name.asname else name.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, module, is_package)
            names.add(base)
            for name in node.names:
                names.add(f"{base}.{name.name}")
                alias[name.asname or name.name] = f"{base}.{name.name}"
    return names | set(_attributes(tree, alias))


def _absolute(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    if node.level == 0:
        return node.module or ""
    parts = module.split(".")
    parts = parts[: len(parts) - node.level + (1 if is_package else 0)]
    return ".".join([*parts, *([node.module] if node.module else [])])


def _attributes(tree: ast.AST, alias: dict[str, str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in alias:
            yield f"{alias[node.value.id]}.{node.attr}"


def imports_of(module: str) -> set[str]:
    path = MODULES[module]
    return imported_names(path.read_text(), module, path.name == "__init__.py")


def layer_of(module: str) -> Layer:
    while module not in LAYERS:
        module = module.rpartition(".")[0]
    return LAYERS[module]


def ours(names: set[str]) -> set[str]:
    """Those names that are modules of this project."""
    return names & MODULES.keys()


@pytest.mark.parametrize("module", MODULES)
def test_packages_build_only_on_what_lies_below_them(module: str) -> None:
    package = module.split(".")[0]
    used = {name.split(".")[0] for name in imports_of(module)} & set(PACKAGES)
    wrong = used - MAY_USE[package] - {package}
    assert not wrong, (
        f"{module} imports {', '.join(sorted(wrong))}: {package} may use {MAY_USE[package] or 'none'}"
    )


@pytest.mark.parametrize("module", MODULES)
def test_layers_point_inwards(module: str) -> None:
    layer = layer_of(module)
    package = module.split(".")[0]
    within = [name for name in ours(imports_of(module)) if name.split(".")[0] == package and name != package]
    wrong = [name for name in within if layer_of(name) not in BELOW[layer]]
    reasons = "; ".join(f"{name} is {layer_of(name).value}" for name in sorted(wrong))
    assert not wrong, f"{module} is {layer.value}, and imports what it must not know: {reasons}"


@pytest.mark.parametrize("module", [module for module in MODULES if layer_of(module) is Layer.PURE])
def test_a_pure_module_takes_nothing_it_should_be_given(module: str) -> None:
    taken = {name.split(".")[0] for name in imports_of(module)} & IMPURE.keys()
    assert not taken, "; ".join(f"{module} imports {name}: {IMPURE[name]}" for name in sorted(taken))


@pytest.mark.parametrize("module", [module for module in MODULES if module not in MAY_START_PROGRAMS])
def test_other_programs_are_started_in_one_place(module: str) -> None:
    used = {name for name in imports_of(module) if name in STARTS_PROGRAMS}
    assert not used, f"{module} uses {', '.join(sorted(used))}: programs are started by meshnode.linux.runner"


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_it_is(module: str) -> None:
    assert ast.get_docstring(ast.parse(MODULES[module].read_text())), f"{module} has no docstring"


def test_no_directory_with_sources_is_missing_its_package_docstring_file() -> None:
    directories = {path.parent for path in MODULES.values()}
    without = [str(place.relative_to(ROOT)) for place in directories if not (place / "__init__.py").exists()]
    assert not without, f"no __init__.py in {', '.join(sorted(without))}"


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        ("import time", "time"),
        ("import os.path as p", "os.path"),
        ("from asyncio import subprocess", "asyncio.subprocess"),
        ("import os as system\nsystem.popen('x')", "os.popen"),
        ("def f():\n    import random", "random"),
        ("from . import sibling", "meshnode.linux.sibling"),
        ("from ..engine import tun", "meshnode.engine.tun"),
    ],
)
def test_the_reader_of_imports_sees(source: str, seen: str) -> None:
    assert seen in imported_names(source, "meshnode.linux.module", is_package=False)


def test_the_reader_of_imports_resolves_inside_a_package_file() -> None:
    assert "meshnode.linux.sibling" in imported_names(
        "from .sibling import x", "meshnode.linux", is_package=True
    )
