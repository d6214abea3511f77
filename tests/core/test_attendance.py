"""R16: who is there and who is missing, in bounded words."""

from __future__ import annotations

import pytest

from quorate.core.attendance import (
    NAMED_MAX,
    REMARK_CHARACTERS_MAX,
    attendance,
    ends_in_s,
    names_and_count,
)
from quorate.core.completion import completion
from quorate.core.transitions import withdraw
from tests.core.support import LAST_CALL_S, REGROUP_S, Run, node

A, B, C, D = (node(name) for name in "abcd")


def lose(run: Run, name: str, reason: str = "lost: it was silent for 15 s") -> None:
    withdraw(run.state, run.settings, node(name), reason, run.observer)


def left_s(run: Run) -> float | None:
    ctx = run.ctx(A)
    return ends_in_s(ctx, completion(ctx).kind)


def test_of_the_first_round_only_the_number_is_known() -> None:
    run = Run(3, 4)
    run.join(A)
    assert str(attendance(run.ctx(A))) == "present: a_1_0; missing: 2 nodes"
    assert left_s(run) is None


def test_the_last_call_misses_nobody_and_ends_by_itself() -> None:
    run = Run(2, 4)
    run.join(A, B)
    assert str(attendance(run.ctx(A))) == "present: a_1_0, b_1_0"
    assert left_s(run) == LAST_CALL_S
    run.advance(10)
    assert left_s(run) == LAST_CALL_S - 10


def test_members_that_are_to_come_back_are_named_by_rank_and_lost_ones_with_the_reason() -> None:
    run = Run(1, 3)
    run.completed(A, B, C)
    lose(run, "c")
    run.comes_back(A)
    assert attendance(run.ctx(A)).missing == (
        "b_1_0 (rank 1, not back yet)",
        "c_1_0 (lost: it was silent for 15 s)",
    )
    assert left_s(run) == REGROUP_S


def test_whose_place_was_taken_is_not_missing() -> None:
    run = Run(2, 3)
    run.completed(A, B, C)
    lose(run, "c")
    run.comes_back(A)
    run.join(D)
    there = attendance(run.ctx(A))
    assert there.missing == ("b_1_0 (rank 1, not back yet)",)
    assert there.missing_count == 1


def test_a_complete_round_misses_nobody() -> None:
    run = Run(2, 2)
    run.completed(A, B)
    assert str(attendance(run.ctx(C))) == "present: a_1_0, b_1_0"


def test_the_words_are_bounded() -> None:
    run = Run(2, 40)
    everybody = [node(f"n{number}") for number in range(40)]
    run.completed(*everybody)
    for member in everybody[1:]:
        lose(run, member.addr, "lost: " + "x" * 1000)
    run.comes_back(everybody[0])
    there = attendance(run.ctx(everybody[0]))
    assert len(there.missing) == NAMED_MAX
    assert there.missing_count == 39
    assert len(str(there)) < (NAMED_MAX + 1) * (REMARK_CHARACTERS_MAX + 20)
    assert str(there).endswith(f"), {39 - NAMED_MAX} more")


@pytest.mark.parametrize(
    ("names", "count", "said"),
    [
        ((), 0, "nobody"),
        ((), 1, "1 node"),
        ((), 2, "2 nodes"),
        (("a", "b"), 2, "a, b"),
        (("a",), 3, "a, 2 more"),
    ],
)
def test_names_and_their_number(names: tuple[str, ...], count: int, said: str) -> None:
    assert names_and_count(names, count) == said
