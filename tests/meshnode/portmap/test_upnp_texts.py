"""The cores of SSDP and of the internet gateway device: texts of real gateways, of hostile ones, and any."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.portmap import igd, ssdp

GATEWAY = IPv4Address("192.168.50.1")
LOCATION = "http://192.168.50.1:5000/rootDesc.xml"
IP2 = "urn:schemas-upnp-org:service:WANIPConnection:2"
IP1 = "urn:schemas-upnp-org:service:WANIPConnection:1"
PPP1 = "urn:schemas-upnp-org:service:WANPPPConnection:1"


def message(start: str, **headers: str) -> bytes:
    lines = [start, *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode()


def description(*services: tuple[str, str], extra: str = "") -> bytes:
    """A device inside a device inside a device, as gateways are, with these services in the innermost."""
    listed = "".join(
        f"<service><serviceType>{kind}</serviceType><controlURL>{url}</controlURL></service>"
        for kind, url in services
    )
    inner = f"<device><serviceList>{listed}</serviceList></device>"
    for _ in range(2):
        inner = f"<device><deviceList>{inner}</deviceList></device>"
    return (
        f'<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0">{extra}{inner}</root>'.encode()
    )


# SSDP


def test_the_gateway_is_searched_for_then_everything() -> None:
    for attempt, target in enumerate(
        ["urn:schemas-upnp-org:device:InternetGatewayDevice:1", "ssdp:all", "ssdp:all"]
    ):
        (first, to), (second, group) = ssdp.searches(GATEWAY, attempt)
        assert (to, group) == (GATEWAY, ssdp.GROUP)
        assert first == second
        assert first.startswith(b"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\n")
        assert first.endswith(b"\r\n\r\n")
        assert b'MAN: "ssdp:discover"\r\n' in first
        assert f"ST: {target}\r\n".encode() in first


@pytest.mark.parametrize(
    ("headers", "device"),
    [
        ({"ST": "urn:schemas-upnp-org:device:InternetGatewayDevice:2"}, "2"),
        ({"st": "urn:schemas-upnp-org:device:InternetGatewayDevice:1"}, "1"),
        (
            {"ST": "upnp:rootdevice", "USN": "uuid:1::urn:schemas-upnp-org:device:InternetGatewayDevice:1"},
            "1",
        ),
    ],
)
def test_answers_of_gateways(headers: dict[str, str], device: str) -> None:
    answer = ssdp.parse_answer_untrusted(message("HTTP/1.1 200 OK", Location=LOCATION, EXT="", **headers))
    assert answer is not None
    assert answer.location == LOCATION
    assert answer.device.endswith(f":InternetGatewayDevice:{device}")


@pytest.mark.parametrize(
    "datagram",
    [
        message("HTTP/1.1 200 OK", Location=LOCATION, ST="urn:schemas-upnp-org:device:MediaServer:1"),
        message("HTTP/1.1 404 Not Found", Location=LOCATION, ST="urn:x:InternetGatewayDevice:1"),
        message("NOTIFY * HTTP/1.1", Location=LOCATION, NT="urn:x:device:InternetGatewayDevice:1"),
        message("HTTP/1.1 200 OK", ST="urn:x:device:InternetGatewayDevice:1"),
        b"",
        b"HTTP/1.1",
    ],
)
def test_what_is_no_answer_of_a_gateway(datagram: bytes) -> None:
    assert ssdp.parse_answer_untrusted(datagram) is None


def test_notices_tell_one_run_of_a_gateway_from_the_next() -> None:
    def notice(kind: str, boot: str) -> str | None:
        headers = {"NTS": kind, "BOOTID.UPNP.ORG": boot, "NT": "urn:x:device:InternetGatewayDevice:1"}
        return ssdp.parse_notice_untrusted(message("NOTIFY * HTTP/1.1", **headers))

    assert notice("ssdp:alive", "1") == notice("ssdp:alive", "1") is not None
    assert len({notice("ssdp:alive", "1"), notice("ssdp:alive", "2"), notice("ssdp:byebye", "1")}) == 3
    assert notice("ssdp:update", "1") is None
    media = message("NOTIFY * HTTP/1.1", NTS="ssdp:alive", NT="urn:x:device:MediaServer:1")
    assert ssdp.parse_notice_untrusted(media) is None


@given(st.binary(max_size=400) | st.text(max_size=400).map(str.encode))
def test_any_datagram_is_a_message_or_nothing(datagram: bytes) -> None:
    ssdp.parse_answer_untrusted(datagram)
    ssdp.parse_answer_untrusted(b"HTTP/1.1 200 OK\r\n" + datagram)
    ssdp.parse_notice_untrusted(b"NOTIFY * HTTP/1.1\r\n" + datagram)


# URLs


@pytest.mark.parametrize(
    ("url", "made"),
    [
        (LOCATION, LOCATION),
        ("http://192.168.50.1/desc", "http://192.168.50.1:80/desc"),
        ("http://10.0.0.1:49152/a?b=c#d", "http://192.168.50.1:49152/a?b=c"),
        ("http://metadata.example/secret", "http://192.168.50.1:80/secret"),
        ("http://user:word@127.0.0.1:22/x", "http://192.168.50.1:22/x"),
        ("http://[::1]:8080/", "http://192.168.50.1:8080/"),
    ],
)
def test_whatever_host_a_url_names_it_is_the_gateway(url: str, made: str) -> None:
    assert ssdp.gateway_url(GATEWAY, url) == made


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/relative",
        "https://192.168.50.1/",
        "file:///etc/passwd",
        "http://",
        "http://[",
        "http://a:99999/",
    ],
)
def test_what_is_nothing_to_fetch(url: str) -> None:
    assert ssdp.gateway_url(GATEWAY, url) is None


@given(st.text(max_size=100))
def test_no_url_leads_elsewhere(url: str) -> None:
    for text in (url, f"http://{url}", f"http://a/{url}"):
        made = ssdp.gateway_url(GATEWAY, text)
        assert made is None or made.startswith("http://192.168.50.1:")


# Descriptions


def test_the_best_service_comes_first() -> None:
    found = igd.mapping_services(
        description((PPP1, "/p"), (IP1, "/1"), ("urn:x", "/x"), (IP2, "/2")), LOCATION
    )
    assert [(service.type, service.control_url) for service in found] == [
        (IP2, "http://192.168.50.1:5000/2"),
        (IP1, "http://192.168.50.1:5000/1"),
        (PPP1, "http://192.168.50.1:5000/p"),
    ]
    assert [service.adds_any_port for service in found] == [True, False, False]


def test_urls_may_have_a_base_of_their_own() -> None:
    text = description((IP1, "ctl"), extra="<URLBase>http://192.168.50.1:80/igd/</URLBase>")
    assert igd.mapping_services(text, LOCATION)[0].control_url == "http://192.168.50.1:80/igd/ctl"


@pytest.mark.parametrize("url", ["", "http://[/"])
def test_a_service_that_cannot_be_called_is_none(url: str) -> None:
    assert igd.mapping_services(description((IP1, url)), LOCATION) == []


BOMB = """<?xml version="1.0"?><!DOCTYPE r [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]><r>&b;</r>"""
OUTSIDE = """<?xml version="1.0"?><!DOCTYPE r [<!ENTITY a SYSTEM "file:///etc/passwd">]><r>&a;</r>"""


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<root>",
        b"\xff\xfe",
        b'<?xml version="1.0" encoding="nonsense"?><a/>',
        b"<!DOCTYPE html><html></html>",
        BOMB.encode(),
        OUTSIDE.encode(),
    ],
)
def test_unreadable_and_hostile_xml_is_refused(text: bytes) -> None:
    with pytest.raises(igd.MalformedXML):
        igd.mapping_services(text, LOCATION)
    with pytest.raises(igd.MalformedXML):
        igd.parse_reply_untrusted(text, "AddPortMapping")


def test_a_deep_or_a_long_description_is_read_in_bounds() -> None:
    depth = igd.MAX_DESCRIPTION // 7
    assert igd.mapping_services(b"<a>" * depth + b"</a>" * depth, LOCATION) == []
    many = [(IP1, f"/{number}") for number in range(500)]
    assert len(igd.mapping_services(description(*many), LOCATION)) == igd.MAX_SERVICES


# Calls


def test_a_call_escapes_what_it_carries() -> None:
    service = igd.Service(IP1, "http://192.168.50.1/ctl")
    body = igd.call(
        service, "AddPortMapping", {"NewRemoteHost": "", "NewPortMappingDescription": "<&>"}
    ).decode()
    assert f'<u:AddPortMapping xmlns:u="{IP1}"><NewRemoteHost></NewRemoteHost>' in body
    assert "<NewPortMappingDescription>&lt;&amp;&gt;</NewPortMappingDescription></u:AddPortMapping>" in body
    assert igd.soap_action(service, "AddPortMapping") == f'"{IP1}#AddPortMapping"'


def soap(inside: str) -> bytes:
    return (
        '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/">'
        f"<s:Body>{inside}</s:Body></s:Envelope>"
    ).encode()


def test_a_reply_is_read_whatever_its_namespace() -> None:
    for prefix, declaration in (("u:", f' xmlns:u="{IP1}"'), ("", ""), ("", ' xmlns="urn:wrong"')):
        inside = "<NewExternalIPAddress> 25.0.113.20 </NewExternalIPAddress>"
        name = f"{prefix}GetExternalIPAddressResponse"
        body = soap(f"<{name}{declaration}>{inside}</{name}>")
        assert igd.parse_reply_untrusted(body, "GetExternalIPAddress") == {
            "NewExternalIPAddress": "25.0.113.20"
        }


@pytest.mark.parametrize(
    ("code", "number"), [("718", 718), ("", 0), ("-1", 0), ("9" * 30, 0), ("７１８", 0), (" 725\n", 725)]
)
def test_a_fault_has_a_code(code: str, number: int) -> None:
    inside = (
        "<s:Fault><faultcode>s:Client</faultcode><detail><UPnPError>"
        f"<errorCode>{code}</errorCode><errorDescription>Conflict\x85{'x' * 300}</errorDescription>"
        "</UPnPError></detail></s:Fault>"
    )
    with pytest.raises(igd.Fault) as caught:
        igd.parse_reply_untrusted(soap(inside), "AddPortMapping")
    assert caught.value.code == number
    assert len(str(caught.value)) < 120
    assert str(caught.value).isprintable()


def test_a_reply_to_something_else_is_none() -> None:
    with pytest.raises(igd.MalformedXML):
        igd.parse_reply_untrusted(soap("<DeletePortMappingResponse/>"), "AddPortMapping")


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_body_is_read_or_refused(body: bytes) -> None:
    for text in (body, soap("").replace(b"</s:Body>", body + b"</s:Body>")):
        try:
            igd.parse_reply_untrusted(text, "AddPortMapping")
            igd.mapping_services(text, LOCATION)
        except (igd.MalformedXML, igd.Fault):
            pass
