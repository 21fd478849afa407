"""Names: of users, and the DNS labels of nodes (coordinator-behaviour §5.4, §5.6)."""

from __future__ import annotations

import re
from collections.abc import Container

from coordinator.errors import Invalid

MAX_LABEL = 63
MAX_FQDN = 255
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_LOCAL_SUFFIXES = (".local", ".localdomain", ".lan")
_NOT_AT_ENDS = re.compile(r"^[^A-Za-z0-9]+|[^A-Za-z0-9]+$")
_TAG = re.compile(r"tag:[A-Za-z][A-Za-z0-9-]*")


def given_name(hostname: str) -> str:
    """The DNS label made of what a machine calls itself; `node` when nothing usable is left.

    Step by step as Headscale does it, so that a name made there counts as made from the hostname here too:
    what is too long is cut before the rest, and only lower-case suffixes are taken off.
    """
    for suffix in _LOCAL_SUFFIXES:
        hostname = hostname.removesuffix(suffix)
    name = hostname.encode(errors="ignore")[:MAX_LABEL].decode(errors="ignore")
    name = _NOT_AT_ENDS.sub("", name)
    name = re.sub(r"[ .@_]", "-", name)
    return re.sub(r"[^A-Za-z0-9-]", "", name).lower() or "node"


def unique_name(label: str, taken: Container[str]) -> str:
    """`label`, or it with the lowest free `-1`, `-2`, …, shortened so that it stays a label."""
    if label not in taken:
        return label
    number = 1
    while (candidate := _numbered(label, number)) in taken:
        number += 1
    return candidate


def _numbered(label: str, number: int) -> str:
    suffix = f"-{number}"
    return label[: MAX_LABEL - len(suffix)].rstrip("-") + suffix


def follows_hostname(name: str, hostname: str) -> bool:
    """Whether `name` was made from `hostname`, rather than chosen by an administrator."""
    label = given_name(hostname)
    if name == label:
        return True
    match = re.fullmatch(r".+-([1-9][0-9]*)", name)
    return match is not None and name == _numbered(label, int(match[1]))


def check_label(label: str) -> None:
    """Raises Invalid unless `label` is a lower-case DNS label."""
    if not _LABEL.fullmatch(label):
        raise Invalid(
            f"invalid name {label!r}: use 1 to {MAX_LABEL} lower-case letters, digits and '-', "
            "neither first nor last '-'"
        )


def check_user_name(name: str) -> None:
    """Raises Invalid unless `name` may be a user's."""
    if len(name) < 2:
        raise Invalid("username must be at least 2 characters long")
    if not (name[0].isascii() and name[0].isalpha()):
        raise Invalid("username must start with a letter")
    if name.count("@") > 1:
        raise Invalid("username cannot contain more than one '@'")
    for character in name:
        if not (character.isascii() and (character.isalnum() or character in "-._@")):
            raise Invalid(f"username contains invalid character: '{character}'")


def check_tag(tag: str) -> None:
    """Raises Invalid unless `tag` reads `tag:name`."""
    if not _TAG.fullmatch(tag):
        raise Invalid(f"invalid tag {tag!r}: write tag:name, a letter followed by letters, digits and '-'")


def fqdn(label: str, base_domain: str) -> str | None:
    """`label.base.domain.` with the trailing dot, or None when that is longer than a name may be."""
    name = f"{label}.{base_domain}." if base_domain else label
    return name if 0 < len(name) <= MAX_FQDN else None
