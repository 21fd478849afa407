"""ICMP echo requests and what answers them."""

from __future__ import annotations

import pytest

from meshnode.netcheck.echo import echo_request, ipv4_payload_untrusted, is_reply_untrusted


@pytest.mark.parametrize(
    ("version", "request_start", "reply_kind"),
    [
        pytest.param(4, "0800 b469", 0, id="IPv4"),
        pytest.param(6, "8000 0000", 129, id="IPv6, whose checksum the kernel puts in"),
    ],
)
def test_echo(version: int, request_start: str, reply_kind: int) -> None:
    request = echo_request(version, 0x1234, 1, b"1a")
    assert request == bytes.fromhex(request_start + "1234 0001") + b"1a"
    reply = bytes([reply_kind]) + request[1:]
    assert is_reply_untrusted(reply, version, 1, b"1a", identifier=None)
    assert is_reply_untrusted(reply, version, 1, b"1a", identifier=0x1234)
    assert not is_reply_untrusted(reply, version, 1, b"1a", identifier=0x1235)
    assert not is_reply_untrusted(request, version, 1, b"1a", identifier=0x1234)
    assert not is_reply_untrusted(reply, version, 2, b"1a", identifier=None)
    assert not is_reply_untrusted(reply, version, 1, b"1b", identifier=None)
    assert not is_reply_untrusted(reply, 10 - version, 1, b"1a", identifier=None)
    for size in range(len(reply)):
        assert not is_reply_untrusted(reply[:size], version, 1, b"1a", identifier=None)


def test_a_raw_socket_gives_the_ip_header_too() -> None:
    header = b"\x46" + bytes(23)
    assert ipv4_payload_untrusted(header + b"message") == b"message"
    for size in range(len(header) + 1):
        assert ipv4_payload_untrusted(header[:size]) == b""
