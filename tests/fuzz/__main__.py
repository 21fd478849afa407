"""Runs fuzz targets one after another and says what came of each: `make fuzz`, docs/fuzzing.md.

The targets of the kernel are built by cargo-fuzz from `native/fuzz`; those in Python run under atheris.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "native"
WORK = NATIVE / "fuzz"
"""Corpora and the inputs that failed are here, of both kinds of targets, where cargo-fuzz has them."""
LONGEST_INPUT = 1500
HEADER = f"{'target':20} {'executions':>12} {'frames':>14} {'exec/s':>9} {'crashes':>7}"
HANGS_AFTER_S = 60
"""libFuzzer goes by the clock, and the machine may be busy."""


@dataclass(frozen=True)
class Result:
    """What one target did."""

    name: str
    executions: int
    frames: int
    """That went through the kernel: an input can be a batch of them. 0 where nobody counts."""
    per_second: int
    crashes: tuple[Path, ...]
    said: str
    """How it ended, when that was not as it should."""


def kernel_targets() -> list[str]:
    """Names, as the manifest has them."""
    text = (WORK / "Cargo.toml").read_text()
    return re.findall(r'^\[\[bin\]\]\nname = "(\w+)"', text, re.MULTILINE)


def build_kernel_targets(sanitizer: str) -> None:
    """Ends the program if it cannot be done."""
    if shutil.which("cargo-fuzz") is None:
        sys.exit("fuzz: no cargo-fuzz here: cargo install --locked cargo-fuzz; or ARGS=--only=python")
    print("fuzz: building the kernel's targets")
    command = ["cargo", "fuzz", "build", "--sanitizer", sanitizer]
    if subprocess.run(command, cwd=NATIVE, env=cargo_environment(), check=False).returncode != 0:
        sys.exit("fuzz: the kernel's targets do not build")


def cargo_environment() -> dict[str, str]:
    """Coverage and sanitizers are unstable options of the compiler; this lets every compiler have them."""
    return os.environ | {"RUSTC_BOOTSTRAP": "1"}


def command_of(name: str, kind: str, sanitizer: str) -> list[str]:
    """What runs it, without libFuzzer's options."""
    if kind == "python":
        return [sys.executable, "-m", "tests.fuzz.one", name]
    host = subprocess.run(["rustc", "-vV"], capture_output=True, text=True, check=True).stdout
    triple = re.search(r"^host: (\S+)", host, re.MULTILINE)
    assert triple is not None
    return [str(WORK / "target" / triple[1] / "release" / name)]


def run(name: str, kind: str, options: argparse.Namespace) -> Result:
    """Until it has run so often or so long, or has found something."""
    corpus, artifacts = WORK / "corpus" / name, WORK / "artifacts" / name
    for directory in (corpus, artifacts):
        directory.mkdir(parents=True, exist_ok=True)
    before = set(artifacts.iterdir())
    limits = [f"-runs={options.runs}"] if options.runs else []
    limits += [f"-max_total_time={options.seconds}"] if options.seconds else []
    command = [
        *command_of(name, kind, options.sanitizer),
        *limits,
        f"-max_len={LONGEST_INPUT}",
        f"-timeout={HANGS_AFTER_S}",
        "-len_control=20",
        "-print_final_stats=1",
        f"-artifact_prefix={artifacts}/",
        str(corpus),
    ]
    done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, check=False)
    log = done.stderr.decode(errors="replace")
    (artifacts.parent / f"{name}.log").write_text(log)
    crashes = tuple(sorted(set(artifacts.iterdir()) - before))
    said = "" if done.returncode == 0 else f"exit status {done.returncode}"
    return Result(
        name,
        stat(log, "number_of_executed_units"),
        stat(log, "number_of_frames"),
        stat(log, "average_exec_per_sec"),
        crashes,
        said,
    )


def stat(log: str, name: str) -> int:
    """One of libFuzzer's final numbers; 0 when it did not get there."""
    found = re.search(rf"stat::{name}:\s+(\d+)", log)
    return int(found[1]) if found else 0


def line(result: Result) -> str:
    counts = f"{result.executions:12,} {result.frames:14,} {result.per_second:9,} {len(result.crashes):7}"
    return f"{result.name:20} {counts}  {result.said}".rstrip()


def report(results: list[Result]) -> None:
    """The table, and where to find what failed."""
    print(f"\n{HEADER}")
    for result in results:
        print(line(result))
    executions, frames = (sum(one.executions for one in results), sum(one.frames for one in results))
    print(f"{'in total':20} {executions:12,} {frames:14,}")
    for result in results:
        for crash in result.crashes:
            print(f"{result.name}: {crash.relative_to(ROOT)}")
        if result.said:
            print(f"{result.name}: its end is in native/fuzz/artifacts/{result.name}.log")


def chosen(options: argparse.Namespace) -> list[tuple[str, str]]:
    """Names and kinds of the targets to run."""
    every = [(name, "kernel") for name in kernel_targets()] + [(name, "python") for name in TARGETS]
    unknown = set(options.targets) - {name for name, _ in every}
    if unknown:
        sys.exit(
            f"fuzz: no such target: {', '.join(sorted(unknown))}; there are {', '.join(n for n, _ in every)}"
        )
    return [
        (name, kind)
        for name, kind in every
        if (not options.targets or name in options.targets) and options.only in ("", kind)
    ]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make fuzz ARGS=…", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="all of them when none is named")
    parser.add_argument("--runs", type=int, default=0, help="inputs for each target")
    parser.add_argument(
        "--seconds", type=int, default=0, help="time for each target; 30 when neither is given"
    )
    parser.add_argument("--only", choices=("", "kernel", "python"), default="")
    parser.add_argument(
        "--sanitizer",
        choices=("address", "none"),
        default="address",
        help="none is three times faster, and what is checked then is what Rust itself checks",
    )
    options = parser.parse_args()
    if not options.runs and not options.seconds:
        options.seconds = 30
    return options


def main() -> None:
    """Exits with 1 when anything was found."""
    options = arguments()
    wanted = chosen(options)
    kinds = {kind for _, kind in wanted}
    if "python" in kinds and importlib.util.find_spec("atheris") is None:
        sys.exit("fuzz: no atheris here: .venv/bin/pip install 'meshnode[fuzz]'; or ARGS=--only=kernel")
    if "kernel" in kinds:
        build_kernel_targets(options.sanitizer)
    results = []
    print(HEADER, flush=True)
    for name, kind in wanted:
        results.append(run(name, kind, options))
        print(line(results[-1]), flush=True)
    report(results)
    sys.exit(any(result.crashes or result.said for result in results))


if __name__ == "__main__":
    main()
