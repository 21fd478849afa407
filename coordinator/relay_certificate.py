"""The certificate of the embedded relay where no public one is at hand: pinned by the DERP map.

Clients speak DERP inside TLS only. Where the coordinator is reached by plain HTTP, its relay shows a
self-signed certificate whose digest the DERP map carries (`CertName`, nat-traversal reference §1.9). The map
itself comes inside the control connection, so whoever can trust that one can trust the relay.

The certificate follows from the relay's key and the name it is asked for, byte for byte, after every start:
maps that nodes have kept stay good.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from meshproto.keys import NodePrivate

PIN_PREFIX = "sha256-raw:"
NAME_OF_ADDRESSES = "relay.invalid"
"""Who dials an address names no host in its handshake. All addresses share one certificate, for this name."""

KEPT = 64
_VALID_FROM = datetime(2020, 1, 1, tzinfo=UTC)
_NEVER_EXPIRES = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)  # RFC 5280 §4.1.2.5
_SUBJECT = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "embedded DERP relay")])
_PURPOSE = b"meshnode: key of the embedded relay's certificate"
_HOST_NAME = re.compile(r"[a-z0-9_]([a-z0-9._-]{0,251}[a-z0-9])?")


class CertificateMaker:
    """The certificates of the relay with this key."""

    def __init__(self, relay_key: NodePrivate) -> None:
        seed = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=_PURPOSE).derive(relay_key.raw)
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self._made = lru_cache(maxsize=KEPT)(self._make)

    def certificate(self, host: str) -> bytes:
        """As DER, for a host name; for an address or nonsense, the one that all of those share."""
        return self._made(certified_name(host))

    def pin(self, host: str) -> str:
        """What the DERP map says as `CertName` for a relay that is reached as `host`."""
        return PIN_PREFIX + hashlib.sha256(self.certificate(host)).hexdigest()

    def key_pem(self) -> bytes:
        """The private key of all of them."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def _make(self, name: str) -> bytes:
        public_key = self._key.public_key()
        serial = hashlib.sha256(public_key.public_bytes_raw() + name.encode()).digest()[:16]
        builder = (
            x509.CertificateBuilder()
            .subject_name(_SUBJECT)
            .issuer_name(_SUBJECT)
            .public_key(public_key)
            .serial_number(int.from_bytes(serial, "big") | 1)
            .not_valid_before(_VALID_FROM)
            .not_valid_after(_NEVER_EXPIRES)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        )
        return builder.sign(self._key, None).public_bytes(Encoding.DER)


def certified_name(host: str) -> str:
    """The name in the certificate of a relay that is reached as `host`."""
    try:
        ip_address(host)
    except ValueError:
        name = host.lower().rstrip(".")
        return name if _HOST_NAME.fullmatch(name) else NAME_OF_ADDRESSES
    return NAME_OF_ADDRESSES
