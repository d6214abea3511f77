from __future__ import annotations

from datetime import timedelta

import pytest

from quorate.core.node import NodeDesc
from quorate.core.state import WorldName
from quorate.errors import RendezvousConnectionError, RendezvousTimeoutError
from quorate.executor import Pause
from quorate.joining import RETRY_S, Joining
from quorate.testing import Fault, ManualClock
from tests.core.support import make_settings, node
from tests.direct import Member, PolledBackend

A, B, C = (node(name) for name in "abc")

SILENCE_S = 15.0


class Run:
    """Two nodes of a run for one or two, on one clock and one backend."""

    def __init__(self, min_nodes: int = 1, max_nodes: int = 1) -> None:
        self.clock = ManualClock()
        self.backend = PolledBackend()
        self.settings = make_settings(min_nodes, max_nodes)
        self.errors: list[RendezvousConnectionError] = []
        assert self.settings.silence_s == SILENCE_S

    def member(self, who: NodeDesc = A) -> Member:
        return Member(who, self.settings, self.backend, self.clock)

    def joining(
        self, member: Member, after: WorldName | None = None, timeout_s: float = 600.0
    ) -> Joining:
        timeout = timedelta(seconds=timeout_s)
        return Joining(
            member.executor, self.settings, self.clock, after, timeout, self.errors.append
        )


def test_it_returns_the_world() -> None:
    run = Run()
    member = run.member()
    world = member.executor.carry_out(run.joining(member).steps())
    assert (world.round, world.members) == (0, (A,))
    assert world == member.holder.state.world


def test_r11_it_tries_again_while_the_backend_is_away_for_a_moment() -> None:
    run = Run()
    member = run.member()
    member.backend.plan("get_state", *[Fault("request")] * 3)
    before = run.clock.monotonic()
    world = member.executor.carry_out(run.joining(member).steps())
    assert world.members == (A,)
    assert len(run.errors) == 3
    assert run.clock.monotonic() - before == pytest.approx(3 * RETRY_S)


def test_r11_it_ends_when_the_backend_has_been_away_for_too_long() -> None:
    """For as long as the node may be silent, and not before."""
    run = Run()
    member = run.member()
    member.backend.plan("get_state", *[Fault("request")] * 100)
    before = run.clock.monotonic()
    with pytest.raises(RendezvousConnectionError):
        member.executor.carry_out(run.joining(member).steps())
    assert run.clock.monotonic() - before == SILENCE_S
    assert len(run.errors) == SILENCE_S / RETRY_S


def test_r11_each_answer_counts() -> None:
    run = Run(2, 2)
    member = run.member()
    steps = run.joining(member).steps()
    for _ in range(3):
        while not next(steps).until_change:
            pass
        member.backend.plan("get_state", *[Fault("request")] * 10)
        run.clock.advance(1)
        for _ in range(10):
            assert next(steps) == Pause(RETRY_S)
            run.clock.advance(RETRY_S)
    assert len(run.errors) == 30


def test_an_error_of_a_wait_is_like_one_of_a_read() -> None:
    run = Run(2, 2)
    member, waits = run.member(), 0

    def wait(timeout_s: float) -> None:
        nonlocal waits
        waits += 1
        run.clock.advance(timeout_s)
        if waits == 1:
            raise RendezvousConnectionError("The backend does not answer.")

    member.holder.wait = wait  # type: ignore[method-assign]
    with pytest.raises(RendezvousTimeoutError):
        member.executor.carry_out(run.joining(member, timeout_s=20.0).steps())
    assert len(run.errors) == 1
    assert waits > 1


def test_a_deadline_outlives_a_lost_connection() -> None:
    run = Run(2, 2)
    member = run.member()
    member.backend.plan("get_state", *[Fault("request")] * 8)
    before = run.clock.monotonic()
    with pytest.raises(RendezvousTimeoutError):
        member.executor.carry_out(run.joining(member, timeout_s=20.0).steps())
    assert 20.0 <= run.clock.monotonic() - before <= 21.0


def test_r6_so_does_the_new_one_of_a_spare_for_which_a_place_falls_free() -> None:
    """The spare's own time is over by far when the members are lost, and its wait begins."""
    run = Run(2, 2)
    for who in (A, B):
        steps = run.joining(run.member(who)).steps()
        assert next(steps) == Pause(0.0)
        run.clock.advance(next(steps, Pause(0.0)).wait_s)
    spare = run.member(C)
    steps = run.joining(spare, timeout_s=5.0).steps()
    before = run.clock.monotonic()
    while C not in spare.holder.state.wait_list:
        run.clock.advance(next(steps).wait_s)
    promoted_s = run.clock.monotonic()
    assert promoted_s - before == pytest.approx(SILENCE_S, abs=1.0)
    spare.backend.plan("get_state", *[Fault("request")] * 8)
    with pytest.raises(RendezvousTimeoutError):
        spare.executor.carry_out(steps)
    assert len(run.errors) == 8
    waited_s = run.clock.monotonic() - promoted_s
    assert waited_s == pytest.approx(run.settings.timeout.join.total_seconds(), abs=1.0)
