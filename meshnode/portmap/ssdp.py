"""The search for a UPnP gateway: SSDP, which is HTTP's headers in UDP datagrams (reference §6.3).

Pure. The format is that of UPnP Device Architecture 1.1 §1.3. What a device answers is trusted to be nothing
but text: it only tells at which port and path of the gateway a description may be fetched.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final
from urllib.parse import urlsplit

__all__ = [
    "GROUP",
    "MAX_SIZE",
    "PORT",
    "Answer",
    "gateway_url",
    "parse_answer_untrusted",
    "parse_notice_untrusted",
    "searches",
]

GROUP: Final = IPv4Address("239.255.255.250")
PORT: Final = 1900
MAX_SIZE: Final = 2048
"""Bytes of a datagram that are looked at; answers have some 400."""

GATEWAY_DEVICE: Final = ":InternetGatewayDevice:"
_ANYTHING: Final = "ssdp:all"
_GATEWAYS: Final = "urn:schemas-upnp-org:device:InternetGatewayDevice:1"


@dataclass(frozen=True, slots=True)
class Answer:
    """A device tells where its description is."""

    location: str
    device: str
    """Its type and version, such as `urn:schemas-upnp-org:device:InternetGatewayDevice:2`."""


def searches(gateway: IPv4Address, attempt: int) -> tuple[tuple[bytes, IPv4Address], ...]:
    """The datagrams of one attempt to find the gateway's device, and where to send them, in this order.

    The one to the gateway alone goes first: it makes a firewall of this host expect answers from there. The
    first attempt asks for gateways, which is one answer; later ones ask for everything, which a home router
    answers with dozens, for the devices that do not answer to the former.
    """
    search = _search(_GATEWAYS if attempt == 0 else _ANYTHING)
    return (search, gateway), (search, GROUP)


def _search(target: str) -> bytes:
    lines = (
        "M-SEARCH * HTTP/1.1",
        f"HOST: {GROUP}:{PORT}",
        f"ST: {target}",
        'MAN: "ssdp:discover"',
        "MX: 1",
    )
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


def parse_answer_untrusted(datagram: bytes) -> Answer | None:
    """The answer of an internet gateway to a search; None for anything else."""
    start, headers = _message(datagram)
    if not (start.startswith("HTTP/1.") and start.split()[1:2] == ["200"]):
        return None
    device = headers.get("st", "")
    if GATEWAY_DEVICE not in device:
        device = headers.get("usn", "")
    location = headers.get("location", "")
    return Answer(location, device) if location and GATEWAY_DEVICE in device else None


def parse_notice_untrusted(datagram: bytes) -> str | None:
    """What tells one run of an internet gateway from the next, in its notices; None for anything else.

    A gateway says all the time that it is there. It says that it leaves when it is shut down, and it numbers
    its runs if it speaks UPnP 1.1.
    """
    start, headers = _message(datagram)
    if not start.startswith("NOTIFY ") or GATEWAY_DEVICE not in headers.get("nt", ""):
        return None
    kind = headers.get("nts", "")
    return f"{kind} {headers.get('bootid.upnp.org', '')}" if kind in ("ssdp:alive", "ssdp:byebye") else None


def _message(datagram: bytes) -> tuple[str, dict[str, str]]:
    """The first line, and the headers by their name in small letters; of a repeated one the first."""
    start, *lines = datagram[:MAX_SIZE].decode("utf-8", "replace").split("\r\n")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers.setdefault(name.strip().lower(), value.strip())
    return start, headers


def gateway_url(gateway: IPv4Address, url: str) -> str | None:
    """`url`, absolute or not, on the gateway and nowhere else; None if it is nothing to fetch by HTTP.

    Some gateways name another address of theirs, so the host of the URL is not compared but replaced.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or 80
    except ValueError:
        return None
    if parts.scheme != "http" or not parts.hostname:
        return None
    path = parts.path or "/"
    query = f"?{parts.query}" if parts.query else ""
    return f"http://{gateway}:{port}{path}{query}"
