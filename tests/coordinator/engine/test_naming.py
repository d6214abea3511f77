"""Whom an operator means, and what it is told when that is not clear."""

from __future__ import annotations

import pytest

from quorate.coordinator.engine import naming
from quorate.coordinator.engine.naming import (
    COMPARED_MAX,
    NAME_CHARACTERS_MAX,
    nearest,
    resolve_ban,
    resolve_node,
)
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.state import Ban
from quorate.errors import RendezvousError
from tests.core.support import Run

A, B, C = NodeDesc("host1", 7, 0), NodeDesc("host2", 7, 0), NodeDesc("host2", 8, 0)


@pytest.fixture
def run() -> Run:
    run = Run(3, 3)
    run.profiles = {
        A: NodeProfile(node_id="n1"),
        B: NodeProfile(),
        C: NodeProfile(node_id="2", addr="host3"),
    }
    run.completed(A, B, C)
    return run


@pytest.mark.parametrize(
    ("name", "node"),
    [
        ("0", A),
        ("rank 1", B),
        ("rank 2", C),
        ("n1", A),
        ("host1", A),
        ("host2_8_0", C),
        ("host3", C),
        ("2", C),
    ],
)
def test_a_node_has_several_names(run: Run, name: str, node: NodeDesc) -> None:
    assert resolve_node(name, "job", run.state) == node


def test_a_rank_is_that_of_the_last_world_while_others_regroup(run: Run) -> None:
    run.comes_back(B)
    run.leave(C)
    assert resolve_node("0", "job", run.state) == A
    with pytest.raises(RendezvousError, match="no node 'rank 2'"):
        resolve_node("rank 2", "job", run.state)


def test_a_name_of_several_nodes_names_them(run: Run) -> None:
    with pytest.raises(RendezvousError) as caught:
        resolve_node("host2", "job", run.state)
    assert str(caught.value).startswith(
        "'host2' stands for 2 nodes of the run 'job': host2_7_0, host2_8_0. Name the one"
    )


def test_of_many_nodes_some_are_named() -> None:
    run = Run(1, 9)
    run.join(*(NodeDesc("here", pid, 0) for pid in range(8)))
    with pytest.raises(RendezvousError, match="here_3_0, here_4_0 and 3 more"):
        resolve_node("here", "job", run.state)


def test_an_id_that_is_another_ones_rank_is_not_guessed_at() -> None:
    run = Run(2, 2)
    run.profiles = {A: NodeProfile(node_id="1")}
    run.completed(A, B)
    with pytest.raises(RendezvousError, match="'1' stands for 2 nodes"):
        resolve_node("1", "job", run.state)


def test_a_wrong_name_is_met_with_the_nearest(run: Run) -> None:
    with pytest.raises(RendezvousError, match=r"no node 'hots1' .*did you mean 'host1'"):
        resolve_node("hots1", "job", run.state)
    with pytest.raises(RendezvousError, match="quorate status job"):
        resolve_node("7", "job", run.state)


def test_a_long_name_is_not_compared() -> None:
    assert nearest("a", ["b"]) == ""
    assert nearest("x" * NAME_CHARACTERS_MAX, ["x" * NAME_CHARACTERS_MAX]) != ""
    assert nearest("x" * (NAME_CHARACTERS_MAX + 1), ["x" * NAME_CHARACTERS_MAX]) == ""


def test_short_names_are_not_crowded_out_by_long_ones_that_begin_like_them() -> None:
    long = [f"node{number}_3224{number}_0.{number}5d2e8c9" for number in range(20)]
    wanted = " (did you mean 'node3' or 'node2' or 'node1'?)"
    assert nearest("node9", [*long, "node1", "node2", "node3"]) == wanted


@pytest.mark.parametrize("wrong", ["node-1O42", "nod-1042", "node-10422", "nide-1042", "Node-1042"])
def test_the_nearest_is_found_among_many(wrong: str) -> None:
    assert "'node-1042'" in nearest(wrong, (f"node-{number}" for number in range(1000, 1100)))


def test_r15_few_names_are_compared_letter_by_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger may ask for runs by wrong names, and has one word each to begin a run with."""
    compared: list[str] = []

    def note(_: str, words: list[str], **__: float) -> list[str]:
        compared.extend(words)
        return []

    monkeypatch.setattr(naming.difflib, "get_close_matches", note)
    long = "a" * (NAME_CHARACTERS_MAX + 1)
    assert nearest("a" * 60, [long, *(f"{'a' * 50}{number:06}" for number in range(3000))]) == ""
    assert len(compared) == COMPARED_MAX
    assert long not in compared


@pytest.mark.parametrize("name", ["n1", "node id n1", "host1", "address host1"])
def test_who_is_kept_out_is_named_as_a_node_is(run: Run, name: str) -> None:
    run.state.bans = {"node id n1": Ban("noisy"), "address host1": Ban("noisy")}
    assert resolve_ban(name, "job", run.state).endswith(name.rsplit(maxsplit=1)[-1])
    with pytest.raises(RendezvousError, match="keeps out nobody called 'n2'"):
        resolve_ban("n2", "job", run.state)


def test_lives_that_look_the_same_are_told_apart_by_their_incarnations() -> None:
    """Process 1 of two containers on one address."""
    run = Run(2, 2)
    lives = [NodeDesc("h", 1, 0, incarnation) for incarnation in ("b1", "a7")]
    run.completed(*lives)
    with pytest.raises(RendezvousError, match=r"2 nodes .*: h_1_0\.a7, h_1_0\.b1\. Name"):
        resolve_node("h_1_0", "run", run.state)
    assert resolve_node("h_1_0.b1", "run", run.state) == lives[0]
