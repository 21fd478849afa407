"""Running programs, and what is said when one is missing or fails."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from pyroute2 import NetlinkError

from meshnode.linux import runner
from meshnode.linux.errors import MAX_PROBLEMS_SHOWN, RouterError, Trouble
from meshnode.linux.journal import JournalDamaged
from meshnode.linux.runner import ProgramFailed, ProgramMissing, run


async def test_output_comes_back() -> None:
    assert await run(["cat"], b"through") == b"through"


async def test_a_missing_program_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "SBIN", ())
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ProgramMissing, match="the program nft is missing: install nftables"):
        await run(["nft", "list", "tables"])


async def test_administration_programs_are_found_without_their_directory_in_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "tool"
    program.write_text("#!/bin/sh\necho $LC_ALL\n")
    program.chmod(0o755)
    monkeypatch.setattr(runner, "SBIN", (str(tmp_path),))
    assert await run(["tool"]) == b"C\n"


async def test_what_a_failing_program_says_is_kept() -> None:
    with pytest.raises(ProgramFailed) as failure:
        await run(["sh", "-c", "echo went wrong >&2; exit 3"])
    assert failure.value.status == 3
    assert failure.value.said == "went wrong"


async def test_a_program_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "TIMEOUT", 0.05)
    with pytest.raises(ProgramFailed, match="took too long"):
        await run(["sleep", "60"])


async def test_a_cancelled_caller_leaves_no_program_behind(tmp_path: Path) -> None:
    """The named pipe is opened for reading once the program writes its id into it."""
    pipe = tmp_path / "pid"
    os.mkfifo(pipe)
    task = asyncio.create_task(run(["sh", "-c", f"echo $$ > {pipe}; exec sleep 60"]))
    pid = int(await asyncio.to_thread(pipe.read_text))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def problems(*errors: Exception) -> Sequence[str]:
    trouble = Trouble()
    for error in errors:
        with trouble.step("the step failed"):
            raise error
    with pytest.raises(RouterError) as collected:
        trouble.raise_if_any()
    return [str(problem) for problem in collected.value.problems]


@pytest.mark.parametrize(
    ("error", "why", "fix"),
    [
        (ProgramMissing("nft"), "the program nft is missing", "install nftables"),
        (ProgramFailed(["nft"], 1, "no such thing"), "no such thing", "CONFIG_NF_TABLES_INET"),
        (NetlinkError(errno.EPERM), "Operation not permitted", "as root"),
        (NetlinkError(errno.EOPNOTSUPP), "not supported", "policy routing"),
        (ProgramFailed(["nft"], 1, "Operation not permitted (you must be root)"), "must be root", "as root"),
        (OSError(errno.EROFS, "Read-only file system", "/state/x"), "(/state/x)", "state directory"),
        (JournalDamaged(Path("/state/j"), "bad"), "/state/j", "delete the file"),
        (OSError(errno.EIO, "odd"), "odd", "--cleanup"),
    ],
)
def test_a_problem_says_what_why_and_how_to_fix_it(error: Exception, why: str, fix: str) -> None:
    [text] = problems(error)
    assert text.startswith("the step failed: ")
    assert why in text
    assert fix in text.partition("To fix it: ")[2]


def test_one_failure_does_not_stop_the_next_step_and_a_thousand_are_summed_up() -> None:
    trouble = Trouble()
    for number in range(1000):
        with trouble.step(f"step {number}"):
            raise NetlinkError(errno.ENETDOWN)
    with pytest.raises(RouterError) as collected:
        trouble.raise_if_any()
    assert len(collected.value.problems) == 1000
    lines = str(collected.value).splitlines()
    assert len(lines) == MAX_PROBLEMS_SHOWN + 1
    assert lines[-1] == "and 992 more"


def test_programming_errors_are_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError), Trouble().step("a step"):
        raise ZeroDivisionError
