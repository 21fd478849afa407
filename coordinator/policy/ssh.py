"""The `ssh` section: what is wrong with it, and which nodes its entries mean (coordinator-behaviour §8.10).

Only identities may log in and be logged in at: users, groups, tags and autogroups, never addresses. Tagged
nodes are nobody's, so they may not log in at a user's own devices, and a user's devices are only for that
user.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Final

from coordinator.model import NodeID
from coordinator.policy import durations
from coordinator.policy.document import SshRule, Text
from coordinator.policy.login_users import login_users, refusal
from coordinator.policy.names import Directory, Kind, Names, kind_of
from coordinator.policy.problems import Problems
from coordinator.policy.ssh_rules import DEFAULT_CHECK_PERIOD, ResolvedEntry

MEMBER: Final = "autogroup:member"
TAGGED: Final = "autogroup:tagged"
SELF: Final = "autogroup:self"
ALWAYS: Final = "always"
MAX_CHECK_PERIOD: Final = timedelta(hours=168)

_SOURCE_KINDS = (Kind.USER, Kind.GROUP, Kind.TAG, Kind.AUTOGROUP)
_DESTINATION_KINDS = (Kind.USER, Kind.TAG, Kind.AUTOGROUP)
_SOURCES = f"users, groups, tags, {MEMBER} or {TAGGED}"
_DESTINATIONS = f"users, tags, {MEMBER}, {TAGGED} or {SELF}"


def check_ssh(rules: Iterable[SshRule], names: Names, problems: Problems) -> None:
    """Adds everything that is wrong with the section to `problems`."""
    for rule in rules:
        for at, text in _refusals(rule, names):
            problems.add(at.at, text)


def resolve_ssh(rules: Iterable[SshRule], directory: Directory) -> tuple[ResolvedEntry, ...]:
    """The entries of a section without problems, for the nodes that there are."""
    return tuple(_resolve(rule, directory) for rule in rules)


def _resolve(rule: SshRule, directory: Directory) -> ResolvedEntry:
    named = _stripped(rule.destinations)
    elsewhere = named - {SELF}
    is_check = rule.action is not None and rule.action.text == "check"
    return ResolvedEntry(
        sources=_sources(_stripped(rule.sources), directory),
        destinations=frozenset(node.id for alias in elsewhere for node in directory.nodes_of(alias)),
        to_self=SELF in named,
        has_destinations=bool(elsewhere),
        users=login_users(user.text.strip() for user in rule.users or ()),
        check=is_check,
        period=_check_period(rule.check_period),
        accept_env=tuple(pattern.text for pattern in rule.accept_env),
    )


def _sources(aliases: Iterable[str], directory: Directory) -> dict[NodeID, int]:
    """How often each node is a source: once by each of its tags that is named, in all others once."""
    counts: Counter[NodeID] = Counter()
    for alias in aliases:
        for node in directory.nodes_of(alias):
            counts[node.id] += len(node.tags) if alias == TAGGED else 1
    return dict(counts)


def _check_period(text: Text | None) -> timedelta:
    if text is None:
        return DEFAULT_CHECK_PERIOD
    return timedelta() if text.text == ALWAYS else durations.parse(text.text) or timedelta()


def _stripped(texts: Iterable[Text]) -> frozenset[str]:
    return frozenset(text.text.strip() for text in texts)


class _At:
    """The place of an entry as a whole, where a `Text` gives its own."""

    def __init__(self, rule: SshRule) -> None:
        self.at = rule.at


def _refusals(rule: SshRule, names: Names) -> Iterator[tuple[Text | _At, str]]:
    """What is wrong with an entry, each with its place."""
    entry = _At(rule)
    if rule.action is None or not rule.action.text:
        yield rule.action or entry, 'action must be specified: "accept" or "check"'
    elif rule.action.text not in ("accept", "check"):
        yield rule.action, f'"{rule.action.text}" is not a valid action; write "accept" or "check"'
    if not rule.users:
        yield entry, "users must be specified: as whom may they log in?"
    for user in rule.users or ():
        why = refusal(user.text.strip())
        if why is not None:
            yield user, why
    for pattern in rule.accept_env:
        if not pattern.text:
            yield pattern, "acceptEnv values cannot be empty; write names of variables, as in LC_*"
    yield from _period_refusals(rule)
    yield from _alias_refusals(rule, names)
    yield from _pair_refusals(rule)


def _period_refusals(rule: SshRule) -> Iterator[tuple[Text, str]]:
    period = rule.check_period
    if period is None:
        return
    if rule.action is not None and rule.action.text == "accept":
        yield period, 'checkPeriod is only valid with action "check"'
    if period.text == ALWAYS:
        return
    length = durations.parse(period.text)
    if length is None:
        yield period, f'invalid duration "{period.text}"; write checkPeriod like 30m, 12h or {ALWAYS}'
    elif length < timedelta():
        yield period, f"checkPeriod {period.text} must be a positive duration"
    elif length > MAX_CHECK_PERIOD:
        yield period, f"checkPeriod {period.text} is above the max (168h)"


def _alias_refusals(rule: SshRule, names: Names) -> Iterator[tuple[Text, str]]:
    """Aliases of a kind that has no place there, and those that are not defined."""
    for source in rule.sources:
        alias = source.text.strip()
        kind = kind_of(alias)
        if kind not in _SOURCE_KINDS:
            yield source, f'invalid src "{alias}"; sources of ssh are {_SOURCES}'
        elif kind is Kind.AUTOGROUP and alias not in (MEMBER, TAGGED):
            yield source, f'"{alias}" cannot be a source of ssh, only {MEMBER} and {TAGGED} can'
        elif (why := names.refusal(alias)) is not None:
            yield source, f"src={why}"
    for destination in rule.destinations:
        alias = destination.text.strip()
        kind = kind_of(alias)
        if kind not in _DESTINATION_KINDS:
            yield destination, f'invalid dst "{alias}"; destinations of ssh are {_DESTINATIONS}'
        elif kind is Kind.AUTOGROUP and alias not in (MEMBER, TAGGED, SELF):
            yield destination, f'"{alias}" cannot be a destination of ssh, only {_DESTINATIONS} can'
        elif alias != SELF and (why := names.refusal(alias)) is not None:
            yield destination, f'dst="{alias}": {why}'


def _pair_refusals(rule: SshRule) -> Iterator[tuple[Text, str]]:
    """Destinations that these sources may not log in at."""
    sources = _stripped(rule.sources)
    kinds = {kind_of(alias) for alias in sources}
    tagged = Kind.TAG in kinds or TAGGED in sources
    for destination in rule.destinations:
        alias = destination.text.strip()
        if tagged and alias in (SELF, MEMBER):
            yield destination, f"tags in src cannot log in at {alias}: those are devices of users"
        elif kind_of(alias) is Kind.USER and tagged:
            yield destination, f'tags in src cannot log in at the devices of "{alias}"; use tags in dst'
        elif kind_of(alias) is Kind.USER and sources != {alias}:
            yield destination, f'dst "{alias}" requires src to be only that user; use {SELF} for own devices'
