"""Text forms of keys, and that private ones never show."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproto.keys import (
    ChallengePrivate,
    ChallengePublic,
    DiscoPrivate,
    DiscoPublic,
    MachinePrivate,
    MachinePublic,
    MalformedKey,
    NetworkLockPublic,
    NodePrivate,
    NodePublic,
    PrivateKey,
    PublicKey,
)
from tests.meshproto.noise_vectors import VECTORS

PREFIXES: dict[type[PublicKey], str] = {
    MachinePublic: "mkey:",
    NodePublic: "nodekey:",
    DiscoPublic: "discokey:",
    ChallengePublic: "chalpub:",
    NetworkLockPublic: "nlpub:",
}
PRIVATE = [MachinePrivate, NodePrivate, DiscoPrivate, ChallengePrivate]
HEX = "0123456789abcdef" * 4

public_kinds = pytest.mark.parametrize("kind", PREFIXES)
private_kinds = pytest.mark.parametrize("kind", PRIVATE)


@public_kinds
@given(raw=st.binary(min_size=32, max_size=32))
def test_public_text_form(kind: type[PublicKey], raw: bytes) -> None:
    key = kind(raw)
    assert str(key) == PREFIXES[kind] + raw.hex()
    assert kind.parse(str(key)) == key
    assert kind.parse(PREFIXES[kind] + raw.hex().upper()) == key


@public_kinds
@pytest.mark.parametrize(
    "digits",
    [
        "",
        HEX[:-1],
        HEX[:-2],
        HEX + "0",
        HEX + "00",
        HEX[:-1] + "g",
        HEX[:-1] + " ",
        " " + HEX,
        HEX[:-2] + "\u0660\u0660",
    ],
)
def test_bad_digits(kind: type[PublicKey], digits: str) -> None:
    with pytest.raises(MalformedKey):
        kind.parse(PREFIXES[kind] + digits)


def test_spaces_between_digits_do_not_count_as_digits() -> None:
    # bytes.fromhex skips them: 64 characters that hold fewer digits must not pass.
    with pytest.raises(MalformedKey):
        NodePublic.parse("nodekey:" + "ab " * 21 + "a")
    with pytest.raises(MalformedKey):
        NodePublic.parse("nodekey:" + "ab " * 32)


@public_kinds
def test_prefix_of_another_kind(kind: type[PublicKey]) -> None:
    others = [prefix for other, prefix in PREFIXES.items() if other is not kind]
    for prefix in ["", "privkey:", PREFIXES[kind].upper(), *others]:
        with pytest.raises(MalformedKey):
            kind.parse(prefix + HEX)


def test_older_prefix_of_tailnet_lock_keys() -> None:
    assert str(NetworkLockPublic.parse("tlpub:" + HEX)) == "nlpub:" + HEX


@public_kinds
@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_raw_size(kind: type[PublicKey], size: int) -> None:
    with pytest.raises(MalformedKey):
        kind(bytes(size))


def test_kinds_do_not_equal_each_other() -> None:
    raw = bytes.fromhex(HEX)
    assert len({kind(raw) for kind in PREFIXES}) == len(PREFIXES)
    assert NodePublic(raw) != raw


@public_kinds
def test_zero(kind: type[PublicKey]) -> None:
    assert kind.zero().is_zero
    assert not kind(bytes.fromhex(HEX)).is_zero


def test_short_form() -> None:
    assert NodePublic(bytes.fromhex(HEX)).short() == "[ASNFZ]"
    assert repr(NodePublic(bytes.fromhex(HEX))) == "NodePublic([ASNFZ])"


@private_kinds
def test_private_text_form(kind: type[PrivateKey]) -> None:
    key = kind.generate(os.urandom)
    assert key.to_text() == "privkey:" + key.raw.hex()
    assert kind.parse(key.to_text()) == key


@private_kinds
def test_private_keys_are_clamped(kind: type[PrivateKey]) -> None:
    key = kind(b"\xff" * 32)
    assert (key.raw[0], key.raw[31]) == (0xF8, 0x7F)


@private_kinds
def test_a_private_key_never_shows(kind: type[PrivateKey]) -> None:
    key = kind.generate(os.urandom)
    for text in (repr(key), str(key), f"{key}", f"{key!r:>80}", "%s %r" % (key, key), repr([key])):  # noqa: UP031
        assert key.raw.hex() not in text
        assert repr(key.raw) not in text
        assert "redacted" in text


@private_kinds
@pytest.mark.parametrize("text", ["privkey:" + HEX[:-1], "privkey:" + HEX[:-1] + "g", "nodekey:" + HEX, HEX])
def test_a_malformed_private_key_does_not_show(kind: type[PrivateKey], text: str) -> None:
    with pytest.raises(MalformedKey) as caught:
        kind.parse(text)
    assert HEX[:16] not in str(caught.value)


@private_kinds
def test_zero_private_keys_are_refused(kind: type[PrivateKey]) -> None:
    with pytest.raises(MalformedKey):
        kind(bytes(32))


@private_kinds
def test_private_keys_are_not_hashable(kind: type[PrivateKey]) -> None:
    with pytest.raises(TypeError):
        hash(kind(b"\x01" * 32))


def test_public_key_of_the_vectors() -> None:
    private = MachinePrivate.parse("privkey:" + VECTORS["machine_private"])
    assert str(private.public) == "mkey:" + VECTORS["machine_public"]
