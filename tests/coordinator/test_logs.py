"""Log lines."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

from coordinator.logs import JsonFormatter, TextFormatter


def record(message: str, error: bool = False, **facts: Any) -> logging.LogRecord:
    exc_info = None
    if error:
        try:
            raise ZeroDivisionError("division by zero")
        except ZeroDivisionError:
            exc_info = sys.exc_info()
    made = logging.LogRecord("coordinator.state", logging.INFO, "", 0, message, (), exc_info)
    made.created = 0.007
    vars(made).update(facts)
    return made


def test_text() -> None:
    line = TextFormatter().format(record("node registered", node_id=1, node_name='a "b"\nc', empty=""))
    assert (
        line == '1970-01-01T00:00:00.007Z INFO node registered node_id=1 node_name="a \\"b\\"\\nc" empty=""'
    )


def test_json() -> None:
    line = JsonFormatter().format(record("node registered", node_id=1))
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:00.007Z",
        "level": "info",
        "message": "node registered",
        "node_id": 1,
    }


def test_exceptions_are_in_both() -> None:
    assert "ZeroDivisionError" in TextFormatter().format(record("failed", error=True))
    assert (
        "ZeroDivisionError" in json.loads(JsonFormatter().format(record("failed", error=True)))["exception"]
    )
