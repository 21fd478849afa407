"""The numbers that mark what is ours."""

from __future__ import annotations

import itertools

import pytest

from meshnode.linux.marks import FWMARK, FWMARK_MASK, PHASES, SLOTS, ownership


def test_the_numbers_of_mesh0() -> None:
    own = ownership("mesh0")
    assert own.table == 41641
    assert own.priorities == frozenset(PHASES)
    assert own.nft_table == "meshnode-mesh0"


def test_numbered_interfaces_never_clash() -> None:
    owned = [ownership(f"mesh{number}") for number in range(100)]
    assert len({own.table for own in owned}) == 100
    assert len(frozenset().union(*(own.priorities for own in owned))) == 100 * len(PHASES)


@pytest.mark.parametrize("name", ["wg-home", "tun0", "mesh100", "mesh007", "MESH0"])
def test_other_names_get_other_numbers_and_always_the_same(name: str) -> None:
    own = ownership(name)
    assert own == ownership(name)
    assert own.slot >= 100
    assert own.table > 0x6D00_0000


def test_phases_do_not_run_into_each_other_and_stay_clear_of_tailscale() -> None:
    ranges = [range(phase, phase + SLOTS) for phase in PHASES]
    assert all(one.stop <= two.start for one, two in itertools.pairwise(ranges))
    assert not any(priority in block for block in ranges for priority in (5210, 5230, 5250, 5270))


def test_the_mark_keeps_to_its_mask_and_clear_of_others() -> None:
    assert FWMARK & ~FWMARK_MASK == 0
    assert FWMARK_MASK & 0x00FF_FFFF == 0  # Tailscale, Kubernetes, and what people use by hand


@pytest.mark.parametrize("name", ["", "a b", "x" * 16, "../etc", "eth0;drop", "-eth0", "\u00e9th0"])
def test_names_that_would_need_quoting_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="interface name"):
        ownership(name)
