"""TLS with the embedded relay's own certificates (relay_certificate.py), whichever host name is asked for."""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime
from functools import lru_cache

from coordinator.relay_certificate import KEPT, CertificateMaker, certified_name
from derp.certificates import meta_certificate
from meshproto.keys import NodePublic


def server_context(
    certificates: CertificateMaker, relay_key: NodePublic, only_host: str = ""
) -> ssl.SSLContext:
    """For the public listener. Its handshakes also tell the relay's DERP key, for a fast start.

    `only_host` is where nodes reach us; if it is not known, there is a certificate for whatever they ask for.
    """
    meta = meta_certificate(relay_key, datetime.now(UTC))

    @lru_cache(maxsize=KEPT)
    def context_for(name: str) -> ssl.SSLContext:
        return _context([certificates.certificate(name), meta], certificates.key_pem())

    def refer(handshake: ssl.SSLObject | ssl.SSLSocket, name: str | None, _from: ssl.SSLContext) -> None:
        if name is not None and certified_name(name) == certified_name(only_host or name):
            handshake.context = context_for(certified_name(name))

    context = context_for(certified_name(""))
    context.sni_callback = refer
    return context


def _context(chain: list[bytes], key_pem: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    pem = key_pem + "".join(ssl.DER_cert_to_PEM_cert(one) for one in chain).encode()
    # The ssl module takes key and chain from a file only. This one is in memory, and gone afterwards.
    with os.fdopen(os.memfd_create("relay-certificate", os.MFD_CLOEXEC), "wb") as file:
        file.write(pem)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
    return context
