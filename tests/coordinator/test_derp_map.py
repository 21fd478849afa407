"""The DERP map: of the relay inside, of others, and all together."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from coordinator.derp_map import EmbeddedRegion, MalformedMap, Place, Relays, merge, parse
from coordinator.relay_certificate import CertificateMaker
from meshproto.keys import NodePrivate
from meshproto.messages import DERPMap, DERPNode, DERPRegion

KEY = NodePrivate.generate(os.urandom)
CERTIFICATES = CertificateMaker(KEY)
EMBEDDED = EmbeddedRegion(999, "embedded", "Embedded DERP", CERTIFICATES, alternate_stun=Place("", 3479))

FILE = """
regions:
  900:
    regionid: 900
    regioncode: custom
    regionname: My Region
    nodes:
      - name: 900a
        regionid: 900
        hostname: derp.example.com
        ipv4: 198.51.100.1
        ipv6: "2001:db8::1"
        stunport: 0
        stunonly: false
        derpport: 8443
        canport80: true
"""
REGION_900 = DERPRegion(
    region_id=900,
    region_code="custom",
    region_name="My Region",
    nodes=(
        DERPNode(
            name="900a",
            region_id=900,
            host_name="derp.example.com",
            ipv4="198.51.100.1",
            ipv6="2001:db8::1",
            derp_port=8443,
            can_port80=True,
        ),
    ),
)


def from_yaml(text: str) -> DERPMap:
    return parse(yaml.safe_load(text))


# Where a relay is.


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("https://vpn.example", Place("vpn.example", 443, is_tls=True)),
        ("https://vpn.example:8443", Place("vpn.example", 8443, is_tls=True)),
        ("http://vpn.example", Place("vpn.example", 80)),
        ("http://192.0.2.1:8080", Place("192.0.2.1", 8080)),
        ("http://[2001:db8::1]:8080", Place("2001:db8::1", 8080)),
        ("", None),
        ("http://vpn.example:x", None),
        ("http://[::1", None),
    ],
)
def test_places(url: str, place: Place | None) -> None:
    assert Place.parse(url) == place


def test_behind_a_proxy_with_a_certificate() -> None:
    region = EMBEDDED.at(Place("vpn.example", 443, is_tls=True))
    assert region == DERPRegion(
        region_id=999,
        region_code="embedded",
        region_name="Embedded DERP",
        nodes=(
            DERPNode(name="999a", region_id=999, host_name="vpn.example", derp_port=443),
            DERPNode(name="999b", region_id=999, host_name="vpn.example", stun_port=3479, stun_only=True),
        ),
    )


def test_without_a_public_certificate_the_map_has_the_pin_of_ours() -> None:
    relay, stun = EMBEDDED.at(Place("vpn.example", 80)).nodes
    assert relay.cert_name == CERTIFICATES.pin("vpn.example")
    assert relay.can_port80
    assert not stun.cert_name
    other, _ = EMBEDDED.at(Place("other.example", 8080)).nodes
    assert other.cert_name not in ("", relay.cert_name)
    assert not other.can_port80


@pytest.mark.parametrize(
    ("host", "ipv4", "ipv6"),
    [("192.0.2.1", "192.0.2.1", "none"), ("2001:db8::1", "none", "2001:db8::1"), ("vpn.example", "", "")],
)
def test_addresses_are_not_looked_up(host: str, ipv4: str, ipv6: str) -> None:
    for node in EMBEDDED.at(Place(host, 8080)).nodes:
        assert (node.host_name, node.ipv4, node.ipv6) == (host, ipv4, ipv6)


def test_addresses_that_the_configuration_says() -> None:
    region = replace(EMBEDDED, ipv4="198.51.100.1", ipv6="2001:db8::5", stun_port=3500)
    for host in ("vpn.example", "192.0.2.1"):
        first, second = region.at(Place(host, 443, is_tls=True)).nodes
        assert (first.ipv4, first.ipv6, first.stun_port) == ("198.51.100.1", "2001:db8::5", 3500)
        assert (second.ipv4, second.ipv6, second.stun_port) == ("198.51.100.1", "2001:db8::5", 3479)


def test_a_second_stun_server_with_an_address_of_its_own() -> None:
    region = replace(EMBEDDED, ipv4="198.51.100.1", alternate_stun=Place("198.51.100.2", 3479))
    _, second = region.at(Place("vpn.example", 443, is_tls=True)).nodes
    assert (second.host_name, second.ipv4, second.ipv6) == ("198.51.100.2", "198.51.100.2", "none")


def test_each_node_is_told_of_the_address_that_it_used() -> None:
    relays = Relays(merge([from_yaml(FILE)]), EMBEDDED)
    for reached_at, host in [("http://192.0.2.1:8080", "192.0.2.1"), ("http://vpn.lan:8080", "vpn.lan")]:
        regions = relays.map_for(reached_at).regions
        assert regions is not None
        assert list(regions) == [900, 999]
        assert regions[999].nodes[0].host_name == host
    assert relays.map_for("").regions == {900: REGION_900}
    fixed = replace(relays, place=Place("fixed.example", 443, is_tls=True)).map_for("http://192.0.2.1:8080")
    assert fixed.regions is not None
    assert fixed.regions[999].nodes[0].host_name == "fixed.example"


def test_the_relay_inside_wins_over_others_with_its_id() -> None:
    relays = Relays(merge([from_yaml(FILE)]), replace(EMBEDDED, region_id=900), Place("vpn.example", 443))
    regions = relays.map_for("").regions
    assert regions is not None
    assert [region.region_code for region in regions.values()] == ["embedded"]


def test_certificates_follow_from_the_key() -> None:
    again = CertificateMaker(NodePrivate.parse(KEY.to_text()))
    assert again.certificate("vpn.example") == CERTIFICATES.certificate("VPN.example.")
    assert again.certificate("192.0.2.1") == CERTIFICATES.certificate("2001:db8::1")
    assert again.certificate("192.0.2.1") == CERTIFICATES.certificate("no name!")
    assert CertificateMaker(NodePrivate.generate(os.urandom)).pin("a") != CERTIFICATES.pin("a")


# Maps of others.


def test_headscales_files() -> None:
    assert from_yaml(FILE) == DERPMap(regions={900: REGION_900})


def test_tailscales_json() -> None:
    document = {
        "Regions": {
            "1": {
                "RegionID": 1,
                "RegionCode": "nyc",
                "RegionName": "New York City",
                "Latitude": 40.7,
                "Unheard": {"of": 1},
                "Nodes": [{"Name": "1f", "RegionID": 1, "HostName": "derp1f.example", "STUNPort": -1}],
            }
        },
        "HomeParams": {"RegionScore": {"1": 0.5}},
    }
    found = parse(document)
    assert found.regions == {
        1: DERPRegion(
            region_id=1,
            region_code="nyc",
            region_name="New York City",
            latitude=40.7,
            nodes=(DERPNode(name="1f", region_id=1, host_name="derp1f.example", stun_port=-1),),
        )
    }
    assert found.home_params is not None
    assert found.home_params.region_score == {1: 0.5}


def test_later_maps_win_and_null_takes_away() -> None:
    first = from_yaml("regions: {1: {nodes: [{hostname: a}]}, 2: {nodes: [{hostname: b}]}, 3: {nodes: []}}")
    second = from_yaml("regions: {1: null, 2: {regioncode: new, nodes: [{hostname: c}]}}")
    regions = merge([first, second]).regions
    assert regions is not None
    assert list(regions) == [2]
    assert (regions[2].region_code, regions[2].nodes[0].host_name) == ("new", "c")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", "expected a map with `regions`"),
        ("regions: 1", "regions: expected a map of regions by id"),
        ("regions: {x: {}}", "'x' is no region id"),
        ("regions: {0: {}}", "'0' is no region id"),
        ("regions: {1: 2}", "region 1: expected its members"),
        ("regions: {1: {nodes: 2}}", "region 1: nodes: expected a list"),
        ("regions: {1: {nodes: [2]}}", "region 1: node 1: expected its members"),
        ("regions: {1: {nodes: [{name: a}]}}", "region 1: node 1: no hostname"),
        ("regions: {1: {nodes: [{hostname: 1}]}}", "region 1: node 1: Expected `str`, got `int`"),
        ("homeparams: {regionscore: 1}", "homeparams: regionscore: expected a map"),
        ("homeparams: {regionscore: {1: x}}", "homeparams: regionscore: could not convert"),
        (f"homeparams: {{regionscore: {{1: {10**400}}}}}", "homeparams: regionscore: int too large"),
        (f"regions:\n  ? '{'9' * 5000}'\n  : {{}}", f"'{'9' * 5000}' is no region id"),
    ],
)
def test_what_is_no_map(text: str, problem: str) -> None:
    with pytest.raises(MalformedMap) as refused:
        from_yaml(text)
    assert str(refused.value).replace("0 is no", "'0' is no").startswith(problem.replace("''", "'"))


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["regions", "HomeParams", "RegionScore", "nodes", "1", "hostname", "name"]),
            inner,
            max_size=4,
        )
    ),
)


@given(documents)
def test_any_document_is_a_map_or_refused(document: object) -> None:
    try:
        merge([parse(document)])
    except MalformedMap:
        pass
