"""Whose certificate a client accepts (nat-traversal reference §1.3, §1.9).

Usually one for the relay's name, from an authority the system trusts. A DERP map may name another
(`cert_name` is a name), or have the digest of the one certificate there is (`sha256-raw:`), for relays
without a name.
"""

from __future__ import annotations

import hashlib
import hmac
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import ip_address

from cryptography import x509

from derp.certificates import is_meta, received_chain
from derp.errors import CannotConnect
from derp.relay_node import RelayNode
from meshproto.addresses import is_address

DIGEST_PREFIX = "sha256-raw:"

MakeContext = Callable[[], ssl.SSLContext]
"""Makes a context that trusts whom it should; `ssl.create_default_context` is one."""


def client_context(node: RelayNode, make: MakeContext) -> ssl.SSLContext:
    """TLS settings for a connection to this relay."""
    if node.is_insecure or node.cert_name.startswith(DIGEST_PREFIX):
        return _trusts_anyone()
    return _trusts_names(make) if node.cert_name else _trusts_relay(make)


# Loading every authority that the system trusts takes tens of milliseconds, so once must do.


@lru_cache(maxsize=8)
def _trusts_relay(make: MakeContext) -> ssl.SSLContext:
    return make()


@lru_cache(maxsize=8)
def _trusts_names(make: MakeContext) -> ssl.SSLContext:
    context = make()
    context.check_hostname = False
    return context


@lru_cache(maxsize=1)
def _trusts_anyone() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def check_peer(node: RelayNode, tls: ssl.SSLObject, wall: datetime) -> None:
    """What the handshake has not checked. Raises CannotConnect."""
    if node.is_insecure or not node.cert_name:
        return
    chain = [certificate for certificate in received_chain(tls) if not is_meta(certificate)]
    if not chain:
        raise CannotConnect(f"{node} shows no certificate, or this Python cannot tell which")
    if node.cert_name.startswith(DIGEST_PREFIX):
        _check_digest(node, chain, wall)
    elif not matches(x509.load_der_x509_certificate(chain[0]), node.cert_name):
        raise CannotConnect(f"{node} has a certificate that is not for {node.cert_name}")


def matches(certificate: x509.Certificate, host: str) -> bool:
    """Whether a certificate is for a name or an address. Only the alternative names count (RFC 9525 §6.3)."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    try:
        return ip_address(host) in names.get_values_for_type(x509.IPAddress)
    except ValueError:
        wanted = host.lower().rstrip(".")
        parent = "*." + wanted.partition(".")[2]
        return bool({wanted, parent} & {name.lower() for name in names.get_values_for_type(x509.DNSName)})


def _check_digest(node: RelayNode, chain: list[bytes], wall: datetime) -> None:
    wanted = node.cert_name.removeprefix(DIGEST_PREFIX).lower()
    if len(chain) != 1 or not hmac.compare_digest(hashlib.sha256(chain[0]).hexdigest(), wanted):
        raise CannotConnect(f"{node} has another certificate than the DERP map says")
    certificate = x509.load_der_x509_certificate(chain[0])
    now = wall.astimezone(UTC)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise CannotConnect(f"{node} has a certificate that is not valid today")
    # Who dials an address names none in the handshake, so such a relay cannot choose a certificate by it.
    if not is_address(node.host_name) and not matches(certificate, node.host_name):
        raise CannotConnect(f"{node} has a certificate for another name")
