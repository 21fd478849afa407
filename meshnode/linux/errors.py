"""What can go wrong when the host is made to match a configuration, said with what to do about it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pyroute2 import NetlinkError

from meshnode.linux.journal import JournalDamaged
from meshnode.linux.runner import ProgramFailed, ProgramMissing

PERMISSION_FIX = "run the daemon as root, or give it CAP_NET_ADMIN"
PROGRAM_FIX = "see what the program says; nftables needs CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET"
NOT_PERMITTED = "Operation not permitted"

# What a system call refused to do, and what a person can do about it.
FIXES = {
    errno.EPERM: PERMISSION_FIX,
    errno.EACCES: "run the daemon as root; in a container, also make /proc/sys writable",
    errno.EROFS: "make the file system with the state directory writable, or name another one",
    errno.EOPNOTSUPP: "use a kernel with policy routing (CONFIG_IP_MULTIPLE_TABLES and its IPv6 twin)",
    errno.EAFNOSUPPORT: "use a kernel with policy routing for IPv6 (CONFIG_IPV6_MULTIPLE_TABLES)",
    errno.ENODEV: "start the tunnel again: its interface has gone",
    errno.ENETDOWN: "set the tunnel's interface up, or start the tunnel again",
    errno.ENOSPC: "free space in the state directory",
}
OTHER_FIX = "see the daemon's log; `meshnode daemon --cleanup` removes what is left of an earlier run"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not as it should be."""

    what: str
    why: str
    fix: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}. To fix it: {self.fix}"


# A thousand routes that fail do so for one reason.
MAX_PROBLEMS_SHOWN = 8


class RouterError(Exception):
    """The host does not match the configuration in these points; everything else was done."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        lines = [str(problem) for problem in problems[:MAX_PROBLEMS_SHOWN]]
        if len(problems) > MAX_PROBLEMS_SHOWN:
            lines.append(f"and {len(problems) - MAX_PROBLEMS_SHOWN} more")
        super().__init__("\n".join(lines))


class Trouble:
    """Collects the problems of a run of steps, so that the failure of one does not stop the others."""

    def __init__(self) -> None:
        self._problems: list[Problem] = []

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Turn what the system says into a problem named `what`. Programming errors pass through."""
        try:
            yield
        except ProgramMissing as error:
            self.add(what, f"the program {error.program} is missing", f"install {error.package}")
        except ProgramFailed as error:
            self.add(what, str(error), PERMISSION_FIX if NOT_PERMITTED in error.said else PROGRAM_FIX)
        except JournalDamaged as error:
            self.add(what, str(error), f"look at {error.path}, set those values by hand, and delete the file")
        except NetlinkError as error:
            self.add(what, str(error.args[-1]), FIXES.get(error.code, OTHER_FIX))
        except OSError as error:
            why = f"{error.strerror} ({error.filename})" if error.filename else str(error)
            self.add(what, why, FIXES.get(error.errno or 0, OTHER_FIX))

    def add(self, what: str, why: str, fix: str) -> None:
        """Record a problem."""
        self._problems.append(Problem(what, why, fix))

    def raise_if_any(self) -> None:
        """Raise RouterError with everything recorded."""
        if self._problems:
            raise RouterError(tuple(self._problems))
