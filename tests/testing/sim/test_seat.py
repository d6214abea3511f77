"""The seat of coordinators: one decides, another takes over when the lease has lapsed."""

from __future__ import annotations

from quorate.testing.sim import SimWorld
from quorate.testing.sim.network import Ending
from quorate.testing.sim.seat import LEASE_S, PATIENCE_S, SeatedCoordinator


def world_with_two() -> SimWorld:
    """Return the first world whose coordinators share a ledger."""
    return next(world for world in map(SimWorld, range(100)) if len(world.coordinators) == 2)


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


def test_one_that_ends_in_order_leaves_the_seat_at_once() -> None:
    world = world_with_two()
    world.schedule.run_until(1)
    (first,) = deciding(world)
    first.resign()
    world.kill_coordinator(Ending.FINISH, with_ledger=True, which=first)
    world.schedule.run_until(1.5)
    (second,) = deciding(world)
    assert second is not first
    assert second.engine is not None


def test_while_etcd_elects_nobody_is_certain_for_long_and_nobody_takes_over() -> None:
    world = world_with_two()
    assert world.seat is not None
    world.schedule.run_until(1)
    (first,) = deciding(world)
    world.seat.elect(2 * LEASE_S)
    world.schedule.run_until(1 + 1.5 * LEASE_S)
    assert deciding(world) == []
    world.schedule.run_until(1 + 2.5 * LEASE_S)
    assert deciding(world) == [first], "its lease has its whole time again"


def test_elections_do_not_keep_the_seat_of_a_dead_one_for_ever() -> None:
    world = world_with_two()
    assert world.seat is not None
    world.schedule.run_until(1)
    (first,) = deciding(world)
    first.kill(Ending.RESET)
    for number in range(40):
        world.schedule.after(number * LEASE_S / 2, world.seat.elect, 0.1)
    world.schedule.run_until(1 + PATIENCE_S + LEASE_S / 2)
    (second,) = deciding(world)
    assert second.engine is None, "it lets a lease's time pass first"
    world.schedule.run_until(2 + 2 * LEASE_S + PATIENCE_S)
    assert deciding(world) == [second]
    assert second.engine is not None
