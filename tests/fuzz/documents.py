"""Parsers of whole texts and documents: JSON of the control protocol, UPnP's XML, HTTP, addresses, keys."""

from __future__ import annotations

import asyncio
import atexit
import json
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from coordinator.derp_map import MalformedMap
from coordinator.derp_map import parse as parse_derp_map
from derp import frames, upgrade
from derp.frames import FrameError
from meshnode.control import http1
from meshnode.control.client import retry_after
from meshnode.control.errors import ControlError
from meshnode.control.noise_stream import parse_server_key_untrusted
from meshnode.control.server_url import ServerURL
from meshnode.netmap.session import IncompleteMap, MapSession
from meshnode.portmap import igd
from meshproto import codec, keys, messages
from meshproto.addresses import AddrPort, MalformedAddress, parse_address, parse_prefix
from meshproto.codec import MalformedMessage
from meshproto.gotime import MalformedTime, parse_time
from tests.fuzz.target import Target, parser

_NODE = {
    "ID": 1,
    "StableID": "n1",
    "Name": "a.example.",
    "User": 1,
    "Key": "nodekey:" + "1" * 64,
    "KeyExpiry": "2030-01-02T03:04:05.123456789Z",
    "Machine": "mkey:" + "2" * 64,
    "DiscoKey": "discokey:" + "3" * 64,
    "Addresses": ["100.64.0.1/32", "fd7a:115c:a1e0::1/128"],
    "AllowedIPs": ["100.64.0.1/32", "0.0.0.0/0"],
    "Endpoints": ["192.0.2.1:1", "[2001:db8::1]:2"],
    "DERP": "127.3.3.40:1",
    "Hostinfo": {"OS": "linux", "Hostname": "a", "NetInfo": {"PreferredDERP": 1}},
    "Created": "2020-01-01T00:00:00+02:00",
    "CapMap": {"https://x": [{"a": 1}], "y": None},
    "Online": True,
}
_MAP = {
    "Node": _NODE,
    "Peers": [{**_NODE, "ID": 2}],
    "PeersChanged": [{**_NODE, "ID": 3}],
    "PeersRemoved": [3],
    "PeersChangedPatch": [{"NodeID": 2, "DERPRegion": 2, "Endpoints": ["192.0.2.9:9"], "Online": False}],
    "OnlineChange": {"2": True},
    "PeerSeenChange": {"2": False},
    "DERPMap": {
        "Regions": {"1": {"RegionID": 1, "RegionCode": "a", "Nodes": [{"Name": "1a", "HostName": "x"}]}}
    },
    "DNSConfig": {"Resolvers": [{"Addr": "192.0.2.53"}], "Routes": {"x.": None}, "ExtraRecords": []},
    "PacketFilters": {
        "base": [{"SrcIPs": ["*"], "DstPorts": [{"IP": "*", "Ports": {"First": 0, "Last": 65535}}]}]
    },
    "UserProfiles": [{"ID": 1, "LoginName": "u", "DisplayName": "U"}],
    "ControlTime": "2030-01-02T03:04:05Z",
    "Health": ["x"],
    "PingRequest": {"URL": "https://x/", "Log": True},
    "Domain": "example",
}
_KINDS: tuple[type[messages.Message], ...] = (
    messages.MapResponse,
    messages.MapRequest,
    messages.RegisterRequest,
    messages.RegisterResponse,
    messages.EarlyNoise,
    messages.OverTLSPublicKeyResponse,
    messages.DERPAdmitClientRequest,
    messages.DERPMap,
)


def _json_seeds() -> Sequence[bytes]:
    auth = {
        "Version": 1,
        "NodeKey": "nodekey:" + "1" * 64,
        "Auth": {"AuthKey": "k"},
        "Hostinfo": _NODE["Hostinfo"],
    }
    said = json.dumps(_MAP).encode()
    return [b"\0" + said, b"\1" + json.dumps(auth).encode(), b"\2" + json.dumps(auth).encode(), b"\0[" * 3000]


def _json(data: bytes) -> None:
    """What a message says can be said again, and then means the same."""
    if not data:
        return
    kind: Any = _KINDS[data[0] % len(_KINDS)]
    message = codec.decode(data[1:], kind)
    assert codec.decode(codec.encode(message), kind) == message


def _map_seeds() -> Sequence[bytes]:
    later = {name: value for name, value in _MAP.items() if name not in ("Node", "Peers")}
    return [b"\n".join(json.dumps(one).encode() for one in (_MAP, later, {"KeepAlive": True}))]


def _map_session(data: bytes) -> None:
    """A poll: one response in each line."""
    session = MapSession()
    for line in data.split(b"\n"):
        network_map = session.apply(codec.decode(line, messages.MapResponse), 1.7e9)
        if network_map is not None:
            network_map.to_response()


def _derp_map_seeds() -> Sequence[bytes]:
    said = json.dumps({"Regions": {"1": {"RegionCode": "x", "nodes": [{"hostname": "h", "stun_port": -1}]}}})
    large = json.dumps({"regions": {"9" * 5000: None}})
    scores = json.dumps({"homeparams": {"regionscore": {"1": 10**400}}})
    return [
        said.encode(),
        b'{"regions": {"1": null}, "HomeParams": {"RegionScore": {"1": 2}}}',
        large.encode(),
        scores.encode(),
    ]


def _derp_map(data: bytes) -> None:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return
    parse_derp_map(document)


def _server_key_seeds() -> Sequence[bytes]:
    answer = b'{"publicKey": "mkey:' + b"1" * 64 + b'"}'
    head = b"HTTP/1.1 200 OK\r\n"
    return [
        head + b"Content-Length: %d\r\n\r\n" % len(answer) + answer,
        head + b"\r\n" + answer,
        head + b"Transfer-Encoding: chunked\r\n\r\n5;x=y\r\nabcde\r\n0\r\n\r\n",
        head + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: https://x/\r\nContent-Length: 0\r\n\r\n",
        head + b"\r\n" + b"1" * 64,
    ]


_SERVER = ServerURL.parse("https://control.example")


@cache
def _idle_loop() -> asyncio.AbstractEventLoop:
    """What a reader belongs to that never waits: it does not run."""
    loop = asyncio.new_event_loop()
    atexit.register(loop.close)
    return loop


async def _read_key(data: bytes) -> None:
    reader = asyncio.StreamReader(loop=_idle_loop())
    reader.feed_data(data)
    reader.feed_eof()
    head = await http1.read_head(reader)
    parse_server_key_untrusted(_SERVER, head, await http1.read_body(reader, head))


def _server_key(data: bytes) -> None:
    """An answer to `/key`, complete: so nothing in it waits."""
    coroutine = _read_key(data)
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("it waits, though there is nothing to come")


def _igd_seeds() -> Sequence[bytes]:
    kind = "<serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>"
    service = f"<service>{kind}<controlURL>/c</controlURL></service>"
    fault = "<Fault><errorCode>718</errorCode><errorDescription>x</errorDescription></Fault>"
    return [
        f"<root><URLBase>http://192.0.2.1/</URLBase><device>{service}</device></root>".encode(),
        b"<e><u:GetResponse xmlns:u='x'><NewPort> 1 </NewPort></u:GetResponse></e>",
        f"<Envelope><Body>{fault}</Body></Envelope>".encode(),
        b'<?xml version="1.0" encoding="x"?><!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>',
    ]


def _igd(data: bytes) -> None:
    try:
        igd.mapping_services(data, "http://192.0.2.1/root.xml")
        igd.parse_reply_untrusted(data, "Get")
    except (igd.MalformedXML, igd.Fault):
        pass


def _head_seeds() -> Sequence[bytes]:
    return [
        upgrade.encode_request("h:1", fast_start=True, ideal_node="1a").removesuffix(upgrade.END_OF_HEAD),
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP",
        b"GET /derp?x=\xff HTTP/1.1\r\nHost:\r\n:",
    ]


def _heads(data: bytes) -> None:
    for parse in (
        upgrade.parse_request_untrusted,
        upgrade.parse_response_untrusted,
        http1.parse_head_untrusted,
    ):
        read: Callable[[bytes], Any] = parse
        try:
            head = read(data)
        except (FrameError, http1.NotHTTP):
            continue
        if isinstance(head, upgrade.RequestHead):
            assert head.asks_for_derp in (True, False)


def _payload_seeds() -> Sequence[bytes]:
    key = keys.NodePublic(bytes(range(32)))
    present = frames.PeerPresent(key, "192.0.2.1", 1, frames.PresenceFlag.REGULAR)
    encoded = [
        frames.server_key(key),
        frames.peer_gone(key.raw, frames.PeerGoneReason.NOT_HERE),
        frames.peer_present(present),
        frames.restarting(1, 2),
    ]
    return [frame[frames.HEADER.size :] for frame in encoded]


def _payloads(data: bytes) -> None:
    parses: tuple[Callable[[bytes], object], ...] = (
        frames.parse_server_key_untrusted,
        frames.parse_peer_gone_untrusted,
        frames.parse_peer_present_untrusted,
        frames.parse_restarting_untrusted,
    )
    for parse in parses:
        try:
            parse(data)
        except FrameError:
            pass


_TEXTS: tuple[Callable[[str], object], ...] = (
    parse_time,
    parse_address,
    parse_prefix,
    AddrPort.parse,
    keys.NodePublic.parse,
    keys.MachinePublic.parse,
    keys.DiscoPublic.parse,
    keys.NetworkLockPublic.parse,
    lambda text: retry_after(text, bytes),
)


def _text_seeds() -> Sequence[bytes]:
    texts = [
        "2030-01-02T03:04:05.123456789+01:00",
        "fd7a:115c:a1e0::1%eth0",
        "192.0.2.0/24",
        "[2001:db8::1]:80",
        "nodekey:" + "0" * 64,
        "tlpub:" + "a" * 64,
        "9" * 5000,
        "3600",
    ]
    return [text.encode() for text in texts]


def _texts(data: bytes) -> None:
    text = data.decode(errors="surrogateescape")
    for parse in _TEXTS:
        try:
            parse(text)
        except (MalformedAddress, MalformedTime, keys.MalformedKey):
            pass


TARGETS = [
    parser("json_messages", _json, _json_seeds, MalformedMessage),
    parser("map_session", _map_session, _map_seeds, MalformedMessage, IncompleteMap),
    parser("derp_map", _derp_map, _derp_map_seeds, MalformedMap),
    parser("server_key", _server_key, _server_key_seeds, http1.NotHTTP, ConnectionResetError, ControlError),
    Target("upnp_xml", _igd, _igd_seeds),
    Target("http_heads", _heads, _head_seeds),
    Target("derp_payloads", _payloads, _payload_seeds),
    Target("texts", _texts, _text_seeds),
]
