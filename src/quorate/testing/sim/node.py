"""One life of a node of the direct way: the real loops, holder and operations, step by step."""

from __future__ import annotations

from collections.abc import Callable, Generator
from datetime import timedelta
from functools import partial
from typing import Protocol, TypeVar

from quorate.core.action import Decision, RendezvousContext
from quorate.core.completion import nodes_waiting
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.ops import (
    RendezvousCloseOp,
    RendezvousExitOp,
    RendezvousKeepAliveOp,
    RendezvousVerdictOp,
)
from quorate.core.settings import RendezvousSettings
from quorate.core.state import Place, World, WorldName
from quorate.errors import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousError,
    RendezvousStateError,
    RendezvousTimeoutError,
)
from quorate.executor import DistributedRendezvousOpExecutor, Operation, Pause
from quorate.holder import BackendRendezvousStateHolder
from quorate.joining import Joining
from quorate.testing.sim.bounds import NodeBounds
from quorate.testing.sim.process import Machine, Process
from quorate.testing.sim.schedule import Schedule
from quorate.testing.sim.shared import NodeBackend, SharedState

__all__ = ["NodeListener", "SimNode"]

# How often a caller looks at its world, and how long it waits until it joins again.
LOOK_S = 1.0
AGAIN_S = 1.0

# Between a step of an operation and the next: other nodes may write meanwhile.
STEP_S = (0.001, 0.03)
SLOW_STEP_S = (0.1, 0.8)
STOPPING_S = (0.0, 1.0)

T = TypeVar("T")


class NodeListener(Protocol):
    """Hears of what becomes of nodes."""

    def placed(self, node: SimNode, place: Place) -> None:
        """Hear of a place that a node was given."""

    def retries(self, node: SimNode, error: RendezvousConnectionError) -> None:
        """Hear that a node that joins goes on without an answer of its backend."""

    def failed(self, node: SimNode, error: RendezvousError) -> None:
        """Hear of the error by which a node's join has ended."""


class _WatchedHolder(BackendRendezvousStateHolder):
    """A holder whose copy is looked at after each exchange."""

    bounds: NodeBounds

    def sync(self) -> bool | None:
        """See `RendezvousStateHolder`."""
        has_set = super().sync()
        self.bounds.read(self.state)
        return has_set


class _WatchedJoining(Joining):
    """A join whose decisions are looked at."""

    bounds: NodeBounds

    def __call__(self, ctx: RendezvousContext, deadline: float) -> Decision:
        """See `Joining`."""
        decision = super().__call__(ctx, deadline)
        self.bounds.decided(ctx, decision)
        return decision


class SimNode(Process):
    """A node and its caller.

    Args:
        schedule: The true time.
        machine: Where it runs.
        shared: The state that all nodes share.
        node: Who it is.
        profile: What it says about itself.
        settings: What it was given.
        listener: Told what becomes of it.

    Attributes:
        bounds: Checks what it decides, and when.
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
        listener: NodeListener,
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
        self.bounds = NodeBounds(node, settings, machine)
        self._listener = listener
        self._shared = shared
        # A node that was fresh when it looked a moment ago reads again all the same: more races.
        self._holder = _WatchedHolder(
            self.backend,
            settings,
            cache_duration=0,
            clock=machine,
            mint=self._mint,
            decode=shared.decode,
        )
        self._holder.bounds = self.bounds
        self._executor = DistributedRendezvousOpExecutor(
            node, self._holder, settings, machine, profile, jitter=schedule.between
        )

    @property
    def closed_reason(self) -> str | None:
        """Why the run is closed in the state that it has read last; `None` if it is not."""
        state = self._holder.state
        return state.closed_reason if state.closed else None

    @property
    def holding(self) -> WorldName | None:
        """The name of the world that it was given last."""
        return None if self.place is None else self.place.world

    def start(self, timeout_s: float | None = None) -> None:
        """Join, and look after the world from then on."""
        self.join(timeout_s)
        self.later(self.settings.beat_look_s, self._beat)
        self.later(LOOK_S, self._look)

    def join(self, timeout_s: float | None = None) -> None:
        """Ask for a place in the next round."""
        self.returning = False
        if self.joining or self.over:
            return
        self.joining = True
        timeout = timedelta(seconds=timeout_s) if timeout_s else self.settings.timeout.join
        joining = _WatchedJoining(
            self._executor, self.settings, self.machine, self.holding, timeout, self._retries
        )
        joining.bounds = self.bounds
        self.bounds.joins(timeout)
        self._go_on(joining.steps(), self._joined, self._not_joined)

    def leave(self) -> None:
        """Leave the run, and end."""
        self.over = True
        self._run(RendezvousExitOp(), self._left)

    def close(self, reason: str) -> None:
        """Close the run."""
        self._run(RendezvousCloseOp(reason))

    def end(self, reason: str) -> None:
        """Say how the job has ended: the run is closed, or this node has left it, and ends."""
        self._run(RendezvousVerdictOp(self.holding, reason), self._ended)

    def _left(self) -> None:
        """End: with an error too, for the others miss its heartbeats."""
        self.die()

    def _ended(self) -> None:
        if self.closed_reason is None:
            self.die()

    def _mint(self) -> str:
        return f"{self.schedule.random.getrandbits(32):08x}"

    def _run(self, operation: Operation, done: Callable[[], object] = lambda: None) -> None:
        """Carry out an operation whose caller does the same when it has failed."""
        deadline_s = self.machine.monotonic() + self.settings.timeout.close.total_seconds()
        steps = self._executor.steps(operation, deadline_s)
        self._go_on(steps, lambda _: done(), lambda _: done())

    def _go_on(
        self,
        steps: Generator[Pause, None, T],
        done: Callable[[T], object],
        failed: Callable[[RendezvousError], object],
    ) -> None:
        """Take the next step, and plan the one after it."""
        try:
            pause = next(steps)
        except StopIteration as end:
            done(end.value)
        except RendezvousStateError:
            # No run can have such a state.
            raise
        except RendezvousError as error:
            failed(error)
        else:
            self._wait(pause, partial(self._go_on, steps, done, failed))

    def _wait(self, pause: Pause, go_on: Callable[[], object]) -> None:
        waits = [go_on]

        def end() -> None:
            while waits:
                waits.pop()()

        self.later(pause.wait_s + self._step_s(), end)
        if pause.until_change:
            self.backend.watch(lambda: self.later(self._step_s(), end))

    def _step_s(self) -> float:
        return self.schedule.between(*(SLOW_STEP_S if self._shared.slow else STEP_S))

    def _joined(self, world: World) -> None:
        self.joining = False
        self.place = world.places()[self.node]
        self._listener.placed(self, self.place)

    def _retries(self, error: RendezvousConnectionError) -> None:
        self.bounds.retries()
        self._listener.retries(self, error)

    def _not_joined(self, error: RendezvousError) -> None:
        """Do what a caller does: it ends, unless it is willing to ask again."""
        self.joining = False
        if isinstance(error, RendezvousClosedError):
            self.closed = self.over = True
        elif isinstance(error, RendezvousTimeoutError):
            self.later(AGAIN_S, self.join)
        else:
            self.die()
        self._listener.failed(self, error)

    def _beat(self) -> None:
        if self.place is None or self.joining or self.over:
            self._beat_later()
            return
        deadline_s = self.machine.monotonic() + self.settings.timeout.heartbeat.total_seconds()
        steps = self._executor.steps(RendezvousKeepAliveOp(), deadline_s)
        self._go_on(steps, self._beat_later, self._beat_later)

    def _beat_later(self, _: object = None) -> None:
        """Plan the next beat, whatever has become of this one."""
        self.later(self.settings.beat_look_s, self._beat)

    def _look(self) -> None:
        """Look whether somebody waits, as the caller of a handler does."""
        self.later(LOOK_S, self._look)
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
