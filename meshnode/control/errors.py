"""What can go wrong between the node and its coordinator: one exception per cause, each with a line for a
person.

The text of every `ControlError` names the server, says what happened and what to do about it; it is shown as
it is by `meshnode up` and in the health list.
"""

from __future__ import annotations

from http import HTTPStatus


class ControlError(Exception):
    """The coordinator cannot be used just now. `str()` is one line for a person."""

    retry_after: float | None = None
    """Seconds the server asked us to wait, where it did."""


class Unreachable(ControlError):
    """No connection: unknown name, refused, timed out, or no route."""


class TlsFailure(ControlError):
    """A connection, but no TLS session: an untrusted certificate, or a peer that speaks no TLS."""


class NotACoordinator(ControlError):
    """Something answers, but it does not speak the control protocol."""


class ServerTooOld(ControlError):
    """The server knows the protocol only in a form that no longer exists."""


class HandshakeFailed(ControlError):
    """The Noise handshake did not complete; the server's key may have changed."""


class ConnectionLost(ControlError):
    """The connection ended or fell silent while it was in use."""


class LoginRefused(ControlError):
    """The coordinator said no; its own words are in the text."""


class RequestFailed(ControlError):
    """An answer with an HTTP status other than 200."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class NodeUnknown(RequestFailed):
    """404 on the map: the coordinator has no such node, or not with our machine key."""


ADVICE_BY_REFUSAL = {
    "expired": 'create a new key with "coordinator preauthkeys create --user NAME" for --auth-key',
    "already used": 'create a new (or --reusable) key with "coordinator preauthkeys create --user NAME"',
    "revoked": 'create a new key with "coordinator preauthkeys create --user NAME"',
    "invalid pre auth key": 'check the key; "coordinator preauthkeys list" shows the ones that exist',
}
"""What a refused auth key calls for, by a phrase of the reference servers' errors (control protocol §6.5)."""


def login_refused(text: str, advice: str = "") -> LoginRefused:
    """The server's `Error` with the fix where we know one. The text is the server's: shown on one line."""
    said = " ".join(text.split())
    if not advice and "coordinator " not in said:  # ours says itself what to do
        advice = next((fix for phrase, fix in ADVICE_BY_REFUSAL.items() if phrase in said.lower()), "")
    return LoginRefused(f"the coordinator refused the login: {said}" + (f"; {advice}" if advice else ""))


def refused(server: str) -> Unreachable:
    """ECONNREFUSED."""
    return Unreachable(
        f"{server} refused the connection; check that the coordinator runs there and that the port is right"
    )


def unknown_host(server: str, host: str) -> Unreachable:
    """The name does not resolve."""
    return Unreachable(
        f"{server}: no address found for {host}; check the name in --login-server and this host's DNS"
    )


def no_answer(server: str, seconds: float) -> Unreachable:
    """Nothing came back in time."""
    return Unreachable(
        f"{server} did not answer within {seconds:.0f} s; check the address, the network and firewalls"
    )


def no_route(server: str, reason: str) -> Unreachable:
    """ENETUNREACH, EHOSTUNREACH and their kin."""
    return Unreachable(f"{server} cannot be reached ({reason}); check the address and this host's network")


def proxy_failed(server: str, reason: str) -> Unreachable:
    """An HTTP proxy is in between."""
    return Unreachable(
        f"{server} cannot be reached: {reason}; check HTTPS_PROXY, HTTP_PROXY and NO_PROXY of the daemon"
    )


def untrusted(server: str, reason: str) -> TlsFailure:
    """The certificate does not verify."""
    return TlsFailure(
        f"{server}: its TLS certificate is not trusted ({reason}); "
        "give the coordinator a valid certificate, or name your own authority in SSL_CERT_FILE"
    )


def no_tls(server: str) -> TlsFailure:
    """The port answers without TLS."""
    return TlsFailure(
        f"{server} does not speak TLS on that port; if it is a plain HTTP port, write http:// instead"
    )


def not_a_coordinator(server: str, path: str, what: str) -> NotACoordinator:
    """A web server, a proxy or something else entirely answered `path` with `what`."""
    return NotACoordinator(
        f"{server} answers {path} with {what}, not as a coordinator; "
        "check --login-server, and that a proxy in front passes /key and /ts2021 on"
    )


def unexpected_status(server: str, path: str, status: int, text: str) -> RequestFailed:
    """A `/machine/*` request that was not answered with 200; `text` is the server's."""
    said = " ".join(text.split())[:200] or phrase(status)
    return (NodeUnknown if status == HTTPStatus.NOT_FOUND else RequestFailed)(
        f"{server} answered {path} with HTTP {status}: {said}", status
    )


def phrase(status: int) -> str:
    """The standard words for an HTTP status, or the number."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return str(status)
