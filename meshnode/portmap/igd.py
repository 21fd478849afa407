"""UPnP's internet gateway device: its description, and the calls that map a port (reference §6.3).

Pure. A description is XML that lists services, of which one maps ports. A call is XML too, inside a SOAP
envelope. Both come from a device that nobody vouches for: XML with a document type is refused, which is what
entities would be declared in, and what is read is only a handful of short texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urljoin
from xml.etree.ElementTree import Element, ParseError
from xml.sax.saxutils import escape

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

__all__ = [
    "MAX_DESCRIPTION",
    "MAX_REPLY",
    "Fault",
    "MalformedXML",
    "Service",
    "call",
    "mapping_services",
    "parse_reply_untrusted",
    "soap_action",
]

MAX_DESCRIPTION: Final = 128 * 1024
MAX_REPLY: Final = 16 * 1024
"""Bytes that are read of either; real ones have a few kilobytes."""
MAX_SERVICES: Final = 8
MAX_TEXT: Final = 512
"""Characters of a value that are kept."""

PREFERENCE: Final = (
    "urn:schemas-upnp-org:service:WANIPConnection:2",
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANPPPConnection:1",
    "urn:dslforum-org:service:WANPPPConnection:1",
    "urn:dslforum-org:service:WANIPConnection:1",
)
"""The services that map ports, those we like best first. The last two are of old gateways."""

_ENVELOPE: Final = (
    '<?xml version="1.0"?>\r\n'
    '<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"'
    ' s:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>'
    '<u:{action} xmlns:u="{service}">{arguments}</u:{action}>'
    "</s:Body></s:Envelope>\r\n"
)


class MalformedXML(ValueError):
    """The text is not XML, or is XML that we do not read."""


class Fault(Exception):
    """The device refused a call. `code` is one of UPnP's errors, 0 if it gave none."""

    # Codes that tell what to do next (UPnP WANIPConnection:2 §2.5; UPnP Device Architecture 1.1 §3.2.6).
    INVALID_ACTION = 401
    INVALID_ARGUMENTS = 402
    NO_SUCH_ENTRY = 714
    CONFLICT = 718
    SAME_PORT_ONLY = 724
    PERMANENT_ONLY = 725

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"UPnP error {code}{f' ({description})' if description else ''}")
        self.code = code


@dataclass(frozen=True, slots=True)
class Service:
    """A service that maps ports."""

    type: str
    control_url: str
    """Where calls go: as the device gave it, made absolute."""

    @property
    def adds_any_port(self) -> bool:
        """Whether it chooses another external port by itself if ours is taken."""
        return self.type == PREFERENCE[0]


def mapping_services(description: bytes, location: str) -> list[Service]:
    """The services of a device's description that map ports, best first. Raises MalformedXML.

    `location` is where the description came from, which its URLs may be relative to.
    """
    root = _parse(description)
    base = location
    found: list[tuple[str, str]] = []
    for element in root.iter():
        name = _local(element)
        if name == "URLBase" and _text(element):
            base = _text(element)
        elif name == "service":
            values = {_local(child): _text(child) for child in element}
            kind, url = values.get("serviceType", ""), values.get("controlURL", "")
            if kind in PREFERENCE and url and len(found) < MAX_SERVICES:
                found.append((kind, url))
    found.sort(key=lambda service: PREFERENCE.index(service[0]))
    return [Service(kind, absolute) for kind, url in found if (absolute := _join(base, url))]


def _join(base: str, url: str) -> str:
    try:
        return urljoin(base, url)
    except ValueError:  # such as a bracket without its partner
        return ""


def soap_action(service: Service, action: str) -> str:
    """The value of the header SOAPAction."""
    return f'"{service.type}#{action}"'


def call(service: Service, action: str, arguments: Mapping[str, object]) -> bytes:
    """The body of a call. The order of the arguments matters to some devices: that of the specification."""
    inside = "".join(f"<{name}>{escape(str(value))}</{name}>" for name, value in arguments.items())
    return _ENVELOPE.format(action=action, service=service.type, arguments=inside).encode()


def parse_reply_untrusted(body: bytes, action: str) -> dict[str, str]:
    """The values that a call returned, by name. Raises Fault or MalformedXML."""
    root = _parse(body)
    for element in root.iter():
        name = _local(element)
        if name == f"{action}Response":
            return {_local(child): _text(child) for child in element}
        if name == "Fault":
            raise _fault(element)
    raise MalformedXML(f"no {action}Response in the reply")


def _fault(element: Element) -> Fault:
    values = {_local(inner): _text(inner) for inner in element.iter()}
    code = values.get("errorCode", "")
    description = "".join(c for c in values.get("errorDescription", "") if c.isprintable())
    return Fault(int(code) if code.isascii() and code.isdigit() and len(code) < 6 else 0, description[:80])


def _parse(text: bytes) -> Element:
    try:
        root: Element = fromstring(text, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise MalformedXML(f"unreadable XML: {error!s:.80}") from error  # LookupError: an unknown encoding
    return root


def _local(element: Element) -> str:
    """The element's name without its namespace: devices give wrong ones, and forget them."""
    return str(element.tag).rpartition("}")[2]


def _text(element: Element) -> str:
    return (element.text or "").strip()[:MAX_TEXT]
