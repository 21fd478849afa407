"""Why a relay cannot be used, in words for a person."""

from __future__ import annotations

import os
import socket
import ssl


class CannotConnect(Exception):
    """No connection to a relay, or none any more; `str()` says why."""


class ProxyFailed(CannotConnect):
    """An HTTP proxy is in between, and that is where it ends."""


class UpgradeRefused(CannotConnect):
    """The request for an upgrade was answered with another HTTP status."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"answers {status} {reason}".rstrip() + ", so no relay is there")
        self.status = status


def reason_of(error: Exception) -> str:
    """What went wrong below us, as the end of a sentence that begins with the relay's name."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"has a certificate that is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"does not speak TLS as expected: {error.reason or error}"
    if isinstance(error, socket.gaierror | UnicodeError):
        return "has no address: its name cannot be resolved"
    if isinstance(error, TimeoutError):
        return "does not answer"
    if isinstance(error, OSError) and error.errno:
        return f"cannot be reached: {os.strerror(error.errno)}"
    return f"cannot be reached: {error}" if str(error) else "closed the connection"
