"""The meta certificate, what it says, and whose certificates a client accepts."""

from __future__ import annotations

import hashlib
import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from derp.certificates import (
    BadCertificate,
    ServerTls,
    is_meta,
    meta_certificate,
    server_key_in,
)
from derp.client import Disconnected
from derp.client_core import Connected
from derp.relay_node import RelayNode
from derp.trust import matches
from tests.derp.keys import ALICE, BOB, RELAY
from tests.derp.relays import Certificate, running_client, running_relay

NOW = datetime(2026, 9, 1, tzinfo=UTC)


def test_meta_certificate_is_what_openssl_reads_as_one() -> None:
    encoded = meta_certificate(RELAY.public, NOW)
    parsed = x509.load_der_x509_certificate(encoded)
    assert parsed.serial_number == 2
    assert parsed.not_valid_before_utc == NOW - timedelta(days=30)
    assert parsed.not_valid_after_utc == NOW + timedelta(days=30)
    assert not parsed.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    public_key = parsed.public_key()
    assert isinstance(public_key, Ed25519PublicKey)
    public_key.verify(parsed.signature, parsed.tbs_certificate_bytes)
    assert f"derpkey{RELAY.public.raw.hex()}".encode() in encoded


def test_key_is_found_in_a_chain(certificate: Certificate) -> None:
    leaf = ssl.PEM_cert_to_DER_cert(certificate.chain.read_text())
    meta = meta_certificate(RELAY.public, NOW)
    assert server_key_in([leaf, meta]) == RELAY.public
    assert server_key_in([leaf]) is None
    assert server_key_in([]) is None
    assert is_meta(meta)
    assert not is_meta(leaf)


def test_other_version_is_passed_over() -> None:
    meta = meta_certificate(RELAY.public, NOW)
    newer = meta.replace(bytes.fromhex("a003020102020102"), bytes.fromhex("a003020102020103"))
    assert newer != meta
    assert server_key_in([newer]) is None
    assert is_meta(newer)


@pytest.mark.parametrize(
    "noise", [b"", b"derpkey", b"derpkey" + b"ab" * 32, b"\x30\x82" + b"derpkey" + b"0" * 64]
)
def test_noise_has_no_key(noise: bytes) -> None:
    assert server_key_in([noise]) is None


def test_files_that_are_no_certificate(certificate: Certificate, tmp_path: Path) -> None:
    other = Certificate.make(tmp_path)
    garbage = tmp_path / "garbage"
    garbage.write_text("garbage")
    for chain, key in [
        (tmp_path / "missing", certificate.key),
        (certificate.chain, tmp_path / "missing"),
        (garbage, certificate.key),
        (certificate.chain, garbage),
        (certificate.chain, other.key),
    ]:
        with pytest.raises(BadCertificate):
            ServerTls(chain, key, RELAY.public, NOW)


def pinned(node: RelayNode, certificate: Certificate, **changes: str) -> RelayNode:
    leaf = ssl.PEM_cert_to_DER_cert(certificate.chain.read_text())
    digest = hashlib.sha256(leaf).hexdigest()
    return replace(node, **{"cert_name": f"sha256-raw:{digest}", **changes})  # type: ignore[arg-type]


async def connects(node: RelayNode, tls: Certificate | None = None) -> str:
    """Why the first attempt fails, or nothing when it does not."""
    async with running_client(node, ALICE, tls=tls) as client:
        while not client.events:
            await client._wait()
        match client.events[0]:
            case Connected():
                return ""
            case Disconnected(reason):
                return reason
    raise AssertionError(client.events)


async def test_certificate_known_by_its_digest(certificate: Certificate, tmp_path: Path) -> None:
    other = Certificate.make(tmp_path)
    async with running_relay(tls=certificate) as relay:
        assert await connects(pinned(relay.node, certificate)) == ""
        assert await connects(pinned(relay.node, certificate, host_name="127.0.0.1")) == ""
        assert "another certificate" in await connects(pinned(relay.node, other))
        wrong_name = pinned(relay.node, certificate, host_name="relay.example", ipv4="127.0.0.1")
        assert "another name" in await connects(wrong_name)


async def test_certificate_for_another_name(tmp_path: Path) -> None:
    certificate = Certificate.make(tmp_path, names=("front.example", "*.wild.example"))
    async with running_relay(tls=certificate) as relay:
        for name, reason in [
            ("front.example", ""),
            ("a.wild.example", ""),
            ("b.a.wild.example", "not for b.a.wild.example"),
            ("wild.example", "not for wild.example"),
        ]:
            node = replace(relay.node, cert_name=name)
            assert reason in await connects(node, certificate)
            assert bool(await connects(node, certificate)) == bool(reason)
        assert "not trusted" in await connects(replace(relay.node, cert_name="front.example"))
        assert "not trusted" in await connects(relay.node, certificate)


async def test_any_certificate_in_tests(certificate: Certificate) -> None:
    async with running_relay(tls=certificate, key=BOB) as relay:
        assert await connects(replace(relay.node, is_insecure=True)) == ""


def test_names_and_addresses(certificate: Certificate) -> None:
    parsed = x509.load_pem_x509_certificate(certificate.chain.read_bytes())
    for host, expected in [
        ("localhost", True),
        ("LOCALHOST.", True),
        ("127.0.0.1", True),
        ("127.0.0.2", False),
        ("host", False),
        ("", False),
    ]:
        assert matches(parsed, host) is expected
