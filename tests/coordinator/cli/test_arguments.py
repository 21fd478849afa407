"""Flags may stand anywhere on the line."""

from __future__ import annotations

import pytest

from coordinator.cli.arguments import hoist, requested_format, spelled_out
from coordinator.cli.grammar import SWITCHES
from coordinator.cli.root import root


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("users list", "users list"),
        ("users list -o json", "users list -o json"),
        ("-o json users list", "users list -o json"),
        ("users -o json list", "users list -o json"),
        ("--output=json users list", "users list --output=json"),
        ("-ojson users list", "users list -ojson"),
        ("--force nodes delete -i 1", "nodes delete --force -i 1"),
        ("-i 1 nodes --force delete", "nodes delete -i 1 --force"),
        ("-n ana machines list", "machines list -n ana"),
        ("--config list users list", "users list --config list"),
        ("-d nodes expire -i 1", "nodes expire -d -i 1"),
        ("--help users create", "users create --help"),
        ("users -h", "users -h"),
        ("-o json", "-o json"),
        ("-o", "-o"),
        ("nonsense -o json list", "nonsense -o json list"),
        ("users -- list", "users -- list"),
        ("", ""),
    ],
)
def test_command_words_come_first(line: str, expected: str) -> None:
    assert hoist(line.split(), root, SWITCHES) == expected.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("users list", ""),
        ("-o json users list", "json"),
        ("users list --output yaml --nonsense", "yaml"),
        ("users list --output=json-line", "json-line"),
        ("users list -ojson", "json"),
        ("users list -o=json", "json"),
        ("users list -o", ""),
        ("users create -- -o json", ""),
    ],
)
def test_the_output_format_of_a_line_that_may_be_wrong(line: str, expected: str) -> None:
    assert requested_format(line.split()) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("-i=1 --force=true", "-i 1 --force"),
        ("-d=1 --force=F", "-d"),
        ("--force -d", "--force -d"),
        ("--identifier=1 -r=a=b", "--identifier=1 -r a=b"),
        ("name=x -- -i=1", "name=x -- -i=1"),
    ],
)
def test_gos_spellings(line: str, expected: str) -> None:
    assert spelled_out(line.split(), frozenset({"--force", "-d"})) == expected.split()


def test_a_switch_is_true_or_false() -> None:
    with pytest.raises(ValueError, match='--force: "yes" is not true or false'):
        spelled_out(["--force=yes"], frozenset({"--force"}))
