"""Reading requests: bodies, ids in paths, query parameters. What is wrong is named and answered with 400."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from ipaddress import IPv4Network, IPv6Network, ip_interface
from typing import TypeVar

import msgspec
from aiohttp import web

from coordinator.api.problems import BadRequest

Request = TypeVar("Request", bound=msgspec.Struct)

MAX_BODY = 1 << 20  # bytes
MAX_ID = (1 << 63) - 1  # what the store can hold
DECIMAL = re.compile(r"[0-9]{1,19}")
_AT_FIELD = re.compile(r"(?P<reason>.*?)(?: - at `\$(?P<path>[^`]*)`)?")
_FIELD_NAME = re.compile(r"field `(?P<name>[^`]*)`")


async def read_body(request: web.Request, shape: type[Request]) -> Request:
    """The body as `shape`; no body at all is `{}`. Raises BadRequest that names the field."""
    content = await request.read()
    try:
        return msgspec.json.decode(content or b"{}", type=shape)
    except msgspec.ValidationError as error:
        raise _wrong_field(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}", "body") from error


def path_id(request: web.Request, name: str) -> int:
    """A numeric id of the path. Raises BadRequest."""
    text = request.match_info[name]
    if (number := _number(text)) is None:
        raise BadRequest(f'type mismatch, parameter: {name}, "{text}" is not a number', f"path.{name}")
    return number


def query_id(request: web.Request, name: str) -> int | None:
    """A numeric id of the query; None where it is absent, empty or 0. Raises BadRequest."""
    return optional_id(request.query.get(name), f"query.{name}")


def optional_id(value: str | int | None, location: str) -> int | None:
    """An id as a string (Headscale's form) or a number; None if absent, empty or 0. Raises BadRequest."""
    if value is None or value == "":
        return None
    if (number := _number(str(value))) is None:
        raise BadRequest(f'{_name(location)}: "{value}" is not an ID (a number)', location)
    return number or None


def required_id(value: str | int | None, location: str) -> int:
    """As `optional_id`, where there must be one."""
    if (number := optional_id(value, location)) is None:
        raise BadRequest(f"{_name(location)}: an ID is required", location)
    return number


def query_flag(request: web.Request, *names: str) -> bool:
    """A boolean of the query under any of its names. Raises BadRequest."""
    for name in names:
        value = request.query.get(name)
        if value is not None:
            if value.lower() not in ("true", "false", "1", "0"):
                raise BadRequest(f'{name}: "{value}" is neither true nor false', f"query.{name}")
            return value.lower() in ("true", "1")
    return False


def query_instant(request: web.Request, name: str) -> datetime | None:
    """An RFC 3339 instant of the query; None where it is absent. Raises BadRequest."""
    text = request.query.get(name)
    if not text:
        return None
    try:
        value = msgspec.convert(
            text.replace(" ", "+"), datetime
        )  # an unescaped + of a zone arrives as a blank
    except msgspec.ValidationError:
        raise BadRequest(
            f'{name}: "{text}" is not an RFC 3339 instant such as 2030-01-31T12:00:00Z', f"query.{name}"
        ) from None
    return instant(value, f"query.{name}")


def instant(value: datetime | None, location: str) -> datetime | None:
    """`value` in UTC; Go's zero time is None. Raises BadRequest where it has no zone."""
    if value is None:
        return None
    if value.tzinfo is None:
        raise BadRequest(
            f"{_name(location)}: an instant needs its zone, such as 2030-01-31T12:00:00Z", location
        )
    if value.year == 1:
        return None
    return value.astimezone(UTC)


def route(text: str, location: str) -> IPv4Network | IPv6Network:
    """A prefix without host bits. Raises BadRequest that says the right form."""
    try:
        interface = ip_interface(text)
    except ValueError:
        raise BadRequest(
            f'parsing route: "{text}" is not an address prefix such as 192.168.0.0/24', location
        ) from None
    network = interface.network
    if "/" not in text:
        raise BadRequest(f'parsing route: "{text}" has no prefix length; one address is {network}', location)
    if interface.ip != network.network_address:
        raise BadRequest(f'parsing route: "{text}" has host bits set; did you mean {network}?', location)
    return network


def _number(text: str) -> int | None:
    if not DECIMAL.fullmatch(text):
        return None
    number = int(text)
    return number if number <= MAX_ID else None


def _wrong_field(reason: str) -> BadRequest:
    """msgspec's message, with the field in the API's own words."""
    match = _AT_FIELD.fullmatch(reason)
    where = match["path"] or "" if match else ""
    what = match["reason"] if match else reason
    named = _FIELD_NAME.search(what)
    field = f"{where}.{named['name']}" if named else where
    location = f"body{field}"
    return BadRequest(f"{_name(location)}: {what[:1].lower()}{what[1:]}", location)


def _name(location: str) -> str:
    return location.partition(".")[2] or location
