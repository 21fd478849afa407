"""tests/vectors/wireguard.json: derived by an independent implementation and checked against wireguard-go."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshnode import dataplane
from meshnode.dataplane import Gate, Verdict
from meshnode.wireguard import cookie, messages, noise, tai64n
from meshnode.wireguard.source import address_bytes
from meshproto.keys import NodePrivate
from meshproto.primitives import blake2s_mac, hkdf

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "wireguard.json").read_text())
KEYS = VECTORS["keys"]
INITIATOR = NodePrivate(bytes.fromhex(KEYS["initiator_static_private"]))
RESPONDER = NodePrivate(bytes.fromhex(KEYS["responder_static_private"]))
PSK = bytes.fromhex(KEYS["psk"])
STAMP = bytes.fromhex(KEYS["tai64n"])


def trace(name: str) -> dict[str, bytes]:
    return {key: bytes.fromhex(value) for key, value in VECTORS["handshake"][name]}


def fixed(name: str) -> Callable[[int], bytes]:
    """An entropy source with exactly one value in it."""
    values = [bytes.fromhex(KEYS[name])]

    def entropy(size: int) -> bytes:
        value = values.pop()
        assert len(value) == size
        return value

    return entropy


def created_initiation() -> tuple[bytes, noise.InitiatorHandshake]:
    message, handshake = noise.create_initiation(
        INITIATOR,
        RESPONDER.public.raw,
        noise.static_static(INITIATOR, RESPONDER.public.raw),
        STAMP,
        KEYS["initiator_index"],
        fixed("initiator_ephemeral_private"),
    )
    return cookie.CookieGenerator(RESPONDER.public).add_macs(message.encode(), 0.0), handshake


def test_keys() -> None:
    assert INITIATOR.public.raw.hex() == KEYS["initiator_static_public"]
    assert RESPONDER.public.raw.hex() == KEYS["responder_static_public"]
    assert cookie.mac1_key(RESPONDER.public).hex() == KEYS["mac1_key_of_responder"]
    assert cookie.mac1_key(INITIATOR.public).hex() == KEYS["mac1_key_of_initiator"]
    assert cookie.cookie_key(RESPONDER.public).hex() == KEYS["cookie_key_of_responder"]
    assert cookie.cookie_key(INITIATOR.public).hex() == KEYS["cookie_key_of_initiator"]


def test_initial_values() -> None:
    assert noise._INITIAL_CHAINING_KEY.hex() == VECTORS["constants"]["C0"]
    assert noise._INITIAL_HASH.hex() == VECTORS["constants"]["H0"]


def test_static_static() -> None:
    expected = trace("message1_trace")["dh_ss = DH(Si_priv, Sr_pub)"]
    assert noise.static_static(INITIATOR, RESPONDER.public.raw) == expected
    assert noise.static_static(RESPONDER, INITIATOR.public.raw) == expected


def test_initiator_creates_message1() -> None:
    expected = trace("message1_trace")
    message, handshake = created_initiation()
    assert message == expected["message1"]
    assert handshake.chaining_key == expected["C3 = KDF2(C2, dh_ss)[0]"]
    assert handshake.hash == expected["H4 = HASH(H3 || encrypted_timestamp)"]


def test_responder_consumes_message1() -> None:
    expected = trace("message1_trace")
    opened = noise.open_initiation(RESPONDER, messages.parse_initiation_untrusted(expected["message1"]))
    assert opened.remote_static == INITIATOR.public.raw
    assert opened.chaining_key == expected["C2 = KDF2(C1, dh_es)[0]"]
    accepted = noise.consume_initiation(opened, noise.static_static(RESPONDER, INITIATOR.public.raw))
    assert accepted.timestamp == STAMP
    assert accepted.remote_index == KEYS["initiator_index"]
    assert accepted.chaining_key == expected["C3 = KDF2(C2, dh_ss)[0]"]
    assert accepted.hash == expected["H4 = HASH(H3 || encrypted_timestamp)"]


@pytest.mark.parametrize(
    ("name", "preshared_key"), [("message2_trace_psk", PSK), ("message2_trace_zero_psk", None)]
)
def test_both_roles_of_message2(name: str, preshared_key: bytes | None) -> None:
    first, second = trace("message1_trace"), trace(name)
    opened = noise.open_initiation(RESPONDER, messages.parse_initiation_untrusted(first["message1"]))
    accepted = noise.consume_initiation(opened, noise.static_static(RESPONDER, INITIATOR.public.raw))
    response, responder_keys = noise.create_response(
        accepted, preshared_key, KEYS["responder_index"], fixed("responder_ephemeral_private")
    )
    message2 = cookie.CookieGenerator(INITIATOR.public).add_macs(response.encode(), 0.0)
    assert message2 == second["message2"]
    initiator_to_responder = second["T_initiator_to_responder = KDF2(C7, '')[0]"]
    responder_to_initiator = second["T_responder_to_initiator = KDF2(C7, '')[1]"]
    assert responder_keys == (responder_to_initiator, initiator_to_responder)

    _, handshake = created_initiation()
    parsed = messages.parse_response_untrusted(second["message2"])
    initiator_keys = noise.consume_response(INITIATOR, handshake, preshared_key, parsed)
    assert initiator_keys == (initiator_to_responder, responder_to_initiator)


def test_zero_psk_is_no_psk() -> None:
    _, handshake = created_initiation()
    parsed = messages.parse_response_untrusted(trace("message2_trace_zero_psk")["message2"])
    assert noise.consume_response(INITIATOR, handshake, bytes(32), parsed) == noise.consume_response(
        INITIATOR, handshake, None, parsed
    )


@pytest.mark.parametrize("vector", VECTORS["kdf"], ids=lambda vector: vector["key"][:8])
def test_kdf(vector: dict[str, str]) -> None:
    outputs = hkdf(bytes.fromhex(vector["key"]), bytes.fromhex(vector["input"]), 3)
    assert [output.hex() for output in outputs] == [vector["t1"], vector["t2"], vector["t3"]]


@pytest.mark.parametrize("vector", VECTORS["tai64n"], ids=lambda vector: vector["stamp"])
def test_tai64n(vector: dict[str, Any]) -> None:
    assert tai64n.encode(vector["unix_seconds"], vector["nanoseconds"]).hex() == vector["stamp"]


class TestCookie:
    VECTOR = VECTORS["cookie"]
    SOURCE = (VECTOR["source_ipv4"], VECTOR["source_port"])

    def checker(self) -> cookie.CookieChecker:
        values = [bytes.fromhex(self.VECTOR["xchacha_nonce"]), bytes.fromhex(self.VECTOR["responder_secret"])]
        # The nonce is drawn first only because the reply is begun with it.
        draw = {24: values[0], 32: values[1]}
        return cookie.CookieChecker(RESPONDER.public, draw.__getitem__)

    def test_reply(self) -> None:
        message1 = trace("message1_trace")["message1"]
        assert self.checker().create_reply(message1, self.SOURCE, 0.0).hex() == self.VECTOR["message3"]

    def test_ipv6(self) -> None:
        secret = bytes.fromhex(self.VECTOR["responder_secret"])
        given = bytes.fromhex(self.VECTOR["cookie_input_ipv6_example"])
        assert blake2s_mac(secret, given).hex() == self.VECTOR["cookie_ipv6_example"]
        made = dataplane.cookie(secret, address_bytes(("fd00::1", 0)), self.SOURCE[1])
        assert made.hex() == self.VECTOR["cookie_ipv6_example"]

    def test_round(self) -> None:
        """Message 1, cookie reply, message 1 with mac2, accepted from that source."""
        message1 = trace("message1_trace")["message1"]
        generator = cookie.CookieGenerator(RESPONDER.public)
        assert generator.add_macs(message1, 0.0) == message1
        reply = messages.parse_cookie_reply_untrusted(bytes.fromhex(self.VECTOR["message3"]))
        assert reply.receiver_index == KEYS["initiator_index"]
        assert generator.consume_reply(reply, 1.0)
        with_mac2 = generator.add_macs(message1, 2.0)
        assert with_mac2.hex() == self.VECTOR["message1_with_mac2"]
        assert with_mac2[-16:].hex() == self.VECTOR["mac2"]
        gate = Gate(cookie.mac1_key(RESPONDER.public))
        gate.set_secret(bytes.fromhex(self.VECTOR["responder_secret"]))
        address = address_bytes(self.SOURCE)
        assert gate.judge(message1, address, self.SOURCE[1], 2.0) is Verdict.ADMIT  # the first from there
        assert gate.judge(message1, address, self.SOURCE[1], 2.0) is Verdict.REPLY
        assert gate.judge(with_mac2, address, 1, 2.0) is Verdict.REPLY
        assert gate.judge(with_mac2, address, self.SOURCE[1], 2.0) is Verdict.ADMIT
