"""The messages: their names on the wire, what is written although zero, and what null and absence mean."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from meshproto import messages
from meshproto.addresses import AddrPort, AddrPorts, parse_prefix
from meshproto.codec import decode, encode
from meshproto.gotime import ZERO_TIME
from meshproto.keys import DiscoPublic, MachinePublic, NodePublic, PublicKey
from meshproto.messages import (
    ALLOW_ALL,
    DERPMap,
    DERPRegion,
    DNSConfig,
    FilterRule,
    Hostinfo,
    MapRequest,
    MapResponse,
    Message,
    Node,
    OverTLSPublicKeyResponse,
    PeerChange,
    PingRequest,
    RegisterAuth,
    RegisterRequest,
    RegisterResponse,
    SSHPolicy,
)
from tests.meshproto.message_strategies import MESSAGE_TYPES, fields_of

ZEROS = "0" * 64
ENDPOINT = AddrPort("192.0.2.9", 41641)

# Names as in reference §6 to §9; the classes not listed here have only names without initialisms.
WIRE_NAMES = {
    "RegisterRequest": "Version NodeKey OldNodeKey NLKey Auth Expiry Followup Hostinfo Ephemeral "
    "NodeKeySignature SignatureType Timestamp DeviceCert Signature Tailnet",
    "RegisterResponse": "User Login NodeKeyExpired MachineAuthorized AuthURL NodeKeySignature Error",
    "RegisterAuth": "AuthKey",
    "User": "ID DisplayName ProfilePicURL Created",
    "Login": "ID Provider LoginName DisplayName ProfilePicURL",
    "OverTLSPublicKeyResponse": "legacyPublicKey publicKey",
    "EarlyNoise": "nodeKeyChallenge",
    "MapRequest": "Version Compress KeepAlive NodeKey DiscoKey HardwareAttestationKey "
    "HardwareAttestationKeySignature HardwareAttestationKeySignatureTimestamp Stream Hostinfo "
    "MapSessionHandle MapSessionSeq Endpoints EndpointTypes TKAHead ReadOnly OmitPeers "
    "DebugFlags ConnectionHandleForTest",
    "Hostinfo": "IPNVersion FrontendLogID BackendLogID OS OSVersion Container Env Distro DistroVersion "
    "DistroCodeName App Desktop Package DeviceModel PushDeviceToken Hostname ShieldsUp "
    "ShareeNode NoLogsNoSupport WireIngress IngressEnabled AllowsUpdate RemoteConfig "
    "PeerRelay Machine GoArch GoArchVar GoVersion RoutableIPs RequestTags WoLMACs Services "
    "NetInfo sshHostKeys Cloud Userspace UserspaceRouter AppConnector ServicesHash ExitNodeID "
    "Location StateEncrypted",
    "NetInfo": "MappingVariesByDestIP HairPinning WorkingIPv6 OSHasIPv6 WorkingUDP WorkingICMPv4 "
    "HavePortMap UPnP PMP PCP PreferredDERP LinkType DERPLatency FirewallMode",
    "MapResponse": "MapSessionHandle Seq KeepAlive PingRequest PopBrowserURL Node DERPMap Peers "
    "PeersChanged PeersRemoved PeersChangedPatch PeerSeenChange OnlineChange "
    "DNSConfig Domain CollectServices PacketFilter PacketFilters UserProfiles "
    "Health DisplayMessages SSHPolicy ControlTime TKAInfo DomainDataPlaneAuditLogID "
    "Debug ControlDialPlan ClientVersion DefaultAutoUpdate",
    "Node": "ID StableID Name User Sharer Key KeyExpiry KeySignature Machine DiscoKey Addresses "
    "AllowedIPs Endpoints DERP HomeDERP Hostinfo Created Cap Tags PrimaryRoutes LastSeen "
    "Online MachineAuthorized Capabilities CapMap UnsignedPeerAPIOnly ComputedName "
    "ComputedNameWithHost DataPlaneAuditLogID Expired SelfNodeV4MasqAddrForThisPeer "
    "SelfNodeV6MasqAddrForThisPeer IsWireGuardOnly IsJailed ExitNodeDNSResolvers",
    "PeerChange": "NodeID DERPRegion Cap CapMap Endpoints Key KeySignature DiscoKey Online LastSeen "
    "KeyExpiry",
    "UserProfile": "ID LoginName DisplayName ProfilePicURL Groups",
    "DisplayMessageAction": "URL Label",
    "ClientVersion": "RunningLatest LatestVersion UrgentSecurityUpdate Notify NotifyURL NotifyText",
    "ControlIPCandidate": "IP ACEHost DialStartDelaySec DialTimeoutSec Priority",
    "DERPMap": "HomeParams Regions omitDefaultRegions",
    "DERPRegion": "RegionID RegionCode RegionName Latitude Longitude Avoid NoMeasureNoHome Nodes",
    "DERPNode": "Name RegionID HostName CertName IPv4 IPv6 STUNPort STUNOnly DERPPort InsecureForTests "
    "STUNTestIP CanPort80",
    "DNSConfig": "Resolvers Routes FallbackResolvers Domains Proxied Nameservers CertDomains "
    "ExtraRecords ExitNodeFilteredSet",
    "FilterRule": "SrcIPs DstPorts IPProto CapGrant",
    "NetPortRange": "IP Ports",
    "CapGrant": "Dsts Caps CapMap",
    "SSHPolicy": "rules",
    "SSHRule": "ruleExpires principals sshUsers action acceptEnv",
    "SSHPrincipal": "node nodeIP userLogin any",
    "SSHAction": "message reject accept sessionDuration allowAgentForwarding holdAndDelegate "
    "allowLocalPortForwarding allowRemotePortForwarding recorders onRecordingFailure",
    "SSHRecorderFailureAction": "RejectSessionWithMessage TerminateSessionWithMessage NotifyURL",
    "PingRequest": "URL URLIsNoise Log Types IP Payload",
    "PingResponse": "Type IP NodeIP NodeName Err LatencySeconds Endpoint PeerRelay DERPRegionID "
    "DERPRegionCode PeerAPIPort IsLocalIP",
}


@pytest.mark.parametrize("name", WIRE_NAMES)
def test_wire_names(name: str) -> None:
    assert [field.encode_name for field in fields_of(getattr(messages, name))] == WIRE_NAMES[name].split()


def written(message: Message) -> Any:
    return json.loads(encode(message))


@pytest.mark.parametrize(
    ("message", "zeros"),
    [
        (
            RegisterRequest(),
            {
                "Version": 0,
                "NodeKey": f"nodekey:{ZEROS}",
                "OldNodeKey": f"nodekey:{ZEROS}",
                "NLKey": f"nlpub:{ZEROS}",
                "Expiry": "0001-01-01T00:00:00Z",
                "Followup": "",
                "Hostinfo": None,
                "NodeKeySignature": None,
            },
        ),
        (
            RegisterResponse(),
            {
                "User": {"ID": 0, "DisplayName": ""},
                "Login": {"ID": 0, "Provider": "", "LoginName": "", "DisplayName": ""},
                "NodeKeyExpired": False,
                "MachineAuthorized": False,
                "AuthURL": "",
                "NodeKeySignature": None,
                "Error": "",
            },
        ),
        (
            MapRequest(),
            {"Version": 0, "NodeKey": f"nodekey:{ZEROS}", "DiscoKey": f"discokey:{ZEROS}", "Hostinfo": None},
        ),
        (MapResponse(), {}),
        (Hostinfo(), {}),
        (
            Node(),
            {"ID": 0, "StableID": "", "Name": "", "User": 0, "Key": f"nodekey:{ZEROS}", "Addresses": []},
        ),
        (PeerChange(), {"NodeID": 0}),
        (DERPRegion(), {"RegionID": 0, "RegionCode": "", "RegionName": "", "Nodes": []}),
        (DNSConfig(), {}),
        (FilterRule(), {"SrcIPs": []}),
        (SSHPolicy(), {"rules": []}),
        (OverTLSPublicKeyResponse(), {"legacyPublicKey": f"mkey:{ZEROS}", "publicKey": f"mkey:{ZEROS}"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_written_although_zero(message: Message, zeros: dict[str, Any]) -> None:
    assert written(message) == zeros
    assert decode(encode(message), type(message)) == message


def test_keep_alive_is_exactly_this() -> None:
    assert encode(MapResponse(keep_alive=True)) == b'{"KeepAlive":true}'


@pytest.mark.parametrize("kind", MESSAGE_TYPES)
def test_a_key_is_absent_or_whole(kind: type[Message]) -> None:
    """One empty key would make the whole document undecodable."""
    zero = decode(b'{"Source":"::1"}', kind)
    for field in fields_of(kind):
        if isinstance(field.type, msgspec.inspect.CustomType) and issubclass(field.type.cls, PublicKey):
            text = written(zero)[field.encode_name]
            assert text == field.type.cls.prefix + ZEROS


@pytest.mark.parametrize(
    ("absent", "empty", "name"),
    [
        (MapResponse(), MapResponse(packet_filter=()), "PacketFilter"),
        (MapResponse(), MapResponse(health=()), "Health"),
        (Node(), Node(allowed_ips=()), "AllowedIPs"),
        (Node(), Node(endpoints=()), "Endpoints"),
        (PeerChange(), PeerChange(endpoints=()), "Endpoints"),
    ],
)
def test_absent_and_empty_lists_differ(absent: Message, empty: Message, name: str) -> None:
    assert name not in written(absent)
    assert written(empty)[name] == []
    for message in (absent, empty):
        assert decode(encode(message), type(message)) == message
    assert absent != empty
    null = json.dumps({**written(empty), name: None}).encode()
    assert decode(null, type(empty)) == absent


def test_empty_values_of_named_filters_differ_from_null() -> None:
    response = decode(b'{"PacketFilters":{"*":null,"base":[],"x":null}}', MapResponse)
    assert response.packet_filters == {"*": None, "base": (), "x": None}
    assert written(response) == {"PacketFilters": {"*": None, "base": [], "x": None}}


def test_display_messages_keep_their_nulls() -> None:
    response = decode(b'{"DisplayMessages":{"*":null},"Domain":null}', MapResponse)
    assert response.display_messages == {"*": None}


def test_dns_routes_are_written_as_lists() -> None:
    config = DNSConfig(routes={"64.100.in-addr.arpa.": ()})
    assert encode(config) == b'{"Routes":{"64.100.in-addr.arpa.":[]}}'
    assert decode(b'{"Routes":{"x.":null}}', DNSConfig).routes == {"x.": None}


def test_null_regions_are_dropped() -> None:
    derp_map = decode(b'{"Regions":{"1":null,"900":{"RegionID":900}}}', DERPMap)
    assert derp_map.regions == {900: DERPRegion(region_id=900)}
    assert decode(b'{"Regions":null}', DERPMap).regions is None


@pytest.mark.parametrize("kind", MESSAGE_TYPES)
def test_null_is_taken_for_every_field(kind: type[Message]) -> None:
    """What Go does: null leaves the zero value."""
    required = {field.encode_name: "100.64.0.1" for field in fields_of(kind) if field.required}
    expected = decode(json.dumps(required).encode(), kind)
    for field in fields_of(kind):
        if not field.required:
            assert decode(json.dumps({**required, field.encode_name: None}).encode(), kind) == expected


@pytest.mark.parametrize("kind", MESSAGE_TYPES)
def test_unknown_fields_are_ignored(kind: type[Message]) -> None:
    required = {field.encode_name: "100.64.0.1" for field in fields_of(kind) if field.required}
    with_more = {**required, "NewInNextRelease": {"Deep": [1, None]}}
    assert decode(json.dumps(with_more).encode(), kind) == decode(json.dumps(required).encode(), kind)


def test_int_keyed_maps_are_written_with_text_keys() -> None:
    response = MapResponse(online_change={12: True}, peer_seen_change={13: False})
    assert encode(response) == b'{"PeerSeenChange":{"13":false},"OnlineChange":{"12":true}}'
    assert decode(encode(response), MapResponse) == response


def test_bytes_are_padded_base64() -> None:
    assert written(PingRequest(payload=b"GET"))["Payload"] == "R0VU"
    assert written(RegisterRequest(node_key_signature=b"\xff\xfe"))["NodeKeySignature"] == "//4="


def test_zero_keys_and_times_read_as_none() -> None:
    node = decode(
        f'{{"Machine":"mkey:{ZEROS}","DiscoKey":"discokey:{ZEROS}",'
        '"KeyExpiry":"0001-01-01T00:00:00Z","LastSeen":"0001-01-01T00:00:00Z"}'.encode(),
        Node,
    )
    assert (node.machine, node.disco_key, node.key_expiry, node.last_seen) == (None, None, None, None)
    assert Node(machine=MachinePublic.zero(), disco_key=DiscoPublic.zero()) == Node()


def test_removing_an_expiry_differs_from_leaving_it() -> None:
    change = PeerChange(key_expiry=ZERO_TIME)
    assert written(change)["KeyExpiry"] == "0001-01-01T00:00:00Z"
    assert decode(encode(change), PeerChange).key_expiry == ZERO_TIME
    assert decode(b"{}", PeerChange).key_expiry is None


def test_requested_expiry() -> None:
    assert RegisterRequest().requested_expiry is None
    logout = decode(b'{"Expiry":"1970-01-01T00:02:03Z"}', RegisterRequest)
    assert logout.requested_expiry == datetime(1970, 1, 1, 0, 2, 3, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("{}", ""),
        ('{"Auth":null}', ""),
        ('{"Auth":{"AuthKey":"","Provider":"","LoginName":"","Oauth2Token":null}}', ""),
        ('{"Auth":{"AuthKey":"k"}}', "k"),
    ],
)
def test_auth_key_of_old_and_new_clients(text: str, key: str) -> None:
    assert decode(text.encode(), RegisterRequest).auth_key == key


def test_an_auth_key_never_shows() -> None:
    request = RegisterRequest(auth=RegisterAuth(auth_key="hskey-auth-secret"))
    assert "secret" not in repr(request)
    assert "secret" not in str(request)
    assert b"secret" in encode(request)


def test_ping_without_address_as_go_writes_it() -> None:
    assert decode(b'{"URL":"https://x","IP":""}', PingRequest).ip is None


def test_any_sequence_of_endpoints_is_kept() -> None:
    for node in (
        Node(endpoints=[ENDPOINT]),
        Node(endpoints=(ENDPOINT,)),
        Node(endpoints=AddrPorts([ENDPOINT])),
    ):
        assert written(node)["Endpoints"] == ["192.0.2.9:41641"]
        assert node.endpoints == [ENDPOINT]
    assert written(PeerChange(endpoints=(ENDPOINT,)))["Endpoints"] == ["192.0.2.9:41641"]
    assert written(MapRequest(endpoints=(ENDPOINT,)))["Endpoints"] == ["192.0.2.9:41641"]
    replaced = msgspec.structs.replace(Node(), endpoints=(ENDPOINT,))
    assert written(replaced)["Endpoints"] == ["192.0.2.9:41641"]


def test_effective_allowed_ips() -> None:
    own, route = parse_prefix("100.64.0.1/32"), parse_prefix("10.0.0.0/8")
    assert Node(addresses=(own,)).effective_allowed_ips == (own,)
    assert Node(addresses=(own,), allowed_ips=()).effective_allowed_ips == ()
    assert Node(addresses=(own,), allowed_ips=(own, route)).effective_allowed_ips == (own, route)


@pytest.mark.parametrize(
    ("node", "region"),
    [
        (Node(), 0),
        (Node(home_derp=900), 900),
        (Node(derp="127.3.3.40:7"), 7),
        (Node(home_derp=900, derp="127.3.3.40:7"), 900),
        (Node(derp="127.3.3.41:7"), 0),
        (Node(derp="127.3.3.40:"), 0),
    ],
)
def test_effective_home_derp(node: Node, region: int) -> None:
    assert node.effective_home_derp == region


def test_allow_all_is_what_the_reference_shows() -> None:
    assert json.loads(encode(MapResponse(packet_filter=ALLOW_ALL)))["PacketFilter"] == [
        {"SrcIPs": ["*"], "DstPorts": [{"IP": "*", "Ports": {"First": 0, "Last": 65535}}]}
    ]


def test_messages_are_immutable() -> None:
    with pytest.raises(AttributeError):
        Node().name = "other."  # type: ignore[misc]


SMALLEST_FIRST_MESSAGE = """
{"ControlTime":"2026-09-01T10:00:00Z","Domain":"ctl.example.com","CollectServices":false,
 "Debug":{"DisableLogTail":true},
 "Node":{"ID":1,"StableID":"1","Name":"a.tn.example.","User":7,"Key":"nodekey:KEY","Machine":"mkey:KEY",
  "DiscoKey":"discokey:KEY","Addresses":["100.64.0.1/32"],"AllowedIPs":["100.64.0.1/32"],
  "Hostinfo":{"OS":"linux","Hostname":"a"},"Cap":130,"MachineAuthorized":true,
  "CapMap":{"https://tailscale.com/cap/file-sharing":null,"https://tailscale.com/cap/ssh":null}},
 "DERPMap":{"Regions":{"900":{"RegionID":900,"RegionCode":"x","RegionName":"X",
  "Nodes":[{"Name":"900a","RegionID":900,"HostName":"derp.example.com"}]}}},
 "Peers":[{"ID":2,"StableID":"2","Name":"b.tn.example.","User":7,"Key":"nodekey:KEY","Machine":"mkey:KEY",
  "DiscoKey":"discokey:KEY","Addresses":["100.64.0.2/32"],"AllowedIPs":["100.64.0.2/32"],
  "Endpoints":["192.0.2.9:41641"],"HomeDERP":900,"Cap":130,"Online":true,"MachineAuthorized":true,
  "Hostinfo":{"OS":"linux","Hostname":"b","Services":[{"Proto":"peerapi4","Port":40123}]}}],
 "UserProfiles":[{"ID":7,"LoginName":"alice@example.com","DisplayName":"Alice"}],
 "PacketFilters":{"base":[{"SrcIPs":["100.64.0.0/10"],
  "DstPorts":[{"IP":"100.64.0.1","Ports":{"First":0,"Last":65535}}]}]},
 "DNSConfig":{"Proxied":true,"Domains":["tn.example"]}}
""".replace("KEY", "ab" * 32)


def test_smallest_useful_first_message_survives_unchanged() -> None:
    """Reference §8.10, read and written again."""
    response = decode(SMALLEST_FIRST_MESSAGE.encode(), MapResponse)
    assert json.loads(encode(response)) == json.loads(SMALLEST_FIRST_MESSAGE)
    assert response.peers[0].endpoints == (ENDPOINT,)
    assert response.peers[0].key == NodePublic(b"\xab" * 32)
