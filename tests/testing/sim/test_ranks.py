"""The simulator's own reading of who should have which rank (R3)."""

from __future__ import annotations

from typing import Any

from quorate.core.node import NodeDesc, NodeProfile
from quorate.testing.sim.ranks import ranks_due
from tests.core.support import node


def due(policy: str, *names: str, last: tuple[str, ...] = (), **said: NodeProfile) -> list[str]:
    profiles: dict[NodeDesc, Any] = {node(name): said.get(name, NodeProfile()) for name in names}
    survivors = {node(name): rank for rank, name in enumerate(last) if node(name) in profiles}
    return [each.addr for each in ranks_due(policy, profiles, survivors)]


def block(name: str) -> NodeProfile:
    return NodeProfile(labels={"block": name})


def test_r3_the_first_ranks_follow_the_natural_order() -> None:
    for policy in ("stable", "sorted", "hint", "topology"):
        assert due(policy, "n10", "n9", "n2") == ["n2", "n9", "n10"]


def test_r3_survivors_keep_their_ranks_and_lead() -> None:
    assert due("stable", "x", "b", "c", last=("a", "b", "c")) == ["b", "x", "c"]
    assert due("stable", "x", "a", "c", last=("a", "b", "c")) == ["a", "x", "c"]


def test_r3_survivors_without_a_rank_fill_the_gaps_before_newcomers() -> None:
    assert due("stable", "d", "a1", "b", last=("z", "b", "c", "d")) == ["b", "d", "a1"]


def test_r3_sorted_does_not_look_at_old_ranks() -> None:
    assert due("sorted", "c", "b", "a", last=("c", "b")) == ["a", "b", "c"]


def test_r3_hints_come_first_and_in_their_order() -> None:
    said = {"b": NodeProfile(rank_hint=7), "c": NodeProfile(rank_hint=0)}
    assert due("hint", "a", "b", "c", **said) == ["c", "b", "a"]


def test_r3_nodes_of_a_block_are_neighbours() -> None:
    said = {"b": block("r10"), "c": block("r2"), "d": block("r10")}
    assert due("topology", "a", "b", "c", "d", **said) == ["c", "b", "d", "a"]
