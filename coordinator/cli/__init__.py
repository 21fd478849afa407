"""The `coordinator` command: Headscale's verbs, spoken to the running server over its unix socket."""

from __future__ import annotations


def main() -> int:
    """Run the command line of this process. Returns the exit status: 0, or 1 for any failure."""
    from coordinator.cli.root import run

    return run()
