"""`make bench`: every benchmark in turn, and the report of them in `docs/performance.md`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from bench import aead, contenders, control, handshake, relay, report, tunnel
from bench.measure import Figure

BENCHES = {
    "aead": aead.main,
    "tunnel": tunnel.main,
    "handshake": handshake.main,
    "relay": relay.main,
    "control": control.main,
}


def flags_of(bench: str, options: argparse.Namespace) -> list[str]:
    """The command line of one benchmark."""
    flags = [f"--{name}" for name in ("json", "quick") if getattr(options, name)]
    if bench in ("tunnel", "handshake"):
        flags += [word for peer in options.peer for word in ("--peer", peer)]
        flags += [word for text in options.only for word in ("--only", text)]
    return flags


def main(argv: Sequence[str] | None = None) -> None:
    """Run them, as `argv` or the command line says."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "benches", nargs="*", metavar="BENCH", help=f"of {', '.join(BENCHES)} (default: all, with the report)"
    )
    parser.add_argument("--json", action="store_true", help="lines of JSON instead of tables")
    parser.add_argument("--quick", action="store_true", help="one short round each, and no report")
    contenders.add_flags(parser)
    options = parser.parse_args(argv)
    for name in options.benches:
        if name not in BENCHES:
            parser.error(f"no benchmark is named {name}")
    figures: list[Figure] = []
    for name in options.benches or BENCHES:
        figures += BENCHES[name](flags_of(name, options))
    if not options.benches and not options.quick and not options.only:
        report.write(figures)


if __name__ == "__main__":
    main()
