"""Undo what a crashed daemon left behind."""

from __future__ import annotations

from pathlib import Path

from meshnode.linux.router import LinuxRouter


async def clean_up(interface: str, state_dir: Path) -> tuple[str, ...]:
    """Remove rules, routes, firewall table and addresses of this interface's node; put back kernel settings.

    Needs nothing but the two arguments, and the interface need not exist. Safe where there is nothing to do,
    and while another interface's node runs; touches nothing without our protocol number or our name.
    Returns what it changed, a line each. Raises RouterError with what is still there, after everything else.
    """
    router = LinuxRouter(interface, state_dir)
    await router.close()
    return router.changes
