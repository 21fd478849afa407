"""The relay's TLS, and the extra certificate by which a client knows the relay's DERP key before its login.

The meta certificate comes after the chain: self-signed, its common name `derpkey` and the key in hex, its
serial number the protocol version (nat-traversal reference §1.3). It proves nothing by itself. It arrives
inside the handshake that the chain proves, and saves a round trip. Its name is longer than X.509 allows, and
so it is put together here: certificate libraries refuse to.
"""

from __future__ import annotations

import re
import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from derp.login import PROTOCOL_VERSION
from meshproto.keys import NodePublic

META_PREFIX = "derpkey"
VALID_FOR = timedelta(days=30)

_META_NAME = re.compile(META_PREFIX.encode() + rb"([0-9a-f]{64})")
_ED25519 = bytes.fromhex("300506032b6570")  # AlgorithmIdentifier
_COMMON_NAME = bytes.fromhex("0603550403")


class BadCertificate(Exception):
    """Certificate or key cannot be used; `str()` says why."""


class ServerTls:
    """TLS for a relay with this DERP key. `context` is for its listeners.

    Renewed files go into a new context, to which each handshake is referred: a context that is loaded again
    would keep serving the old certificate if the new one is of another type.
    """

    def __init__(self, certificate: Path, key: Path, server: NodePublic, wall: datetime) -> None:
        """Raises BadCertificate."""
        self._certificate = certificate
        self._key = key
        self._server = server
        self._current = self._load(wall)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        _configure(self.context)
        self.context.sni_callback = self._refer

    def reload(self, wall: datetime) -> None:
        """Read the files again. Raises BadCertificate, and goes on with what it has."""
        self._current = self._load(wall)

    def _refer(
        self, handshake: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _from: ssl.SSLContext
    ) -> None:
        handshake.context = self._current

    def _load(self, wall: datetime) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        _configure(context)
        try:
            chain = self._certificate.read_text()
            self._key.read_bytes()
        except (OSError, ValueError) as error:
            raise BadCertificate(f"cannot read the certificate or its key: {error}") from error
        meta = ssl.DER_cert_to_PEM_cert(meta_certificate(self._server, wall))
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._certificate, self._key)
            with tempfile.NamedTemporaryFile("w", suffix=".pem") as together:
                together.write(chain.rstrip("\n") + "\n" + meta)
                together.flush()
                context.load_cert_chain(together.name, self._key)
        except ssl.SSLError as error:
            raise BadCertificate(
                f"{self._certificate} and {self._key} are no certificate with its key: {error.reason}"
            ) from error
        return context


def _configure(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])


def meta_certificate(server: NodePublic, wall: datetime) -> bytes:
    """The extra certificate, as DER. Signed with a key that is then forgotten."""
    signer = Ed25519PrivateKey.generate()
    name = _sequence(
        _der(0x31, _sequence(_COMMON_NAME, _der(0x0C, f"{META_PREFIX}{server.raw.hex()}".encode())))
    )
    validity = _sequence(_time(wall - VALID_FOR), _time(wall + VALID_FOR))
    public_key = _sequence(_ED25519, _der(0x03, b"\0" + signer.public_key().public_bytes_raw()))
    version, serial = bytes.fromhex("a003020102"), _der(0x02, bytes([PROTOCOL_VERSION]))
    extensions = _der(0xA3, _sequence(_sequence(bytes.fromhex("0603551d130101ff04023000"))))
    body = _sequence(version, serial, _ED25519, name, validity, name, public_key, extensions)
    return _sequence(body, _ED25519, _der(0x03, b"\0" + signer.sign(body)))


def server_key_in(chain: list[bytes]) -> NodePublic | None:
    """The DERP key that a chain of DER certificates, as received in a handshake, announces."""
    for certificate in chain:
        name = _META_NAME.search(certificate)
        if name is not None and _serial(certificate) == PROTOCOL_VERSION:
            return NodePublic(bytes.fromhex(name[1].decode()))
    return None


def is_meta(certificate: bytes) -> bool:
    """Whether a DER certificate is an extra one, of any version."""
    return _META_NAME.search(certificate) is not None


def received_chain(tls: ssl.SSLObject) -> list[bytes]:
    """The certificates that the other side sent, as DER. Empty where this Python cannot tell."""
    source: Any = tls if hasattr(tls, "get_unverified_chain") else getattr(tls, "_sslobj", None)
    if source is None or not hasattr(source, "get_unverified_chain"):
        return []
    chain = source.get_unverified_chain() or []
    return [one if isinstance(one, bytes) else ssl.PEM_cert_to_DER_cert(one.public_bytes()) for one in chain]


def _serial(certificate: bytes) -> int | None:
    try:
        return x509.load_der_x509_certificate(certificate).serial_number
    except ValueError:
        return None


def _der(tag: int, *contents: bytes) -> bytes:
    content = b"".join(contents)
    if len(content) < 0x80:
        return bytes([tag, len(content)]) + content
    size = len(content).to_bytes(2, "big").lstrip(b"\0")
    return bytes([tag, 0x80 | len(size)]) + size + content


def _sequence(*contents: bytes) -> bytes:
    return _der(0x30, *contents)


def _time(when: datetime) -> bytes:
    return _der(0x17, when.astimezone(UTC).strftime("%y%m%d%H%M%SZ").encode())
