"""Control messages as values: an immutable class per JSON object, with the Go names in snake_case."""

from meshproto.messages.base import CapMap, Message
from meshproto.messages.derp import (
    DERPAdmitClientRequest,
    DERPAdmitClientResponse,
    DERPHomeParams,
    DERPMap,
    DERPNode,
    DERPRegion,
)
from meshproto.messages.dns import DNSConfig, DNSRecord, Resolver
from meshproto.messages.filter import (
    ALLOW_ALL,
    ANY_PORT,
    CapGrant,
    FilterRule,
    NetPortRange,
    PortRange,
)
from meshproto.messages.hostinfo import Hostinfo, Location, NetInfo, Service
from meshproto.messages.map import (
    COMPRESS_ZSTD,
    ClientVersion,
    ControlDialPlan,
    ControlIPCandidate,
    Debug,
    DisplayMessage,
    DisplayMessageAction,
    MapRequest,
    MapResponse,
    TKAInfo,
    UserProfile,
)
from meshproto.messages.node import Node, PeerChange
from meshproto.messages.ping import PingRequest, PingResponse
from meshproto.messages.register import (
    EarlyNoise,
    Login,
    OverTLSPublicKeyResponse,
    RegisterAuth,
    RegisterRequest,
    RegisterResponse,
    User,
)
from meshproto.messages.ssh import SSHAction, SSHPolicy, SSHPrincipal, SSHRecorderFailureAction, SSHRule

__all__ = [
    "ALLOW_ALL",
    "ANY_PORT",
    "COMPRESS_ZSTD",
    "CapGrant",
    "CapMap",
    "ClientVersion",
    "ControlDialPlan",
    "ControlIPCandidate",
    "DERPAdmitClientRequest",
    "DERPAdmitClientResponse",
    "DERPHomeParams",
    "DERPMap",
    "DERPNode",
    "DERPRegion",
    "DNSConfig",
    "DNSRecord",
    "Debug",
    "DisplayMessage",
    "DisplayMessageAction",
    "EarlyNoise",
    "FilterRule",
    "Hostinfo",
    "Location",
    "Login",
    "MapRequest",
    "MapResponse",
    "Message",
    "NetInfo",
    "NetPortRange",
    "Node",
    "OverTLSPublicKeyResponse",
    "PeerChange",
    "PingRequest",
    "PingResponse",
    "PortRange",
    "RegisterAuth",
    "RegisterRequest",
    "RegisterResponse",
    "Resolver",
    "SSHAction",
    "SSHPolicy",
    "SSHPrincipal",
    "SSHRecorderFailureAction",
    "SSHRule",
    "Service",
    "TKAInfo",
    "User",
    "UserProfile",
]
