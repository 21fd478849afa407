"""Tables for people, JSON and YAML for programs."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
import yaml

from coordinator.cli.output import Cell, Coloured, dump, table, wants_colour, when

DOCUMENT: list[dict[str, Any]] = [
    {"givenName": "pc", "user": {"profilePicUrl": ""}, "tags": [], "expiry": None, "online": True}
]


def test_json_is_indented_with_tabs() -> None:
    text = dump(DOCUMENT, "json")
    assert json.loads(text) == DOCUMENT
    assert text.splitlines()[:3] == ["[", "\t{", '\t\t"givenName": "pc",']


def test_json_line_is_one_line() -> None:
    assert dump({"a": ["ä", 1]}, "json-line") == '{"a":["ä",1]}\n'


def test_yaml_names_are_in_lower_case_as_headscales() -> None:
    assert yaml.safe_load(dump(DOCUMENT, "yaml")) == [
        {"givenname": "pc", "user": {"profilepicurl": ""}, "tags": [], "expiry": None, "online": True}
    ]
    assert dump({"b": "1", "a": {}}, "yaml") == "b: '1'\na: {}\n"


def test_columns_are_padded_and_values_stand_below_each_other() -> None:
    rows: list[list[Cell]] = [
        ["1", ["10.0.0.0/8", "::/0"], Coloured("online", True)],
        ["23", [], Coloured("offline", False)],
    ]
    assert table(["ID", "Routes", "Connected"], rows) == (
        "ID | Routes     | Connected\n1  | 10.0.0.0/8 | online\n   | ::/0       |\n23 |            | offline"
    )


def test_a_table_of_nothing_is_its_header() -> None:
    assert table(["ID", "Name"], []) == "ID | Name"


def test_wide_and_combining_characters_keep_the_columns() -> None:
    assert table(["A", "B"], [["日本", "x"], ["e\u0301", "y"]]).splitlines() == [
        "A    | B",
        "日本 | x",
        "e\u0301    | y",
    ]


def test_control_characters_never_reach_the_terminal() -> None:
    line = table(["Name"], [["\x1b[2Jpc\nroot\u202e"]]).splitlines()[1]
    assert line == r"\x1b[2Jpc\nroot\u202e"


def test_colours_are_put_around_the_text_not_the_padding() -> None:
    rows: list[list[Cell]] = [
        [Coloured("yes", True), Coloured("no", False), "x"],
        [Coloured("", True), Coloured("", True), ""],
    ]
    lines = table(["Long", "Long", "C"], rows, colour=True).splitlines()
    assert lines[1] == "\x1b[92myes\x1b[0m  | \x1b[91mno\x1b[0m   | x"
    assert lines[2] == "     |      |"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "environment", "expected"),
    [
        (Terminal(), {}, True),
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"NO_COLOR": ""}, True),
        (Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {}, False),
    ],
)
def test_colours_only_on_a_terminal_that_wants_them(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, environment: dict[str, str], expected: bool
) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert wants_colour(stream) is expected


@pytest.mark.parametrize(
    ("instant", "expected"),
    [
        ("2026-07-01T10:00:00Z", "2026-07-01 10:00:00"),
        ("2026-07-01T12:00:00.5+02:00", "2026-07-01 10:00:00"),
        ("0001-01-01T00:00:00Z", "N/A"),
        (None, "N/A"),
    ],
)
def test_times_in_tables(instant: str | None, expected: str) -> None:
    assert when(instant, absent="N/A") == expected
