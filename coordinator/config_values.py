"""Readers of single configuration values: what YAML gave, to what the program uses, or `WrongValue`."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from urllib.parse import urlsplit

from coordinator.model import IPNetwork
from derp.listen import ListenAddress

MIN_EPHEMERAL_TIMEOUT = timedelta(seconds=65)  # more than the longest keep-alive interval


class WrongValue(Exception):
    """The value of one key cannot be used; `str()` says what it has to be."""


def read_text(value: object) -> str:
    if not isinstance(value, str):
        raise WrongValue("expected text")
    return value.strip()


def read_bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise WrongValue("expected true or false")
    return value


def read_path(value: object) -> Path:
    text = read_text(value)
    if not text:
        raise WrongValue("expected a path")
    return Path(text)


def read_url(value: object) -> str:
    text = read_text(value)
    wrong = WrongValue("expected a URL such as https://vpn.example.org")
    try:
        url = urlsplit(text)
        if url.scheme not in ("http", "https") or not url.hostname or url.port == 0:
            raise wrong
    except ValueError:
        raise wrong from None
    if url.path.strip("/") or url.query or url.fragment:
        raise WrongValue("expected a URL without a path")
    return text.rstrip("/")


def read_listen_address(value: object) -> ListenAddress:
    wrong = WrongValue("expected ADDRESS:PORT such as 0.0.0.0:8080")
    if not isinstance(value, str):
        raise wrong
    host, colon, port = value.strip().rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and port.isascii() and port.isdigit() and int(port) <= 65535):
        raise wrong
    if host not in ("", "localhost"):
        try:
            ip_address(host)
        except ValueError:
            raise wrong from None
    return ListenAddress(host, int(port))


def read_prefix_v4(value: object) -> IPv4Network | None:
    prefix = read_prefix(value)
    if isinstance(prefix, IPv6Network):
        raise WrongValue("expected an IPv4 prefix such as 100.64.0.0/10")
    return prefix


def read_prefix_v6(value: object) -> IPv6Network | None:
    prefix = read_prefix(value)
    if isinstance(prefix, IPv4Network):
        raise WrongValue("expected an IPv6 prefix such as fd7a:115c:a1e0::/48")
    return prefix


def read_prefix(value: object) -> IPNetwork | None:
    if value is None or value == "":
        return None
    try:
        return ip_network(read_text(value))
    except ValueError as error:
        raise WrongValue(f"expected a prefix such as 100.64.0.0/10 ({error})") from None


def one_of(*choices: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        if value not in choices:
            raise WrongValue(f"expected {' or '.join(choices)}")
        return str(value)

    return read


def read_allocation(value: object) -> bool:
    return one_of("sequential", "random")(value) == "random"


def read_permission(value: object) -> int:
    # Unquoted, 0770 is an octal number to YAML; quoted, it is text.
    if isinstance(value, str) and re.fullmatch(r"(0o?)?[0-7]{3}", value):
        return int(value.removeprefix("0o"), 8)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 0o777:
        return value
    raise WrongValue('expected an octal mode in quotes, such as "0770"')


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0, "y": 31536000.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdwy])")


def read_duration(value: object) -> timedelta:
    if value == 0 and not isinstance(value, bool):
        return timedelta()
    text = value.strip() if isinstance(value, str) else ""
    parts = _DURATION.findall(text)
    if (text != "0" and "".join(number + unit for number, unit in parts) != text) or not text:
        raise WrongValue("expected a duration with units, such as 30m or 1h30m")
    try:
        return timedelta(seconds=sum(float(number) * _UNITS[unit] for number, unit in parts))
    except OverflowError:
        raise WrongValue("expected a duration that a calendar can hold") from None


def read_seconds(value: object) -> float:
    return read_duration(value).total_seconds()


def read_probe_interval(value: object) -> float:
    seconds = read_seconds(value)
    if 0 < seconds < 2:
        raise WrongValue("expected 2s or more, or 0 for no probes")
    return seconds


def read_probe_timeout(value: object) -> float:
    seconds = read_seconds(value)
    if seconds < 1:
        raise WrongValue("expected 1s or more")
    return seconds


def read_expiry(value: object) -> timedelta | None:
    return read_duration(value) or None


def read_ephemeral_timeout(value: object) -> timedelta:
    timeout = read_duration(value)
    if timeout <= MIN_EPHEMERAL_TIMEOUT:
        raise WrongValue("expected more than 65s, or nodes would be removed between two keep-alives")
    return timeout
