"""Election of primary routers, against an obviously right model."""

from __future__ import annotations

from ipaddress import ip_network

from hypothesis import given
from hypothesis import strategies as st

from coordinator.model import IPNetwork, NodeID
from coordinator.primaries import Primaries

PREFIXES = tuple(ip_network(text) for text in ("10.0.0.0/8", "10.33.0.0/16", "fd00::/8"))
OPERATIONS = st.lists(
    st.tuples(st.integers(1, 5), st.frozensets(st.sampled_from(PREFIXES))), min_size=1, max_size=60
)


class SlowPrimaries:
    """Recomputes everything each time."""

    def __init__(self) -> None:
        self.standing: dict[NodeID, frozenset[IPNetwork]] = {}
        self.elected: dict[IPNetwork, NodeID] = {}

    def stand(self, node: NodeID, prefixes: frozenset[IPNetwork]) -> None:
        self.standing[node] = prefixes
        for prefix in PREFIXES:
            candidates = [one for one, wanted in self.standing.items() if prefix in wanted]
            if self.elected.get(prefix) not in candidates:
                self.elected.pop(prefix, None)
                if candidates:
                    self.elected[prefix] = min(candidates)

    def of(self, node: NodeID) -> set[IPNetwork]:
        return {prefix for prefix, elected in self.elected.items() if elected == node}


@given(OPERATIONS)
def test_election_matches_the_model(operations: list[tuple[NodeID, frozenset[IPNetwork]]]) -> None:
    primaries, model = Primaries(), SlowPrimaries()
    for node, prefixes in operations:
        before = {one: set(primaries.of(one)) for one in range(1, 6)}
        primaries, affected = primaries.stand(node, prefixes)
        model.stand(node, prefixes)
        after = {one: set(primaries.of(one)) for one in range(1, 6)}
        assert after == {one: model.of(one) for one in range(1, 6)}
        assert affected == {one for one in after if after[one] != before[one]}


def test_the_primary_stays_and_a_returning_node_does_not_reclaim() -> None:
    prefix = PREFIXES[0]
    primaries = Primaries()
    for node, prefixes in [(2, {prefix}), (1, {prefix})]:
        primaries, _ = primaries.stand(node, prefixes)
    assert primaries.elected == {prefix: 2}
    primaries, _ = primaries.stand(2, ())
    assert primaries.elected == {prefix: 1}
    primaries, _ = primaries.stand(2, {prefix})
    assert primaries.elected == {prefix: 1}


def test_an_earlier_value_is_left_as_it_was() -> None:
    first, _ = Primaries().stand(1, {PREFIXES[0]})
    first.stand(1, ())
    assert first.elected == {PREFIXES[0]: 1}
