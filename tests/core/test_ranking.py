"""R2 and R3: who gets which rank."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate.core.node import NodeDesc, NodeProfile, natural_order
from quorate.core.ranking import rank_nodes
from quorate.core.settings import RANK_POLICIES
from tests.core.support import node

Names = list[str]


def ranks(
    names: Names, survivors: dict[str, int] | None = None, policy: str = "stable", **said: Any
) -> Names:
    """Rank nodes by their names; `said` gives some of them a profile."""
    profiles = {node(name): said.get(name, NodeProfile()) for name in names}
    old_ranks = {node(name): rank for name, rank in (survivors or {}).items()}
    return [each.addr for each in rank_nodes(policy, profiles, old_ranks)]


def test_the_first_round_has_natural_order() -> None:
    """R3: node2 before node10."""
    assert ranks(["node10", "node2", "node1"]) == ["node1", "node2", "node10"]


def test_survivors_keep_their_ranks_and_newcomers_fill_the_gaps() -> None:
    """R3"""
    assert ranks(["a", "c", "x", "d"], {"a": 0, "c": 2, "d": 3}) == ["a", "x", "c", "d"]


def test_the_survivor_with_the_lowest_old_rank_leads_if_the_leader_is_gone() -> None:
    """R3: and its old place is filled like any gap; newcomer `0` never leads."""
    assert ranks(["0", "b", "c", "d"], {"b": 1, "c": 2, "d": 3}) == ["b", "0", "c", "d"]


def test_survivors_beyond_a_smaller_world_fill_gaps_before_newcomers() -> None:
    """R3"""
    assert ranks(["a", "d", "e", "0"], {"a": 0, "d": 3, "e": 4}) == ["a", "e", "0", "d"]
    assert ranks(["d", "e", "0"], {"d": 3, "e": 4}) == ["d", "e", "0"]


def test_sorted_takes_the_natural_order_in_every_round() -> None:
    """R3"""
    assert ranks(["c10", "c9", "b"], {"c10": 0}, "sorted") == ["b", "c9", "c10"]


def test_hint_follows_the_scheduler() -> None:
    """R3: equal hints in natural order, those without one last."""
    said = {"a": NodeProfile(rank_hint=2), "c": NodeProfile(rank_hint=0)}
    said["b"] = said["d"] = NodeProfile(rank_hint=1)
    order = ranks(["a", "b", "c", "d", "0"], {"0": 0}, "hint", **said)
    assert order == ["c", "b", "d", "a", "0"]


def test_topology_keeps_a_block_together() -> None:
    """R3: blocks in natural order, nodes without one last."""
    blocks = {"a": "rack10", "b": "rack9", "c": "rack10", "d": "rack9"}
    said = {name: NodeProfile(labels={"block": block}) for name, block in blocks.items()}
    order = ranks(["a", "b", "c", "d", "0"], {"0": 0}, "topology", **said)
    assert order == ["b", "d", "a", "c", "0"]


def test_every_policy_of_the_settings_exists() -> None:
    for policy in RANK_POLICIES:
        assert ranks(["a"], policy=policy) == ["a"]
    with pytest.raises(KeyError):
        ranks(["a"], policy="alphabetic")


nodes = st.builds(
    NodeDesc,
    st.text(alphabet="ab01", min_size=1, max_size=3),
    st.integers(1, 2),
    st.integers(0, 1),
)
profiles = st.builds(
    NodeProfile,
    rank_hint=st.none() | st.integers(-1, 4),
    labels=st.sampled_from([{}, {"block": "x2"}, {"block": "x10"}]),
)


@st.composite
def rounds(draw: st.DrawFn) -> tuple[dict[NodeDesc, NodeProfile], dict[NodeDesc, int]]:
    """Draw the nodes of a new world, some of which survive from an old one of another size."""
    new = draw(st.dictionaries(nodes, profiles, min_size=1, max_size=8))
    kept = draw(st.lists(st.sampled_from(sorted(new)), unique=True))
    old = draw(st.permutations(range(len(kept) + draw(st.integers(0, 6)))))
    return new, dict(zip(kept, old, strict=False))


@given(rounds(), st.sampled_from(RANK_POLICIES))
def test_ranks_are_contiguous_and_each_is_given_once(
    case: tuple[dict[NodeDesc, NodeProfile], dict[NodeDesc, int]], policy: str
) -> None:
    """R2"""
    new, survivors = case
    order = rank_nodes(policy, new, survivors)
    assert len(order) == len(new)
    assert set(order) == new.keys()


@given(rounds())
def test_survivors_keep_ranks_that_still_exist(
    case: tuple[dict[NodeDesc, NodeProfile], dict[NodeDesc, int]],
) -> None:
    """R3"""
    new, survivors = case
    order = rank_nodes("stable", new, survivors)
    new_leader = None if 0 in survivors.values() else order[0]
    for who, old_rank in survivors.items():
        if old_rank < len(order) and who != new_leader:
            assert order[old_rank] == who


@given(rounds())
def test_a_newcomer_never_leads_while_a_survivor_is_there(
    case: tuple[dict[NodeDesc, NodeProfile], dict[NodeDesc, int]],
) -> None:
    """R3"""
    new, survivors = case
    leader = rank_nodes("stable", new, survivors)[0]
    if survivors:
        assert leader == min(survivors, key=lambda who: survivors[who])


@given(rounds())
def test_displaced_survivors_come_before_newcomers_and_both_in_order(
    case: tuple[dict[NodeDesc, NodeProfile], dict[NodeDesc, int]],
) -> None:
    """R3"""
    new, survivors = case
    order = rank_nodes("stable", new, survivors)
    fillers = [
        who for rank, who in enumerate(order) if survivors.get(who) != rank and who != order[0]
    ]
    displaced = [who for who in fillers if who in survivors]
    newcomers = [who for who in fillers if who not in survivors]
    assert fillers == displaced + newcomers
    assert displaced == sorted(displaced, key=lambda who: survivors[who])
    assert newcomers == sorted(newcomers, key=natural_order)


@given(rounds(), st.sampled_from(RANK_POLICIES), st.randoms())
def test_ranks_do_not_depend_on_the_order_in_which_nodes_are_met(
    case: tuple[dict[NodeDesc, NodeProfile], dict[NodeDesc, int]], policy: str, chance: Any
) -> None:
    """R2: whoever completes the round, the record is the same."""
    new, survivors = case
    shuffled = list(new.items())
    chance.shuffle(shuffled)
    assert rank_nodes(policy, dict(shuffled), survivors) == rank_nodes(policy, new, survivors)
