from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from quorate import events
from quorate.backends.memory import MemoryRendezvousBackend
from quorate.core.action import Action, Decision, RendezvousContext
from quorate.core.node import NodeProfile
from quorate.core.ops import (
    RendezvousCloseOp,
    RendezvousExitOp,
    RendezvousJoinOp,
    RendezvousKeepAliveOp,
    RendezvousVerdictOp,
)
from quorate.core.state import RendezvousState, check
from quorate.errors import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousGracefulExitError,
    RendezvousReplacedError,
    RendezvousSettingsError,
    RendezvousTimeoutError,
)
from quorate.events import RendezvousEvent
from quorate.executor import DistributedRendezvousOpExecutor, Operation, Pause
from quorate.holder import BackendRendezvousStateHolder
from quorate.testing import Fault, ManualClock
from quorate.wait import Wait
from tests.core.support import LAST_CALL_S, make_settings, node
from tests.direct import Member, PolledBackend, change, stored

A, B, C, D = (node(name) for name in "abcd")

Script = Callable[[RendezvousContext, float], Decision]


def decide(*actions: Action) -> Script:
    """Return an operation that decides on these actions in turn, and then is finished."""
    plan = iter(actions)
    return lambda ctx, deadline: Decision(next(plan, Action.FINISH), "as planned", "planned")


class Cluster:
    """Several nodes on one clock and one backend."""

    def __init__(self, min_nodes: int = 2, max_nodes: int = 3) -> None:
        self.clock = ManualClock()
        self.backend = PolledBackend()
        self.settings = make_settings(min_nodes, max_nodes)
        self.members = {
            who: Member(who, self.settings, self.backend, self.clock) for who in (A, B, C, D)
        }

    @property
    def state(self) -> RendezvousState:
        found = stored(self.backend)
        check(found, self.settings)
        return found

    def run(self, who, operation, seconds: float = 600.0, **options) -> None:  # type: ignore[no-untyped-def]
        member = self.members[who]
        # What another node has written a moment ago must not be hidden by the cache.
        self.clock.advance(1)
        member.executor.run(operation, member.deadline(seconds), **options)

    def take(self, who, operation, steps: int = 3) -> None:  # type: ignore[no-untyped-def]
        """Let an operation act until it waits."""

        def until_it_waits(ctx: RendezvousContext, deadline: float) -> Decision:
            decision = operation(ctx, deadline)
            return Decision(Action.FINISH) if decision.action is Action.SYNC else decision

        self.run(who, until_it_waits)

    def complete(self, *nodes) -> None:  # type: ignore[no-untyped-def]
        """Bring a round of these nodes to its end."""
        for who in nodes:
            self.take(who, RendezvousJoinOp())
        self.run(nodes[0], decide(Action.MARK_RENDEZVOUS_COMPLETE))


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def seen() -> Iterator[list[RendezvousEvent]]:
    collected: list[RendezvousEvent] = []
    sink = collected.append
    events.add_sink(sink)
    yield collected
    events.remove_sink(sink)


def test_run_passes_expected_context_and_deadline_to_state_handler(cluster: Cluster) -> None:
    member = cluster.members[A]
    calls: list[tuple[RendezvousContext, float]] = []

    def operation(ctx: RendezvousContext, deadline: float) -> Decision:
        calls.append((ctx, deadline))
        return Decision(Action.FINISH)

    member.executor.profile = NodeProfile(slots=7)
    member.executor.run(operation, 3.0)
    [(ctx, deadline)] = calls
    assert deadline == 3.0
    assert (ctx.node, ctx.state, ctx.settings) == (A, member.holder.state, cluster.settings)
    assert ctx.observer is member.holder.observer
    assert ctx.profile.slots == 7


def test_run_keeps_alive(cluster: Cluster) -> None:
    cluster.take(A, RendezvousJoinOp())
    before = cluster.state.last_heartbeats[A]
    cluster.clock.advance(2.5)
    cluster.run(A, RendezvousKeepAliveOp())
    assert cluster.state.last_heartbeats[A] > before


def test_run_adds_to_participants(cluster: Cluster) -> None:
    cluster.run(A, decide(Action.ADD_TO_PARTICIPANTS))
    assert list(cluster.state.participants) == [A]
    assert list(cluster.state.last_heartbeats) == [A]
    assert cluster.state.deadline is None


def test_run_adds_to_participants_if_node_was_in_waitlist(cluster: Cluster) -> None:
    cluster.run(A, decide(Action.ADD_TO_WAIT_LIST))
    cluster.run(A, decide(Action.ADD_TO_PARTICIPANTS))
    assert list(cluster.state.participants) == [A]
    assert cluster.state.wait_list == {}


def test_run_adds_to_participants_and_starts_last_call_if_min_nodes_is_reached(
    cluster: Cluster,
) -> None:
    cluster.run(A, decide(Action.ADD_TO_PARTICIPANTS))
    cluster.run(B, decide(Action.ADD_TO_PARTICIPANTS))
    assert cluster.state.deadline == cluster.clock.now() + cluster.settings.timeout.last_call
    assert not cluster.state.complete


def test_run_adds_to_participants_and_completes_rendezvous_if_max_nodes_is_reached(
    cluster: Cluster,
) -> None:
    for who in (C, A, B):
        cluster.run(who, decide(Action.ADD_TO_PARTICIPANTS))
    state = cluster.state
    assert state.complete
    assert state.deadline is None
    assert state.participants == {A: 0, B: 1, C: 2}
    assert state.world is not None
    assert state.world.members == (A, B, C)


def test_run_adds_to_waitlist(cluster: Cluster) -> None:
    cluster.run(A, decide(Action.ADD_TO_WAIT_LIST))
    assert list(cluster.state.wait_list) == [A]
    assert list(cluster.state.last_heartbeats) == [A]


def test_run_removes_from_participants(cluster: Cluster) -> None:
    """R1, R8: the others are told, and the record of the world stands."""
    cluster.complete(A, B)
    world = cluster.state.world
    cluster.run(A, RendezvousExitOp())
    state = cluster.state
    assert list(state.participants) == [B]
    assert state.departed == {A: "left"}
    assert A not in state.last_heartbeats
    assert (state.complete, state.round, state.world) == (True, 0, world)


def test_run_removes_from_participants_and_moves_to_next_round_if_node_is_last_participant(
    cluster: Cluster,
) -> None:
    cluster.complete(A, B)
    cluster.run(A, RendezvousExitOp())
    cluster.run(B, RendezvousExitOp())
    assert (cluster.state.complete, cluster.state.round) == (False, 1)
    assert cluster.state.last_heartbeats == {}


def test_run_removes_from_participants_and_clears_last_call_if_rendezvous_has_less_than_min_nodes(
    cluster: Cluster,
) -> None:
    cluster.take(A, RendezvousJoinOp())
    cluster.take(B, RendezvousJoinOp())
    assert cluster.state.deadline is not None
    cluster.run(A, RendezvousExitOp())
    assert cluster.state.deadline is None


def test_run_removes_from_waitlist(cluster: Cluster) -> None:
    cluster.run(A, decide(Action.ADD_TO_WAIT_LIST))
    cluster.run(A, decide(Action.REMOVE_FROM_WAIT_LIST))
    assert cluster.state.wait_list == {}
    assert cluster.state.last_heartbeats == {}


def test_run_marks_rendezvous_closed(cluster: Cluster) -> None:
    cluster.run(A, RendezvousCloseOp("the operator said so"))
    assert cluster.state.closed
    assert cluster.state.closed_reason == "the operator said so"


def test_run_raises_error_if_rendezvous_is_closed(cluster: Cluster) -> None:
    """R7: the reason reaches those who are turned away."""
    cluster.run(A, RendezvousCloseOp("done"))
    with pytest.raises(RendezvousClosedError, match="'run' is closed: done") as caught:
        cluster.run(B, RendezvousJoinOp())
    assert caught.value.reason == "done"


def test_run_raises_error_if_operation_timed_out(cluster: Cluster) -> None:
    """R16, R7: the error says who is missing, and the one who gave up is gone without harm."""
    before = cluster.clock.monotonic()
    with pytest.raises(
        RendezvousTimeoutError, match=r"a_1_0: waiting for 1 more node \(1 of 2\)"
    ) as caught:
        cluster.run(A, RendezvousJoinOp(), 20.0)
    told = str(caught.value)
    assert "; present: a_1_0; missing: 1 node. Start the missing nodes, or raise join_ti" in told
    assert 20.0 <= cluster.clock.monotonic() - before <= 23.0
    assert cluster.state.last_heartbeats == {}
    assert not cluster.state.closed


@pytest.mark.parametrize(
    ("operation", "key"),
    [
        (RendezvousExitOp(), "close_timeout"),
        (RendezvousCloseOp(), "close_timeout"),
        (RendezvousVerdictOp(None, "failed"), "close_timeout"),
        (RendezvousKeepAliveOp(), "heartbeat_timeout"),
    ],
)
def test_what_else_was_not_done_in_time_names_its_own_key(
    cluster: Cluster, operation: Operation, key: str
) -> None:
    cluster.run(A, decide(Action.ADD_TO_PARTICIPANTS, Action.FINISH))
    cluster.clock.advance(10.0)
    with pytest.raises(RendezvousTimeoutError, match=rf"in time.*backend, or raise {key}\."):
        cluster.run(A, operation, -1.0)


def test_run_delays_execution_if_sync_requested(cluster: Cluster) -> None:
    before = cluster.clock.monotonic()
    cluster.run(A, decide(Action.SYNC, Action.SYNC, Action.SYNC))
    assert cluster.clock.monotonic() - before == pytest.approx(1.0 + 0.5 + 0.5 + 1.0)


def test_steps_say_what_to_wait_for(cluster: Cluster) -> None:
    """Nothing else passes the time: a simulation plays the very loop that `run` waits in."""
    member, before = cluster.members[A], cluster.clock.monotonic()
    operation = decide(Action.ADD_TO_WAIT_LIST, Action.SYNC, Action.SYNC, Action.SYNC)
    pauses = list(member.executor.steps(operation, math.inf))
    watched = [Pause(seconds, until_change=True) for seconds in (0.5, 0.5, 1.0)]
    assert pauses == [Pause(0.0), *watched]
    assert cluster.clock.monotonic() == before


def test_between_its_steps_others_may_come_in(cluster: Cluster) -> None:
    member = cluster.members[A]
    steps = member.executor.steps(decide(Action.ADD_TO_WAIT_LIST), math.inf)
    next(steps)
    member.executor.run(decide(Action.MARK_RENDEZVOUS_CLOSED), math.inf)
    assert list(steps) == []
    assert cluster.state.closed


def test_a_wait_that_is_broken_off_is_over(cluster: Cluster) -> None:
    member = cluster.members[A]
    member.executor.reporter = notes = Notes()

    def interrupt(timeout_s: float) -> None:
        raise KeyboardInterrupt

    member.holder.wait = interrupt  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        cluster.run(A, RendezvousJoinOp())
    assert notes.ended == 1


def test_a_delay_ends_soon_after_the_deadline(cluster: Cluster) -> None:
    before = cluster.clock.monotonic()
    cluster.run(A, decide(Action.SYNC), 0.25)
    assert cluster.clock.monotonic() - before == pytest.approx(1.0 + 0.26)


def test_a_wait_is_never_longer_than_until_the_next_heartbeat() -> None:
    """R11: with a keep-alive interval below the usual poll."""
    settings = make_settings(keep_alive_interval=timedelta(seconds=0.5))
    member = Member(A, settings, PolledBackend(), ManualClock())
    before = member.clock.monotonic()
    member.executor.run(decide(Action.SYNC), math.inf)
    assert member.clock.monotonic() - before == pytest.approx(0.25)


def test_a_waiting_node_stays_alive(cluster: Cluster) -> None:
    """R11: an operation that waits beats at half the keep-alive interval."""
    beats = set()

    def operation(ctx: RendezvousContext, deadline: float) -> Decision:
        beats.add(ctx.state.last_heartbeats.get(A))
        return join(ctx, deadline)

    join = RendezvousJoinOp()
    with pytest.raises(RendezvousTimeoutError):
        cluster.run(A, operation, 60.0)
    assert len(beats) >= 60 / 5


def test_a_spare_gets_a_new_deadline_when_a_place_falls_free(cluster: Cluster) -> None:
    """R6"""
    for who in (A, B, C):
        cluster.take(who, RendezvousJoinOp())
    cluster.take(D, RendezvousJoinOp())
    assert list(cluster.state.redundancy_list) == [D]
    cluster.run(B, RendezvousExitOp())
    asked: list[timedelta] = []

    def update_deadline(timeout: timedelta) -> float:
        asked.append(timeout)
        return math.inf

    def operation(ctx: RendezvousContext, deadline: float) -> Decision:
        if deadline == math.inf:
            return Decision(Action.FINISH)
        return RendezvousJoinOp()(ctx, deadline)

    cluster.run(D, operation, -5.0, update_deadline=update_deadline)
    assert asked == [cluster.settings.timeout.join]
    assert list(cluster.state.wait_list) == [D]


def test_a_spare_of_a_run_that_ends_leaves_in_peace(cluster: Cluster) -> None:
    for who in (A, B, C, D):
        cluster.take(who, RendezvousJoinOp())
    cluster.run(A, RendezvousCloseOp())
    with pytest.raises(RendezvousGracefulExitError):
        cluster.run(D, RendezvousJoinOp())


def test_a_replaced_incarnation_ends(cluster: Cluster) -> None:
    """R12"""
    for who in (A, B):
        cluster.members[who].executor.profile = NodeProfile(node_id="n1")
        cluster.take(who, RendezvousJoinOp())
    assert list(cluster.state.participants) == [B]
    with pytest.raises(RendezvousReplacedError):
        cluster.run(A, RendezvousJoinOp())


def test_other_settings_are_refused(cluster: Cluster) -> None:
    """R13"""
    cluster.take(A, RendezvousJoinOp())
    other = Member(B, make_settings(2, 4), cluster.backend, cluster.clock)
    with pytest.raises(RendezvousSettingsError, match="max_nodes is 3 in the run, 4 here"):
        other.executor.run(RendezvousJoinOp(), other.deadline())
    assert list(cluster.state.last_heartbeats) == [A]


def test_after_a_lost_compare_and_set_it_decides_again_on_what_is_there(cluster: Cluster) -> None:
    """R14: transitions are never replayed."""
    member = cluster.members[A]
    interfered = False

    def operation(ctx: RendezvousContext, deadline: float) -> Decision:
        nonlocal interfered
        decision = RendezvousCloseOp("second")(ctx, deadline)
        if not interfered:
            interfered = True
            cluster.run(B, RendezvousCloseOp("first"))
        return decision

    before = cluster.clock.monotonic()
    member.executor.run(operation, member.deadline())
    assert cluster.state.closed_reason == "first"
    assert cluster.clock.monotonic() - before == 1.0, "it need not read what the write has read"
    assert member.backend.calls.count("set_state") == 1


def test_it_stays_back_longer_after_each_further_loss() -> None:
    """By a random time, whose upper end doubles."""
    ends: list[tuple[float, float]] = []
    cluster = Cluster()
    losses = 8

    def jitter(least: float, most: float) -> float:
        ends.append((least, most))
        return most

    member = cluster.members[A]
    member.executor = DistributedRendezvousOpExecutor(
        A, member.holder, cluster.settings, cluster.clock, jitter=jitter
    )

    def operation(ctx: RendezvousContext, deadline: float) -> Decision:
        nonlocal losses
        if not losses:
            return Decision(Action.FINISH)
        losses -= 1
        change(cluster.backend, lambda state: None)
        return Decision(Action.ADD_TO_WAIT_LIST)

    cluster.run(B, decide(Action.ADD_TO_WAIT_LIST))
    cluster.clock.advance(1)
    before = cluster.clock.monotonic()
    member.executor.run(operation, member.deadline())
    passed_s = cluster.clock.monotonic() - before
    uppers = [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert ends == [(0, upper) for upper in uppers]
    assert passed_s == pytest.approx(sum(uppers))


@pytest.mark.parametrize("lost", ["request", "reply"])
def test_a_join_whose_write_was_lost_can_be_run_again(lost: str, cluster: Cluster) -> None:
    """R14"""
    member = cluster.members[A]
    member.backend.plan("set_state", Fault(lost))  # type: ignore[arg-type]
    with pytest.raises(RendezvousConnectionError):
        cluster.run(A, RendezvousJoinOp())
    cluster.take(A, RendezvousJoinOp())
    assert list(cluster.state.participants) == [A]
    assert cluster.state.round == 0


def test_nothing_is_finished_before_it_is_stored(cluster: Cluster) -> None:
    """R14: the decision to finish is made on a state that the backend holds."""
    for who in (A, B):
        cluster.take(who, RendezvousJoinOp())
    ends: list[bool] = []

    def operation(ctx: RendezvousContext, deadline: float) -> Decision:
        decision = RendezvousJoinOp()(ctx, deadline)
        if decision.action is Action.FINISH:
            ends.append(stored(cluster.backend).complete)
        return decision

    cluster.run(C, operation)
    assert ends == [True]


def test_every_action_is_recorded(cluster: Cluster, seen: list[RendezvousEvent]) -> None:
    cluster.take(A, RendezvousJoinOp())
    assert [(event.message, event.node, event.round) for event in seen] == [
        ("ADD_TO_PARTICIPANTS: joins round 0", "a_1_0", 0)
    ]


class Notes:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.waits: list[Wait] = []
        self.ended = 0

    def report(self, wait: Wait) -> None:
        self.waits.append(wait)

    def done(self) -> None:
        self.ended += 1


def test_r16_a_wait_explains_itself_at_every_look(cluster: Cluster) -> None:
    notes = Notes()
    cluster.members[A].executor.reporter = notes
    with pytest.raises(RendezvousTimeoutError):
        cluster.run(A, RendezvousJoinOp(), 25.0)
    first, *_, last = notes.waits
    assert {wait.reason for wait in notes.waits} == {"waiting for 1 more node (1 of 2)"}
    assert (first.since_s, first.missing_count, first.ends_in_s) == (0.0, 1, None)
    assert 24.0 <= last.since_s <= 25.0
    assert last.gives_up_in_s is not None
    assert 0.0 <= last.gives_up_in_s <= 1.0
    assert notes.ended == 1


def test_r16_the_last_call_says_how_long_it_lasts(cluster: Cluster) -> None:
    notes = Notes()
    cluster.members[A].executor.reporter = notes
    cluster.take(B, RendezvousJoinOp())
    with pytest.raises(RendezvousTimeoutError):
        cluster.run(A, RendezvousJoinOp(), 5.0)
    first, *_, last = notes.waits
    assert first.kind == "last_call"
    assert first.ends_in_s == LAST_CALL_S
    assert last.ends_in_s == LAST_CALL_S - last.since_s


def test_r16_a_wait_is_logged_as_news(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "quorate.rendezvous")
    with pytest.raises(RendezvousTimeoutError):
        cluster.run(A, RendezvousJoinOp(), 25.0)
    (line,) = [record.message for record in caplog.records]
    assert line == "waiting for 1 more node (1 of 2), since 0 s; gives up in 25 s"


def test_a_wait_does_not_hold_up_other_threads() -> None:
    """One thread closes the run while another one waits in it; the wait is told of to its end."""
    backend, settings = MemoryRendezvousBackend(), make_settings()
    holder = BackendRendezvousStateHolder(backend, settings)
    executor = DistributedRendezvousOpExecutor(A, holder, settings)
    executor.reporter = notes = Notes()
    waiting = threading.Event()
    ends: list[Exception] = []

    def operation(ctx: RendezvousContext, deadline: float) -> Decision:
        decision = RendezvousJoinOp()(ctx, deadline)
        if decision.action is Action.SYNC:
            waiting.set()
        return decision

    def join() -> None:
        try:
            executor.run(operation, math.inf)
        except RendezvousClosedError as error:
            ends.append(error)

    thread = threading.Thread(target=join)
    thread.start()
    assert waiting.wait(5)
    executor.run(RendezvousCloseOp("enough"), math.inf)
    thread.join(5)
    assert [str(end) for end in ends] == [
        "The run 'run' is closed: enough. Start a new run under another id."
    ]
    assert (len(notes.waits), notes.ended) == (1, 1)


def test_r16_what_other_threads_do_says_nothing_of_a_wait() -> None:
    """A heartbeat in the middle of a join changes neither its reason nor how long it has lasted."""
    backend, clock, settings = MemoryRendezvousBackend(), ManualClock(), make_settings()
    holder = BackendRendezvousStateHolder(backend, settings, clock=clock)
    executor = DistributedRendezvousOpExecutor(A, holder, settings, clock)
    executor.reporter = notes = Notes()
    waiting, go_on = threading.Event(), threading.Event()
    deadline = clock.monotonic() + 7.0
    ends: list[str] = []

    def wait(timeout_s: float) -> None:
        waiting.set()
        assert go_on.wait(5)
        clock.advance(4)

    def join() -> None:
        try:
            executor.run(RendezvousJoinOp(), deadline)
        except RendezvousTimeoutError as error:
            ends.append(str(error))

    holder.wait = wait  # type: ignore[method-assign]
    thread = threading.Thread(target=join)
    thread.start()
    assert waiting.wait(5)
    executor.run(RendezvousKeepAliveOp(), math.inf)
    go_on.set()
    thread.join(5)
    assert "waiting for 1 more node (1 of 2); " in ends[0]
    assert [wait.since_s for wait in notes.waits] == [0.0, 4.0]
    assert notes.ended == 1
