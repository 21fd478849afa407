"""A part of the matrix of `make natlab`: what becomes of two nodes behind NATs of all kinds, both ways."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.netlab import Lab
from tests.netlab.matrix import Matrix, Pair
from tests.netlab.meeting import HARD_LIMIT, Cell, Expected

pytestmark = pytest.mark.system

PAIRS: list[Pair] = [
    ("open", "port-restricted"),
    ("full-cone", "symmetric-random"),
    ("address-restricted", "symmetric-random"),
    ("port-restricted", "port-restricted"),
    ("port-restricted", "cgnat-port-restricted"),
    ("port-restricted", "symmetric-random"),
    ("port-restricted", "udp-blocked"),
    ("symmetric-random", "port-restricted"),
    ("symmetric-random", "symmetric-random"),
    ("symmetric-sequential", "port-restricted"),
    ("cgnat-port-restricted", "cgnat-port-restricted"),
    ("cgnat-symmetric-random", "port-restricted"),
    ("udp-blocked", "port-restricted"),
    ("port-mapper", "symmetric-random"),
    ("ipv6-firewall", "ipv6-firewall"),
]


@pytest.fixture(scope="module")
def cells() -> Iterator[dict[Pair, Cell]]:
    """All pairs, measured once; those that chance decides once more, where it was not kind."""
    with Lab("nats") as lab:
        matrix = Matrix(lab, PAIRS)
        matrix.mesh.start()
        list(matrix.run())
        missed = [(cell.left, cell.right) for cell in matrix.cells() if cell.expected is Expected.HARD]
        missed = [pair for pair in missed if not is_direct_in_time(matrix, pair)]
        if missed:
            matrix.mesh.restart_nodes()
            list(matrix.run(missed))
        yield {(cell.left, cell.right): cell for cell in matrix.cells()}


def is_direct_in_time(matrix: Matrix, pair: Pair) -> bool:
    times = next(cell.times for cell in matrix.cells() if (cell.left, cell.right) == pair)
    return any(time <= HARD_LIMIT for time in times)


@pytest.mark.timeout(300)  # the first test waits for the measurements
@pytest.mark.parametrize("pair", PAIRS, ids=" to ".join)
def test_pair(cells: dict[Pair, Cell], pair: Pair) -> None:
    cell = cells[pair]
    assert cell.delivered == len(cell.meetings), "the first ping was lost"
    assert cell.lost == 0
    assert max(meeting.wire_mtu for meeting in cell.meetings) <= 1500, "that is what the cables carry"
    match cell.expected:
        case Expected.EASY:
            assert cell.times, cell.explanation()
        case Expected.HARD:
            assert min(cell.times, default=HARD_LIMIT + 1) <= HARD_LIMIT, cell.explanation()
        case Expected.RELAY:
            assert not cell.times
            assert "udp_blocked" in cell.explanation() or "both_behind_hard_nat" in cell.explanation()
