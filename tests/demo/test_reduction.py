from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from quorate.demo.reduction import GradientReduction
from quorate.errors import RendezvousProtocolError

SLICES = 6
SHAPE = (3, 2)
STEPS = 4

OnEveryRank = Callable[..., list[Any]]


def gradients_of(step: int) -> np.ndarray:
    """One gradient per slice, of sizes so unlike that the order of addition shows."""
    generator = np.random.default_rng(step)
    scales = 10.0 ** generator.integers(-8, 8, (SLICES, 1, 1))
    return generator.normal(size=(SLICES, *SHAPE)) * scales


def sums_of(store: Any, rank: int, world_size: int) -> list[np.ndarray]:
    reduction = GradientReduction(store, rank, world_size, SLICES, SHAPE)
    assert reduction.share_start(b"rank %d" % rank) == b"rank 0"
    own = reduction.own_slices()
    return [reduction.sum(step, gradients_of(step)[own]) for step in range(STEPS)]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7])
def test_the_sum_does_not_depend_on_the_world_size(
    world_size: int, store: Any, on_every_rank: OnEveryRank
) -> None:
    expected = [gradients_of(step).sum(axis=0) for step in range(STEPS)]
    for sums in on_every_rank(world_size, lambda rank: sums_of(store, rank, world_size)):
        assert np.array_equal(sums, expected)


def test_every_slice_has_one_owner(store: Any) -> None:
    for world_size in (1, 4, 7):
        owned = [
            index
            for rank in range(world_size)
            for index in GradientReduction(store, rank, world_size, SLICES, SHAPE).own_slices()
        ]
        assert sorted(owned) == list(range(SLICES))


def test_old_keys_are_deleted(store: Any, on_every_rank: OnEveryRank) -> None:
    on_every_rank(3, lambda rank: sums_of(store, rank, 3))
    assert list(store.values) == [f"sum/{STEPS - 1}"]
    assert store.keys_max <= 4


def test_a_part_of_another_size_is_refused(store: Any) -> None:
    store.set("gradients/0/1", b"garbage")
    reduction = GradientReduction(store, 0, 2, SLICES, SHAPE)
    with pytest.raises(RendezvousProtocolError, match=r"rank 1 sent 7 bytes .* instead of 144"):
        reduction.sum(0, gradients_of(0)[reduction.own_slices()])


def test_a_sum_of_another_size_is_refused(store: Any) -> None:
    store.set("sum/0", b"")
    reduction = GradientReduction(store, 1, 2, SLICES, SHAPE)
    with pytest.raises(RendezvousProtocolError, match=r"rank 0 sent 0 bytes .* instead of 48"):
        reduction.sum(0, gradients_of(0)[reduction.own_slices()])
