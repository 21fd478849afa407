"""Log lines: one event each, its facts as `key=value` or as JSON. On standard error, quiet by default."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any

_LEVELS = {"warn": "warning"}
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def set_up(level: str, log_format: str) -> None:
    """Send the coordinator's log to standard error. Libraries speak up from warnings on."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("coordinator").setLevel(_LEVELS.get(level, level).upper())


class TextFormatter(logging.Formatter):
    """`2026-09-01T10:00:00Z INFO node registered node_id=1 node_name=laptop`."""

    def format(self, record: logging.LogRecord) -> str:
        facts = "".join(f" {name}={_quoted(value)}" for name, value in _facts(record).items())
        line = f"{_time(record)} {record.levelname} {record.getMessage()}{facts}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **_facts(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _facts(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _time(record: logging.LogRecord) -> str:
    return (
        datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )


def _quoted(value: object) -> str:
    text = str(value)
    return (
        json.dumps(text)
        if not text or any(c.isspace() or c in '"=' or not c.isprintable() for c in text)
        else text
    )
