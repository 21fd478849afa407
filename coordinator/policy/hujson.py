"""JSON with comments and trailing commas (HuJSON), parsed to values that know where they stand.

A policy is written by hand, so whatever is wrong in it has to be named by line and column: also what only
turns out to be wrong when the document is resolved against users and nodes. Hence values keep their place.

Differences from plain JSON: `//` and `/* */` comments, and a comma after the last element. A name that occurs
twice in one object is refused: which of the two counts would be a guess.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

MAX_DEPTH: Final = 64  # levels of nesting; a policy needs seven


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in the text, both counted from 1; columns are characters."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}"


class SyntaxProblem(Exception):
    """The text is not HuJSON: `at` says where, `str()` what is wrong and how to put it right."""

    def __init__(self, at: Position, text: str) -> None:
        super().__init__(text)
        self.at = at


@dataclass(frozen=True, slots=True)
class Member:
    """One `"name": value` of an object."""

    name: str
    at: Position
    value: Value


@dataclass(frozen=True, slots=True)
class Value:
    """A value and its place. An array is a tuple of `Value`, an object a tuple of `Member`, in order."""

    data: bool | int | float | str | Array | Object | None
    at: Position

    @property
    def kind(self) -> str:
        """What it is, as messages call it."""
        match self.data:
            case None:
                return "null"
            case bool():
                return "true or false"
            case str():
                return "a text"
            case int() | float():
                return "a number"
            case Array():
                return "a list"
            case Object():
                return "an object"

    @property
    def plain(self) -> Any:
        """The value as `json.loads` would give it, without places."""
        match self.data:
            case Array(items):
                return [item.plain for item in items]
            case Object(members):
                return {member.name: member.value.plain for member in members}
            case _:
                return self.data


@dataclass(frozen=True, slots=True)
class Array:
    items: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Object:
    members: tuple[Member, ...]


Scalar: TypeAlias = bool | int | float | str | None

_SPACE = re.compile(r"[ \t\r\n]+|//[^\n]*|/\*.*?\*/", re.DOTALL)
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?P<fraction>\.[0-9]+)?(?P<exponent>[eE][+-]?[0-9]+)?")
_PLAIN_TEXT = re.compile(r'[^"\\\x00-\x1f]*')
_HEX4 = re.compile(r"[0-9a-fA-F]{4}")
_WORDS: Final[dict[str, Scalar]] = {"true": True, "false": False, "null": None}
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ESCAPES: Final = {
    '"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t",
}  # fmt: skip


def parse(text: str) -> Value:
    """The one value that `text` holds. Raises SyntaxProblem."""
    parser = _Parser(text)
    value = parser.value(0)
    parser.skip_space()
    if parser.offset < len(text):
        raise parser.problem("something follows after the end of the document; remove it")
    return value


class _Parser:
    """A cursor over the text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.offset = 1 if text.startswith("\ufeff") else 0
        self._line = 1
        self._line_start = self.offset
        self._counted_to = self.offset

    def at(self) -> Position:
        """Where the cursor is. It only ever moves forward, so each line end is looked for once."""
        end = self.text.find("\n", self._counted_to, self.offset)
        while end >= 0:
            self._line += 1
            self._line_start = end + 1
            end = self.text.find("\n", end + 1, self.offset)
        self._counted_to = self.offset
        return Position(self._line, self.offset - self._line_start + 1)

    def problem(self, what: str) -> SyntaxProblem:
        return SyntaxProblem(self.at(), what)

    def skip_space(self) -> None:
        while found := _SPACE.match(self.text, self.offset):
            self.offset = found.end()
        if self.text.startswith("/*", self.offset):
            raise self.problem("this comment does not end; close it with */")

    def peek(self) -> str:
        """The next character that is neither space nor comment; empty at the end of the text."""
        self.skip_space()
        return self.text[self.offset : self.offset + 1]

    def value(self, depth: int) -> Value:
        first = self.peek()
        at = self.at()
        if depth > MAX_DEPTH:
            raise self.problem(f"nested more than {MAX_DEPTH} levels deep")
        match first:
            case "":
                raise self.problem("the document ends where a value is expected")
            case "{":
                return Value(Object(tuple(self._members(depth))), at)
            case "[":
                return Value(Array(tuple(self._items(depth))), at)
            case '"':
                return Value(self.string(), at)
            case _:
                return Value(self._scalar(), at)

    def _items(self, depth: int) -> Iterator[Value]:
        self.offset += 1
        while self.peek() != "]":
            yield self.value(depth + 1)
            self._separator("]", "list")
        self.offset += 1

    def _members(self, depth: int) -> Iterator[Member]:
        self.offset += 1
        seen: dict[str, Position] = {}
        while (first := self.peek()) != "}":
            at = self.at()
            if first != '"':
                raise self.problem(f"a name in double quotes is expected, not {_shown(first)}")
            name = self.string()
            if name in seen:
                raise SyntaxProblem(at, f'"{name}" is here for the second time, first at {seen[name]}')
            seen[name] = at
            if self.peek() != ":":
                raise self.problem(f'a colon is expected after "{name}"')
            self.offset += 1
            yield Member(name, at, self.value(depth + 1))
            self._separator("}", "object")
        self.offset += 1

    def _separator(self, closing: str, kind: str) -> None:
        found = self.peek()
        if found == ",":
            self.offset += 1
        elif not found:
            raise self.problem(f"the document ends inside this {kind}; close it with {closing}")
        elif found != closing:
            raise self.problem(f"a comma or {closing} is expected, not {_shown(found)}")

    def string(self) -> str:
        """The text at the cursor, which is on its opening quote."""
        opening = self.at()
        self.offset += 1
        parts = []
        while True:
            plain = _PLAIN_TEXT.match(self.text, self.offset)
            assert plain is not None  # it matches nothing, too
            parts.append(plain.group())
            self.offset = plain.end()
            match self.text[self.offset : self.offset + 1]:
                case '"':
                    self.offset += 1
                    return "".join(parts)
                case "\\":
                    parts.append(self._escape())
                case _:
                    raise SyntaxProblem(opening, 'this text does not end on its line; close it with "')

    def _escape(self) -> str:
        letter = self.text[self.offset + 1 : self.offset + 2]
        if letter == "u":
            return self._unicode_escape()
        if letter not in _ESCAPES:
            raise self.problem(f"\\{letter} is not an escape; write a backslash as \\\\")
        self.offset += 2
        return _ESCAPES[letter]

    def _unicode_escape(self) -> str:
        code = self._code_unit()
        if 0xD800 <= code < 0xDC00 and self.text.startswith("\\u", self.offset):
            low = self._code_unit()
            if 0xDC00 <= low < 0xE000:
                return chr(0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00))
            raise self.problem("this pair of \\u escapes is not a character")
        if 0xD800 <= code < 0xE000:
            raise self.problem("half of a pair of \\u escapes is not a character")
        return chr(code)

    def _code_unit(self) -> int:
        digits = _HEX4.match(self.text, self.offset + 2)
        if digits is None:
            raise self.problem("\\u needs four hexadecimal digits")
        self.offset = digits.end()
        return int(digits.group(), 16)

    def _scalar(self) -> Scalar:
        number = _NUMBER.match(self.text, self.offset)
        if number is not None:
            self.offset = number.end()
            text = number.group()
            if number["fraction"] or number["exponent"]:
                return float(text)
            if len(text) > 20:
                raise self.problem("this number is too large")
            return int(text)
        word = _WORD.match(self.text, self.offset)
        if word is None:
            raise self.problem(f"a value is expected, not {_shown(self.text[self.offset])}")
        if word.group() not in _WORDS:
            raise self.problem(f'"{word.group()}" is not a value; put texts into double quotes')
        self.offset = word.end()
        return _WORDS[word.group()]


def _shown(character: str) -> str:
    return f'"{character}"' if character else "the end of the document"
