"""One life of a node of the direct way: the real executor, holder and operations, step by step."""

from __future__ import annotations

import math
from collections.abc import Callable

from quorate.core.action import Action, Decision, RendezvousContext
from quorate.core.completion import nodes_waiting
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.ops import (
    RendezvousCloseOp,
    RendezvousExitOp,
    RendezvousJoinOp,
    RendezvousKeepAliveOp,
    RendezvousVerdictOp,
)
from quorate.core.settings import RendezvousSettings
from quorate.core.state import Place, World, WorldName
from quorate.errors import RendezvousConnectionError, RendezvousError
from quorate.executor import DistributedRendezvousOpExecutor, OngoingWait, Operation
from quorate.holder import BackendRendezvousStateHolder
from quorate.testing.sim.process import Asleep, Machine, Process
from quorate.testing.sim.schedule import Schedule
from quorate.testing.sim.shared import NodeBackend, SharedState

__all__ = ["SimNode"]

POLL_S = 1.0
RETRY_S = 1.0

# Between a step of an operation and the next: other nodes may write meanwhile.
STEP_S = (0.001, 0.03)
SLOW_STEP_S = (0.1, 0.8)
BACKOFF_S = (0.0, 0.4)
STOPPING_S = (0.0, 1.0)


class _StepExecutor(DistributedRendezvousOpExecutor):
    """Carries out operations one step at a time."""

    def advance(self, operation: Operation, deadline: float) -> Decision:
        """Sync, decide and change once.

        Raises:
            Asleep: It lost a compare-and-set, and stays back.
        """
        return self._step(operation, deadline, OngoingWait(self.reporter))


class SimNode(Process):
    """A node and its caller.

    Args:
        schedule: The true time.
        machine: Where it runs.
        shared: The state that all nodes share.
        node: Who it is.
        profile: What it says about itself.
        settings: What it was given.
        placed: Told each place that it was given, with the world.

    Attributes:
        place: The place that it was given last.
        joining: Whether a join is under way.
        returning: Whether it is stopping its workers.
        stuck: Whether its caller does not look, while heartbeats go on.
        over: Whether it does not want to join again.
        waiting: What the number of waiting nodes was when its caller looked last.
        closed: Whether it has seen that the run is closed.
    """

    def __init__(
        self,
        schedule: Schedule,
        machine: Machine,
        shared: SharedState,
        node: NodeDesc,
        profile: NodeProfile,
        settings: RendezvousSettings,
        placed: Callable[[SimNode, Place], None],
    ) -> None:
        super().__init__(schedule, machine)
        self.node = node
        self.settings = settings
        self.backend = NodeBackend(schedule, shared, self)
        self.place: Place | None = None
        self.joining = False
        self.returning = False
        self.stuck = False
        self.over = False
        self.waiting = 0
        self.closed = False
        self.slow_s = 0.0
        self.error: RendezvousError | None = None
        self._placed = placed
        self._shared = shared
        self._world: World | None = None
        # A node that was fresh when it looked a moment ago reads again all the same: more races.
        self._holder = BackendRendezvousStateHolder(
            self.backend,
            settings,
            cache_duration=0,
            clock=machine,
            mint=self._mint,
            decode=shared.decode,
        )
        self._executor = _StepExecutor(node, self._holder, settings, machine, profile)

    @property
    def holding(self) -> WorldName | None:
        """The name of the world that it was given last."""
        return None if self.place is None else self.place.world

    def start(self, timeout_s: float | None = None) -> None:
        """Join, and look after the world from then on."""
        self.join(timeout_s)
        self.later(self.settings.beat_look_s, self._beat)
        self.later(POLL_S, self._look)

    def join(self, timeout_s: float | None = None) -> None:
        """Ask for a place in the next round."""
        self.returning = False
        if self.joining or self.over:
            return
        self.joining = True
        if timeout_s is None:
            timeout_s = self.settings.timeout.join.total_seconds()
        join = RendezvousJoinOp(self.holding)

        def operation(ctx: RendezvousContext, deadline: float) -> Decision:
            decision = join(ctx, deadline)
            if decision.action is Action.FINISH:
                self._world = ctx.state.world
            return decision

        self._run(operation, self.machine.monotonic() + timeout_s, self._joined)

    def leave(self) -> None:
        """Leave the run, and end."""
        self.over = True
        self._run(RendezvousExitOp(), math.inf, lambda _: self.die())

    def close(self, reason: str) -> None:
        """Close the run."""
        self._run(RendezvousCloseOp(reason), math.inf, lambda _: None)

    def end(self, reason: str) -> None:
        """Say how the job has ended: the run is closed, or this node has left it, and ends."""
        self._run(RendezvousVerdictOp(self.holding, reason), math.inf, self._ended)

    def _ended(self, decision: Decision) -> None:
        if decision.kind != "closed":
            self.die()

    def _mint(self) -> str:
        return f"{self.schedule.random.getrandbits(32):08x}"

    def _run(
        self, operation: Operation, deadline_s: float, done: Callable[[Decision], None]
    ) -> None:
        """Take the next step of an operation, and plan the one after it."""
        wait_s = self.schedule.between(*(SLOW_STEP_S if self._shared.slow else STEP_S))
        try:
            decision = self._executor.advance(operation, deadline_s)
        except Asleep:
            self.later(self.schedule.between(*BACKOFF_S), self._run, operation, deadline_s, done)
            return
        except RendezvousConnectionError:
            self.later(RETRY_S, self._run, operation, deadline_s, done)
            return
        except RendezvousError as error:
            self._fail(error)
            return
        if decision.action in {Action.FINISH, Action.ERROR_CLOSED, Action.ERROR_TIMEOUT}:
            done(decision)
            return
        if decision.action is Action.SYNC:
            wait_s = min(POLL_S, self.settings.beat_s)
        elif decision.action is Action.REMOVE_FROM_REDUNDANCY_LIST:
            deadline_s = self.machine.monotonic() + self.settings.timeout.join.total_seconds()
        self.later(wait_s, self._run, operation, deadline_s, done)

    def _joined(self, decision: Decision) -> None:
        self.joining = False
        if decision.action is Action.ERROR_CLOSED:
            self.closed = self.over = True
        elif decision.action is Action.ERROR_TIMEOUT:
            self.later(RETRY_S, self.join)
        else:
            assert self._world is not None
            self.place = self._world.places()[self.node]
            self._placed(self, self.place)

    def _fail(self, error: RendezvousError) -> None:
        self.error = error
        self.die()

    def _beat(self) -> None:
        self.later(self.settings.beat_look_s, self._beat)
        if self.place is not None and not self.joining and not self.over:
            deadline_s = self.machine.monotonic() + self.settings.timeout.heartbeat.total_seconds()
            self._run(RendezvousKeepAliveOp(), deadline_s, lambda _: None)

    def _look(self) -> None:
        """Look whether somebody waits, as the caller of a handler does."""
        self.later(POLL_S, self._look)
        if self.joining or self.returning or self.over or self.stuck or self.place is None:
            return
        try:
            self._holder.sync()
        except RendezvousConnectionError:
            return
        state = self._holder.state
        ctx = RendezvousContext(self.node, state, self.settings, self._holder.observer)
        self.waiting = nodes_waiting(ctx, self.holding, newcomers_at_once=True)
        self.closed = state.closed
        if self.waiting:
            self.returning = True
            stopping_s = self.slow_s or self.schedule.between(*STOPPING_S)
            self.slow_s = 0.0
            self.later(stopping_s, self.join)
