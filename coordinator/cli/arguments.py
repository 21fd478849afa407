"""Where flags may stand: anywhere on the line, global ones and a command's own alike, as with Cobra.

click wants a command's flags after its name. `hoist` moves flags that were written before the command words
behind them, so that `coordinator -o json -i 3 nodes expire` reads as `coordinator nodes expire -o json -i 3`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class CommandTree(Protocol):
    """What `hoist` must know of the commands: which words name one, and which flags stand alone."""

    def child(self, word: str) -> CommandTree | None:
        """The command that `word` names here, or None."""

    @property
    def is_leaf(self) -> bool:
        """Whether no further command word follows."""


def hoist(arguments: Sequence[str], tree: CommandTree, switches: frozenset[str]) -> list[str]:
    """`arguments` with the command words first. `switches` are the flags known to take no value.

    A flag of unknown arity takes the next word as its value, unless that word names a command at this place.
    """
    words: list[str] = []
    moved: list[str] = []
    rest = list(arguments)
    while rest and not tree.is_leaf:
        token = rest.pop(0)
        if token == "--":
            return [*words, *moved, token, *rest]
        if not _is_flag(token):
            words.append(token)
            found = tree.child(token)
            if found is None:
                break
            tree = found
            continue
        moved.append(token)
        if rest and _takes_next(token, rest[0], tree, switches):
            moved.append(rest.pop(0))
    return [*words, *moved, *rest]


def spelled_out(arguments: Sequence[str], switches: frozenset[str]) -> list[str]:
    """`arguments` with Go's spellings in click's: `-i=1` is `-i 1`, and `--force=true` is `--force`.

    `switches` are the flags that take no value; one that is given `false` is left out. Raises ValueError for
    another value.
    """
    words: list[str] = []
    for index, token in enumerate(arguments):
        if token == "--":
            return [*words, *arguments[index:]]
        name, equals, value = token.partition("=")
        if not (equals and _is_flag(token)):
            words.append(token)
        elif name in switches:
            words += [name] if _boolean(name, value) else []
        elif len(name) == 2:
            words += [name, value]
        else:
            words.append(token)
    return words


def requested_format(arguments: Sequence[str]) -> str:
    """The value of `-o`/`--output` on a line that may be otherwise wrong; empty where there is none."""
    wanted = ""
    for index, token in enumerate(arguments):
        if token == "--":
            break
        if token in ("-o", "--output"):
            wanted = arguments[index + 1] if index + 1 < len(arguments) else ""
        elif token.startswith("--output="):
            wanted = token.removeprefix("--output=")
        elif token.startswith("-o") and not token.startswith("--"):
            wanted = token.removeprefix("-o").removeprefix("=")
    return wanted


def _boolean(name: str, value: str) -> bool:
    if value.lower() not in ("true", "false", "t", "f", "1", "0"):
        raise ValueError(f'{name}: "{value}" is not true or false')
    return value.lower() in ("true", "t", "1")


def _is_flag(token: str) -> bool:
    return token.startswith("-") and token != "-"


def _takes_next(flag: str, following: str, tree: CommandTree, switches: frozenset[str]) -> bool:
    is_complete = "=" in flag or flag in switches or (len(flag) > 2 and not flag.startswith("--"))
    return not is_complete and not _is_flag(following) and tree.child(following) is None
