"""Help is enough to work from: every command and flag says what it is for."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from coordinator.cli.grammar import Command, Flag, Group, SharedFlag
from coordinator.cli.root import root, run


def commands(group: Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Command | Group]]:
    yield path, group
    for name, command in group.commands.items():
        assert isinstance(command, Command | Group)
        if isinstance(command, Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


EVERY = [pytest.param(path, command, id=" ".join(path) or "root") for path, command in commands(root)]


@pytest.mark.parametrize(("path", "command"), EVERY)
def test_help_tells_every_flag(
    capsys: pytest.CaptureFixture[str], path: tuple[str, ...], command: Command | Group
) -> None:
    assert run([*path, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"Usage: {' '.join(['coordinator', *path])}" in text
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            shown = [o for o in parameter.opts if o not in getattr(parameter, "former", ())]
            assert ", ".join(shown) in text
            assert parameter.help
            assert " ".join(parameter.help.split()) in text
        else:
            assert (parameter.metavar or "").strip("[]") in (command.help or ""), "arguments are explained"
    for alias in command.aliases:
        assert alias in text
    for name, child in command.commands.items() if isinstance(command, Group) else ():
        assert name in text
        assert child.get_short_help_str() in text


@pytest.mark.parametrize(("path", "command"), EVERY)
def test_former_spellings_are_accepted_and_not_shown(
    capsys: pytest.CaptureFixture[str], path: tuple[str, ...], command: Command | Group
) -> None:
    run([*path, "--help"])
    assert "--namespace" not in capsys.readouterr().out
    if path[:1] in (("nodes",), ("preauthkeys",)):
        users = [p for p in command.params if isinstance(p, Flag) and "--user" in p.opts]
        assert all({"-n", "--namespace"} <= set(flag.opts) for flag in users)


@pytest.mark.parametrize(("path", "command"), EVERY)
def test_every_command_takes_the_global_flags(path: tuple[str, ...], command: Command | Group) -> None:
    shared = {option for p in command.params if isinstance(p, SharedFlag) for option in p.opts}
    assert shared == {"-c", "--config", "--socket", "-o", "--output", "--force"}


def test_no_flag_is_declared_twice_in_a_command() -> None:
    for path, command in commands(root):
        names = [option for parameter in command.params for option in parameter.opts]
        assert len(names) == len(set(names)), path


@pytest.mark.parametrize("path", [[], ["users"], ["nodes"], ["preauthkeys"], ["auth"]])
def test_a_group_alone_prints_its_help(capsys: pytest.CaptureFixture[str], path: list[str]) -> None:
    assert run(path) == 0
    assert "Commands:" in capsys.readouterr().out


def test_examples_are_real_lines() -> None:
    """Each example names a command, and flags that the command has."""
    for _path, command in commands(root):
        for line in (command.epilog or "").strip().splitlines():
            words = line.strip().split("   ")[0].split()
            if words[0] != "coordinator":
                continue  # a shell construct around the command
            found: Command | Group = root
            while len(words) > 1 and isinstance(found, Group):
                child = found.child(words.pop(1))
                assert child is not None, line
                found = child
            known = {option for parameter in found.params for option in parameter.opts}
            assert {word for word in words if word.startswith("-")} <= known, line


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    assert run(["completion", shell]) == 0
    assert "_COORDINATOR_COMPLETE" in capsys.readouterr().out
