"""Which of two paths is better, as a table; and that no two paths take turns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.disco.best_addr import PathQuality, address_points, is_better
from meshnode.disco.destinations import AuxPath, Path, RelayPath
from meshproto.addresses import AddrPort

PUBLIC = AddrPort("198.51.100.7", 1)
PUBLIC_2 = AddrPort("198.51.100.8", 1)
PUBLIC_IPV6 = AddrPort("2001:db8::7", 1)
LAN = AddrPort("192.168.1.7", 1)
LAN_2 = AddrPort("10.0.0.7", 1)
LAN_IPV6 = AddrPort("fd00::7", 1)
LOOPBACK = AddrPort("127.0.0.1", 1)
LINK_LOCAL = AddrPort("169.254.0.7", 1)
AUX = AuxPath(PUBLIC_2, 3)
RELAY = RelayPath(PUBLIC_2, 5)


def quality(path: Path, milliseconds: float, wire_mtu: int = 1360) -> PathQuality:
    return PathQuality(path, milliseconds / 1000, wire_mtu)


@pytest.mark.parametrize(
    ("challenger", "best", "expected"),
    [
        # anything beats nothing
        (quality(PUBLIC, 900), None, True),
        # the same path: only a larger MTU is news
        (quality(PUBLIC, 5), quality(PUBLIC, 10), False),
        (quality(PUBLIC, 10, 1500), quality(PUBLIC, 10, 1360), True),
        (quality(PUBLIC, 10, 1360), quality(PUBLIC, 10, 1500), False),
        # latency, beyond hysteresis
        (quality(PUBLIC_2, 20), quality(PUBLIC, 40), True),
        (quality(PUBLIC_2, 40), quality(PUBLIC, 20), False),
        (quality(PUBLIC_2, 99), quality(PUBLIC, 100), False),
        (quality(PUBLIC_2, 97), quality(PUBLIC, 100), True),
        (quality(PUBLIC_2, 0.2), quality(PUBLIC, 0.6), False),  # noise
        (quality(AUX, 20), quality(PUBLIC, 40), True),
        # IPv6 may be a tenth slower
        (quality(PUBLIC_IPV6, 100), quality(PUBLIC, 100), True),
        (quality(PUBLIC_IPV6, 108), quality(PUBLIC, 100), True),
        (quality(PUBLIC_IPV6, 115), quality(PUBLIC, 100), False),
        (quality(PUBLIC, 100), quality(PUBLIC_IPV6, 108), False),
        (quality(PUBLIC, 100), quality(PUBLIC_IPV6, 115), True),
        # a LAN a fifth, a link and the machine itself more
        (quality(LAN, 120), quality(PUBLIC, 100), True),
        (quality(LAN, 140), quality(PUBLIC, 100), False),
        (quality(LAN_2, 100), quality(LAN, 100), False),
        (quality(LAN_IPV6, 100), quality(LAN, 100), True),
        (quality(LINK_LOCAL, 100), quality(LAN, 100), True),
        (quality(LOOPBACK, 100), quality(LINK_LOCAL, 100), True),
        # through a peer relay only if there is nothing direct
        (quality(RELAY, 1), quality(PUBLIC, 500), False),
        (quality(PUBLIC, 500), quality(RELAY, 1), True),
        (quality(RELAY, 10), None, True),
        (quality(RelayPath(LAN, 6), 10), quality(RELAY, 10), True),
    ],
)
def test_table(challenger: PathQuality, best: PathQuality | None, expected: bool) -> None:
    assert is_better(challenger, best) is expected


PATHS = st.sampled_from(
    [PUBLIC, PUBLIC_2, PUBLIC_IPV6, LAN, LAN_2, LAN_IPV6, LOOPBACK, LINK_LOCAL, AUX, RELAY]
)
QUALITIES = st.builds(PathQuality, PATHS, st.floats(1e-6, 5.0), st.sampled_from([1280, 1360, 1400, 1500]))


@given(QUALITIES, QUALITIES)
def test_two_paths_never_take_turns(one: PathQuality, other: PathQuality) -> None:
    assert not (is_better(one, other) and is_better(other, one))


@given(QUALITIES)
def test_no_path_is_better_than_itself(one: PathQuality) -> None:
    assert not is_better(one, one)


def test_points() -> None:
    assert [
        address_points(one.host) for one in (PUBLIC, PUBLIC_IPV6, LAN, LAN_IPV6, LINK_LOCAL, LOOPBACK)
    ] == [
        0,
        10,
        20,
        30,
        30,
        50,
    ]
    assert address_points("100.64.0.1") == 0  # a carrier's, as upstream has it
