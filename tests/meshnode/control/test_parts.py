"""The small parts of the control client: addresses, heads of HTTP/1.1, back-off, and decisions of a login."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.control import http1, login
from meshnode.control.backoff import MAX_DELAY_S, Backoff
from meshnode.control.client import retry_after
from meshnode.control.errors import (
    LoginRefused,
    NodeUnknown,
    NotACoordinator,
    RequestFailed,
    ServerTooOld,
    login_refused,
    unexpected_status,
)
from meshnode.control.noise_stream import parse_server_key_untrusted
from meshnode.control.ping import is_answerable
from meshnode.control.server_url import InvalidServerURL, ServerURL
from meshproto.keys import MachinePublic, NodePrivate
from meshproto.messages import Hostinfo, PingRequest, RegisterResponse, User

SERVER = ServerURL("https", "vpn.example.org", 443)


@pytest.mark.parametrize(
    ("text", "canonical", "authority", "port", "is_tls"),
    [
        ("https://vpn.example.org", "https://vpn.example.org", "vpn.example.org", 443, True),
        ("https://vpn.example.org/", "https://vpn.example.org", "vpn.example.org", 443, True),
        ("https://vpn.example.org:443", "https://vpn.example.org", "vpn.example.org", 443, True),
        ("https://vpn.example.org:8443", "https://vpn.example.org:8443", "vpn.example.org:8443", 8443, True),
        ("http://10.0.0.1:8080", "http://10.0.0.1:8080", "10.0.0.1:8080", 8080, False),
        ("http://[2001:db8::1]:80", "http://[2001:db8::1]", "[2001:db8::1]", 80, False),
        ("HTTP://Host", "http://host", "host", 80, False),
        ("https://münchen.example", "https://xn--mnchen-3ya.example", "xn--mnchen-3ya.example", 443, True),
    ],
)
def test_a_server_url(text: str, canonical: str, authority: str, port: int, is_tls: bool) -> None:
    url = ServerURL.parse(text)
    assert (str(url), url.authority, url.port, url.is_tls) == (canonical, authority, port, is_tls)
    assert ServerURL.parse(str(url)) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "vpn.example.org",
        "ftp://vpn.example.org",
        "https://",
        "https://vpn.example.org/path",
        "https://vpn.example.org?query",
        "https://user@vpn.example.org",
        "https://vpn.example.org:port",
        "https://vpn.example.org:0",
        "https://vpn.example.org:70000",
        "https://vpn example.org",
        "https://[2001:db8::1",
        "https://a..b",
        "https://" + 64 * "a",
    ],
)
def test_no_server_url(text: str) -> None:
    with pytest.raises(InvalidServerURL) as raised:
        ServerURL.parse(text)
    assert f'"{text}"' in str(raised.value)


def test_back_off_grows_with_the_square_and_ends_at_its_limit() -> None:
    middle = Backoff(lambda size: b"\x80" + bytes(size - 1))
    assert [round(middle.next_delay(), 3) for _ in range(4)] == [0.01, 0.04, 0.09, 0.16]
    delays = [middle.next_delay() for _ in range(200)]
    assert delays == sorted(delays)
    assert delays[-1] == MAX_DELAY_S
    middle.reset()
    assert middle.next_delay() == pytest.approx(0.01)


@given(st.binary(min_size=4, max_size=4), st.integers(1, 100))
def test_back_off_is_spread_by_half(entropy: bytes, attempt: int) -> None:
    backoff = Backoff(lambda size: entropy)
    backoff.failures = attempt - 1
    plain = attempt**2 * 0.01
    assert min(plain * 0.5, MAX_DELAY_S) <= backoff.next_delay() <= min(plain * 1.5, MAX_DELAY_S)


@pytest.mark.parametrize(("text", "seconds"), [("1", 1.0), ("3600", 3600.0)])
def test_retry_after_is_honoured(text: str, seconds: float) -> None:
    assert retry_after(text, os.urandom) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1", "3601", "9" * 5000, "soon", "Wed, 21 Oct 2026 07:28:00 GMT"])
def test_another_retry_after_is_five_to_ten_seconds(text: str) -> None:
    assert 5.0 <= retry_after(text, os.urandom) <= 10.0


@given(st.binary(max_size=200))
def test_any_head_is_parsed_or_refused(data: bytes) -> None:
    try:
        http1.parse_head_untrusted(data)
    except http1.NotHTTP:
        pass


def test_a_head() -> None:
    head = http1.parse_head_untrusted(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade:  x \r\nA: b: c\r\n\r\n")
    assert head == http1.Head(101, {"upgrade": "x", "a": "b: c"})


@pytest.mark.parametrize(
    "data", [b"", b"HTTP/2 200\r\n\r\n", b"HTTP/1.1 20 OK\r\n\r\n", b"SSH-2.0-OpenSSH\r\n\r\n"]
)
def test_no_head(data: bytes) -> None:
    with pytest.raises(http1.NotHTTP):
        http1.parse_head_untrusted(data)


async def body_of(head: str, data: bytes) -> bytes:
    reader = asyncio.StreamReader()
    reader.feed_data(f"HTTP/1.1 200 OK\r\n{head}\r\n".encode() + data)
    reader.feed_eof()
    return await http1.read_body(reader, await http1.read_head(reader))


@pytest.mark.parametrize(
    ("head", "data"),
    [
        ("Content-Length: 5\r\n", b"hello, and more"),
        ("", b"hello"),
        ("Transfer-Encoding: chunked\r\n", b"2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n"),
    ],
)
async def test_a_body(head: str, data: bytes) -> None:
    assert await body_of(head, data) == b"hello"


@pytest.mark.parametrize(
    ("head", "data"),
    [
        ("Content-Length: 5\r\n", b"hell"),
        ("Content-Length: x\r\n", b"hello"),
        ("Content-Length: 99999999\r\n", b"hello"),
        (f"Content-Length: {'9' * 5000}\r\n", b"hello"),
        ("", bytes(http1.MAX_BODY_SIZE + 1)),
        ("Transfer-Encoding: chunked\r\n", b"2\r\nh"),
        ("Transfer-Encoding: chunked\r\n", b"z\r\nhe\r\n"),
        ("Transfer-Encoding: chunked\r\n", b"-2\r\nhe\r\n"),
        ("Transfer-Encoding: chunked\r\n", b"fffffff\r\nhe\r\n"),
    ],
)
async def test_a_body_that_is_cut_short_or_endless(head: str, data: bytes) -> None:
    with pytest.raises(http1.NotHTTP):
        await body_of(head, data)


KEY = MachinePublic(bytes(range(32)))


def test_the_server_key() -> None:
    body = f'{{"legacyPublicKey":"mkey:{"0" * 64}","publicKey":"{KEY}"}}'.encode()
    assert parse_server_key_untrusted(SERVER, http1.Head(200, {}), body) == KEY


@pytest.mark.parametrize(
    ("status", "headers", "body", "kind", "says"),
    [
        (200, {"content-type": "text/html"}, b"<html>", NotACoordinator, "a web page"),
        (200, {}, b"  <!doctype html>", NotACoordinator, "a web page"),
        (200, {}, b"{}", ServerTooOld, "upgrade"),
        (200, {}, b"", NotACoordinator, "something else"),
        (200, {}, b"a" * 64, ServerTooOld, "upgrade"),
        (
            404,
            {"content-type": "text/html"},
            b"<html>",
            NotACoordinator,
            "HTTP 404 (Not Found) and a web page",
        ),
        (301, {"location": "https://x/"}, b"", NotACoordinator, "https://x/"),
        (400, {}, b"Client sent an HTTP request to an HTTPS server.", NotACoordinator, "https://"),
        (502, {}, b"", NotACoordinator, "proxy"),
        (799, {}, b"", NotACoordinator, "799"),
    ],
)
def test_what_is_no_server_key(
    status: int, headers: dict[str, str], body: bytes, kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind) as raised:
        parse_server_key_untrusted(SERVER, http1.Head(status, headers), body)
    assert says in str(raised.value)
    assert str(SERVER) in str(raised.value)


def test_a_refusal_is_one_line_with_the_fix() -> None:
    assert "preauthkeys create" in str(login_refused("authkey\nexpired"))
    assert "\n" not in str(login_refused("authkey\nexpired"))
    said = "authkey expired; create a new one with: coordinator preauthkeys create"
    assert str(login_refused(said)).endswith(said)


def test_statuses_have_their_kind() -> None:
    assert isinstance(unexpected_status("s", "/machine/map", 404, "node not found"), NodeUnknown)
    failure = unexpected_status("s", "/machine/map", 500, "")
    assert type(failure) is RequestFailed
    assert "Internal Server Error" in str(failure)


# Login: key choice and the order of the checks (control protocol §6.2, §6.3).

OLD, NEW = NodePrivate.generate(os.urandom), NodePrivate.generate(os.urandom)
RESUMED = login.resume(NEW, OLD)


def test_a_restart_asks_with_what_it_has() -> None:
    request = login.register_request(RESUMED, Hostinfo(hostname="x"))
    assert (request.node_key, request.old_node_key, request.auth) == (NEW.public, OLD.public, None)
    assert request.followup == ""
    assert request.requested_expiry is None


def test_a_new_login_makes_a_key_and_names_the_former_one() -> None:
    attempt = login.fresh(OLD, "key--TLsecret", os.urandom)
    request = login.register_request(attempt, Hostinfo())
    assert request.node_key not in (OLD.public, NEW.public)
    assert request.old_node_key == OLD.public
    assert request.auth_key == "key"
    assert "key" not in repr(attempt).replace("nodekey", "")


def test_a_logout_is_an_expiry_in_the_past() -> None:
    request = login.logout_request(NEW, None, Hostinfo())
    assert request.requested_expiry == datetime(1970, 1, 1, 0, 2, 3, tzinfo=UTC)
    assert request.old_node_key.is_zero


def test_an_accepted_key_is_logged_in() -> None:
    step = login.consume(RESUMED, RegisterResponse(user=User(id=7)), os.urandom)
    assert isinstance(step, login.LoggedIn)
    assert (step.node_key, step.old_node_key, step.user.id) == (NEW, OLD, 7)


def test_a_url_is_followed_up_with_the_same_keys() -> None:
    step = login.consume(RESUMED, RegisterResponse(auth_url="https://x/register/y"), os.urandom)
    assert isinstance(step, login.AwaitApproval)
    assert step.url == "https://x/register/y"
    request = login.register_request(step.attempt, Hostinfo())
    assert (request.node_key, request.old_node_key, request.followup) == (NEW.public, OLD.public, step.url)


def test_an_expired_key_is_replaced_once() -> None:
    step = login.consume(RESUMED, RegisterResponse(node_key_expired=True, auth_url="x"), os.urandom)
    assert isinstance(step, login.AskAgain)
    assert step.attempt.is_fresh
    assert step.attempt.old_node_key == NEW
    with pytest.raises(LoginRefused):
        login.consume(step.attempt, RegisterResponse(node_key_expired=True), os.urandom)


@pytest.mark.parametrize(
    "response",
    [
        RegisterResponse(error="no", node_key_expired=True, auth_url="x"),
        RegisterResponse(node_key_signature=b"x", auth_url="x"),
    ],
)
def test_an_error_hides_everything_else(response: RegisterResponse) -> None:
    with pytest.raises(LoginRefused):
        login.consume(RESUMED, response, os.urandom)


@pytest.mark.parametrize(
    ("request_", "answerable"),
    [
        (PingRequest(url="http://x/y"), True),
        (PingRequest(url="http://x/y", types="disco"), False),
        (PingRequest(url="http://x/y", url_is_noise=True), False),
        (PingRequest(), False),
    ],
)
def test_only_the_plain_ping_is_answered(request_: PingRequest, answerable: bool) -> None:
    assert is_answerable(request_) is answerable
