"""The texts of `meshnode debug`, line by line."""

from __future__ import annotations

from typing import Any

import pytest

from meshnode.cli import debug_derp_map
from meshnode.cli.debug_paths import REASONS, describe_paths
from meshnode.disco.status import RelayReason


def candidate(path: str, **fields: Any) -> dict[str, Any]:
    return {
        "Path": path,
        "Kind": "udp",
        "Origins": ["map"],
        "InUse": False,
        "LatencySeconds": None,
        "LastPingAgo": None,
        "LastPongAgo": None,
        "WireMTU": 1280,
    } | fields


def paths(**fields: Any) -> dict[str, Any]:
    return {
        "Name": "nas",
        "PublicKey": "nodekey:07",
        "TailscaleIPs": ["100.64.0.7", "fd7a:115c:a1e0::7"],
        "Online": True,
        "HomeRelay": "fra",
        "SpeaksDisco": True,
        "Active": True,
        "Direct": True,
        "Destinations": ["203.0.113.7:41641"],
        "RelayReason": "",
        "Candidates": [],
        "CallMeMaybeSentAgo": None,
        "CallMeMaybeReceivedAgo": None,
    } | fields


CANDIDATES = [
    candidate("192.168.1.7:41641", LastPingAgo=4.25, Origins=["map", "call"]),
    candidate("[2001:db8::7]:41641", LatencySeconds=0.0212, LastPingAgo=66.0, LastPongAgo=65.9),
    candidate("10.0.0.7:41641"),
    candidate(
        "203.0.113.7:41641",
        InUse=True,
        LatencySeconds=0.00914,
        LastPingAgo=1.04,
        LastPongAgo=1.03,
        WireMTU=1500,
        Origins=["map", "ping"],
    ),
]

DIRECT = """\
nas (100.64.0.7, fd7a:115c:a1e0::7), home relay fra
Direct, active: data goes to 203.0.113.7:41641.
Asked to be pinged: we the peer 4.0s ago, the peer us 2h ago.

   Path                 Known from                Latency  Last ping  Last pong  MTU   Verdict
*  203.0.113.7:41641    coordinator, peer's ping  9.1ms    1.0s ago   1.0s ago   1500  in use
   [2001:db8::7]:41641  coordinator               21.2ms   1m ago     1m ago     1280  answers, not as good
   10.0.0.7:41641       coordinator               -        -          -          1280  not tried
   192.168.1.7:41641    coordinator, peer's call  -        4.2s ago   -          1280  no answer
"""


def test_a_direct_path_and_all_the_others() -> None:
    shown = paths(Candidates=CANDIDATES, CallMeMaybeSentAgo=4.0, CallMeMaybeReceivedAgo=7300.0)
    assert "\n".join(describe_paths(shown)) + "\n" == DIRECT


@pytest.mark.parametrize(
    ("in_use", "pinged", "answered", "verdict"),
    [
        (True, 1.04, 1.03, "in use"),
        (True, None, None, "in use"),
        (True, 0.2, 2.3, "in use, waiting for an answer"),
        (True, 2.2, 4.3, "in use, no answer"),
        (False, None, None, "not tried"),
        (False, 0.2, None, "waiting for an answer"),
        (False, 4.2, None, "no answer"),
        (False, 4.2, 66.0, "no answer"),
        (False, 66.0, 65.9, "answers, not as good"),
        (False, 7.801, 7.802, "answers, not as good"),
    ],
)
def test_the_verdict_on_a_candidate(
    in_use: bool, pinged: float | None, answered: float | None, verdict: str
) -> None:
    one = candidate("203.0.113.7:41641", InUse=in_use, LastPingAgo=pinged, LastPongAgo=answered)
    assert list(describe_paths(paths(Candidates=[one])))[-1].endswith(f"  1280  {verdict}")


def test_a_peer_that_is_offline() -> None:
    assert list(describe_paths(paths(Online=False)))[1] == "The coordinator says that it is offline."


def test_a_relayed_peer_and_why() -> None:
    shown = paths(
        Direct=False, Active=False, Destinations=["DERP(fra)"], RelayReason="idle", HomeRelay="", Name="nas"
    )
    assert list(describe_paths(shown)) == [
        "nas (100.64.0.7, fd7a:115c:a1e0::7), home relay unknown",
        "Not direct, idle: data goes to DERP(fra).",
        "Why: nothing was sent lately, so no direct path is kept up.",
        "What to do: send something, as with: meshnode ping nas.",
        "Asked to be pinged: we the peer never, the peer us never.",
    ]


def test_nowhere_to_go() -> None:
    shown = paths(Direct=False, Destinations=[], RelayReason="no_candidates")
    assert "Not direct, active: data goes to nowhere: no way is known." in describe_paths(shown)


def test_a_peer_without_disco() -> None:
    shown = {name: paths()[name] for name in ("Name", "PublicKey", "TailscaleIPs", "Online", "HomeRelay")}
    assert list(describe_paths(shown | {"SpeaksDisco": False}))[1] == (
        "It does not speak disco: WireGuard's handshakes alone decide where data goes."
    )


@pytest.mark.parametrize("reason", RelayReason)
def test_every_reason_has_words_and_advice(reason: RelayReason) -> None:
    lines = list(describe_paths(paths(Direct=False, Destinations=["DERP(fra)"], RelayReason=reason.value)))
    assert lines[2].startswith("Why: ")
    assert reason.value not in lines[2]
    assert lines[3].startswith("What to do: ")
    assert len(REASONS) == len(RelayReason)


def test_a_derp_map() -> None:
    region = {
        "RegionID": 4,
        "RegionCode": "fra",
        "RegionName": "Frankfurt",
        "NoMeasureNoHome": True,
        "Nodes": [
            {"Name": "4a", "RegionID": 4, "HostName": "derp4a.example", "IPv4": "192.0.2.4", "IPv6": "none"},
            {"Name": "4b", "RegionID": 4, "HostName": "stun.example", "STUNOnly": True, "STUNPort": 3479},
            {
                "Name": "4c",
                "RegionID": 4,
                "HostName": "192.0.2.5",
                "DERPPort": 8443,
                "STUNPort": -1,
                "InsecureForTests": True,
            },
        ],
    }
    assert list(debug_derp_map.describe_region(region)) == [
        "4 fra (Frankfurt), never a home",
        "    4a: derp4a.example [192.0.2.4], DERP port 443, STUN port 3478",
        "    4b: stun.example, STUN port 3479",
        "    4c: 192.0.2.5, DERP port 8443, no STUN, certificate not checked",
    ]
