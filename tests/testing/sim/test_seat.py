"""The seat of two coordinators: one decides, the other takes over when the lease has lapsed."""

from __future__ import annotations

from quorate.testing.sim import SimWorld
from quorate.testing.sim.seat import LEASE_S, SeatedCoordinator


def world_with_two() -> SimWorld:
    """Return the first world whose coordinators share a ledger."""
    return next(world for world in map(SimWorld, range(100)) if world.seat is not None)


def deciding(world: SimWorld) -> list[SeatedCoordinator]:
    """Return who is certain to decide."""
    seated = [each for each in world.coordinators if isinstance(each, SeatedCoordinator)]
    assert len(seated) == 2
    return [each for each in seated if each.alive and each.is_certain()]


def test_one_decides() -> None:
    world = world_with_two()
    world.schedule.run_until(1)
    (holder,) = deciding(world)
    assert world.coordinator is holder
    world.schedule.run_until(20)
    assert deciding(world) == [holder], "it keeps its lease alive"


def test_the_other_takes_over_from_one_that_is_frozen() -> None:
    world = world_with_two()
    world.schedule.run_until(1)
    (first,) = deciding(world)
    first.freeze(4 * LEASE_S)
    world.schedule.run_until(1 + 2 * LEASE_S)
    (second,) = deciding(world)
    assert second is not first
    world.schedule.run_until(2 + 4 * LEASE_S)
    assert deciding(world) == [second], "the first one has woken, and knows"
    assert first.engine is None


def test_one_that_is_cut_off_is_not_certain_any_more() -> None:
    world = world_with_two()
    assert world.seat is not None
    world.schedule.run_until(1)
    (first,) = deciding(world)
    world.seat.cut_off.add(first.machine.name)
    world.schedule.run_until(1 + 2 * LEASE_S)
    assert first not in deciding(world)
    assert len(deciding(world)) == 1
