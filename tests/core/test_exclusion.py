"""Who is kept out of a run, and under what name."""

from __future__ import annotations

import pytest

from quorate.core.exclusion import ban_key, require_admissible, time_left
from quorate.core.node import NodeProfile
from quorate.core.ops import RendezvousJoinOp
from quorate.core.state import Ban
from quorate.errors import RendezvousEvictedError
from tests.core.support import Run, node

A, B = node("a"), node("b")
WITH_ID = NodeProfile(node_id="n1")


def test_a_node_is_kept_out_by_its_id_or_else_by_its_address() -> None:
    assert ban_key(A, WITH_ID) == "node id n1"
    assert ban_key(A, NodeProfile()) == "address a"


@pytest.mark.parametrize("key", ["node id n1", "address a"])
def test_a_newcomer_that_is_kept_out_is_told_why_and_for_how_long(key: str) -> None:
    run = Run()
    run.state.bans[key] = Ban("evicted by the operator: noisy", 89.6)
    with pytest.raises(RendezvousEvictedError) as caught:
        require_admissible(run.state, "job", A, WITH_ID)
    assert str(caught.value) == (
        f"The run 'job' keeps out {key} for another 90 s: evicted by the operator: noisy."
    )
    require_admissible(run.state, "job", B, NodeProfile())


def test_who_is_there_already_is_not_affected() -> None:
    run = Run(1, 2)
    run.join(A)
    run.state.bans["address a"] = Ban("another node of this address", None)
    run.join(A)
    run.state.bans["address b"] = Ban("this one", None)
    with pytest.raises(RendezvousEvictedError, match="for good: this one"):
        run.decide(RendezvousJoinOp(), B)


def test_no_time_is_told_as_zero() -> None:
    assert time_left(0.2) == "for another 1 s"
