"""Who is asked for captive portals, and what their answers mean."""

from __future__ import annotations

import msgspec
import pytest

from meshnode.netcheck.plan import fallback_relays
from meshnode.netcheck.portal import challenge_for, is_portal, portal_witnesses
from meshproto.messages import DERPRegion
from tests.meshnode.netcheck.maps import WORLD, node, region


def with_nodes(region_id: int, *changes: dict[str, object]) -> DERPRegion:
    nodes = tuple(node(f"{region_id}{number}", region_id, **change) for number, change in enumerate(changes))
    return msgspec.structs.replace(region(region_id, "r", "R"), nodes=nodes)


def test_witnesses_answer_in_clear_at_a_known_address() -> None:
    regions = {
        1: with_nodes(1, {"ipv4": "192.0.2.1", "can_port80": True}, {"ipv4": "192.0.2.2"}),
        2: with_nodes(2, {"can_port80": True}, {"ipv4": "none", "can_port80": True}),
        3: with_nodes(3, *({"ipv4": f"192.0.2.{number}", "can_port80": True} for number in range(30, 39))),
    }
    assert [one.ipv4 for one in portal_witnesses(regions, home=0)][:2] == ["192.0.2.1", "192.0.2.30"]
    asked = [one.ipv4 for one in portal_witnesses(regions, home=3)]
    assert asked == [f"192.0.2.{number}" for number in range(30, 35)]
    assert portal_witnesses(WORLD, home=1) == []


@pytest.mark.parametrize(
    ("status", "response", "portal"),
    [
        (204, "response ts_192.0.2.1", False),
        (204, "response ts_192.0.2.2", True),
        (204, None, True),
        (200, "response ts_192.0.2.1", True),
        (302, None, True),
        (511, None, True),
    ],
)
def test_only_the_relay_knows_the_answer(status: int, response: str | None, portal: bool) -> None:
    headers = {} if response is None else {"x-tailscale-response": response}
    assert is_portal(status, headers, challenge_for("192.0.2.1")) is portal


def test_who_is_measured_without_udp() -> None:
    regions = {
        1: with_nodes(1, {"stun_only": True}, {"derp_port": 70000}, {"derp_port": 8443}, {}),
        2: with_nodes(2, {"stun_only": True}),
        3: msgspec.structs.replace(with_nodes(3, {}), avoid=True),
        4: msgspec.structs.replace(with_nodes(4, {}), no_measure_no_home=True),
        5: with_nodes(5),
        6: with_nodes(6, {}),
    }
    assert {number: one.name for number, one in fallback_relays(regions).items()} == {1: "12", 6: "60"}
