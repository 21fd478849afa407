"""Running other programs: the only place where the node does it."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable, Sequence

Run = Callable[[Sequence[str], bytes], Awaitable[bytes]]
"""argv and standard input to standard output, as `run` below; adapters take one, tests give their own."""

# Which package brings the programs we call, named as in Debian, Fedora, Arch and Alpine alike.
PACKAGES = {"nft": "nftables"}

# Administration programs live here, and the PATH of a service or of `su` may leave them out.
SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")

TIMEOUT = 30.0
"""Seconds. A program that takes longer is killed: it hangs, as no transaction of ours takes a second."""


class ProgramMissing(Exception):
    """The program is not installed."""

    def __init__(self, program: str) -> None:
        self.program = program
        self.package = PACKAGES.get(program, program)
        super().__init__(f"the program {program} is missing: install {self.package}")


class ProgramFailed(Exception):
    """The program ran and did not succeed; the text is what it said."""

    def __init__(self, argv: Sequence[str], status: int | None, said: str) -> None:
        self.argv = tuple(argv)
        self.status = status
        self.said = said
        how = "took too long and was killed" if status is None else f"exited with status {status}"
        super().__init__(f"{' '.join(argv)} {how}: {said or 'no message'}")


async def run(argv: Sequence[str], stdin: bytes = b"") -> bytes:
    """Run a program to its end and return what it printed. Raises ProgramMissing or ProgramFailed.

    The child is not in the terminal's foreground group: Ctrl-C ends the daemon, which undoes its work by
    running programs.
    """
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *SBIN])
    found = shutil.which(argv[0], path=path)
    if found is None:
        raise ProgramMissing(argv[0])
    # A file and not a pipe: nft opens /dev/stdin, which fails for the socket that uvloop takes for a pipe.
    with os.fdopen(os.memfd_create("stdin"), "w+b") as given:
        given.write(stdin)
        given.seek(0)
        process = await asyncio.create_subprocess_exec(
            found,
            *argv[1:],
            stdin=given,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": path, "LC_ALL": "C"},
            start_new_session=True,
        )
    try:
        async with asyncio.timeout(TIMEOUT):
            stdout, stderr = await process.communicate()
    except TimeoutError:
        raise ProgramFailed(argv, None, "") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        said = "; ".join(stderr.decode(errors="replace").split("\n"))
        raise ProgramFailed(argv, process.returncode, said.strip("; "))
    return stdout
