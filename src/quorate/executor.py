"""Carries out an operation on the shared state: sync, decide, change, and sync again."""

from __future__ import annotations

import random
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from contextlib import closing
from datetime import timedelta
from itertools import chain, repeat
from typing import NamedTuple, TypeVar

from quorate import events
from quorate.clock import Clock, SystemClock
from quorate.core import transitions
from quorate.core.action import Action, Decision, RendezvousContext
from quorate.core.attendance import attendance, ends_in_s
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.ops import JOIN, SPARE
from quorate.core.settings import RendezvousSettings
from quorate.errors import RendezvousClosedError, RendezvousError, RendezvousTimeoutError
from quorate.holder import RendezvousStateHolder
from quorate.wait import Wait, WaitLog, WaitReporter

__all__ = [
    "DistributedRendezvousOpExecutor",
    "OngoingWait",
    "Operation",
    "Pause",
    "RendezvousOpExecutor",
]

Operation = Callable[[RendezvousContext, float], Decision]

T = TypeVar("T")

# How long a node waits before it looks at the state again, where the backend cannot say that it
# changed: the first times, in which nodes that are started together come, and then every time.
POLLS_FIRST_S = (0.5, 0.5)
POLL_S = 1.0

# A wait that a deadline cuts short ends this much after it, so that the deadline has passed.
PAST_DEADLINE_S = 0.01

# After the second compare-and-set that is lost in a row a node stays back for a random time; its
# upper end doubles with each further loss, from the first of these to the second.
BACKOFF_FIRST_S = 0.05
BACKOFF_MAX_S = 1.0


class RendezvousOpExecutor(ABC):
    """Carries out operations on the state of a run."""

    @abstractmethod
    def run(
        self,
        state_handler: Operation,
        deadline: float,
        update_deadline: Callable[[timedelta], float] | None = None,
    ) -> None:
        """Call an operation, and do what it decides, until it is finished.

        Args:
            state_handler: The operation.
            deadline: When it gives up, in seconds on the monotonic clock.
            update_deadline: Gives a new deadline for a timeout. It is asked when the node stops
                being a spare, for whom deadlines do not count (R6).

        Raises:
            RendezvousClosedError: The run is closed; `reason` says why.
            RendezvousTimeoutError: The deadline has passed; the message says what was missing.
            RendezvousConnectionError: The backend cannot be reached; run it again if it can.
            RendezvousStateError: The stored state is corrupt.
        """


class Pause(NamedTuple):
    """What an operation waits for between two of its steps. It holds nothing meanwhile.

    Args:
        wait_s: For how many seconds, at most; 0 where others may come in, but nothing is waited
            for.
        until_change: Whether a change of the state ends it; otherwise time alone does.
    """

    wait_s: float
    until_change: bool = False


class OngoingWait:
    """What one operation waits for, and since when (R16); other threads have their own.

    Args:
        reporter: Where it is said.

    Attributes:
        text: What it waited for last, and who was missing.
    """

    def __init__(self, reporter: WaitReporter) -> None:
        self.text = ""
        self._reporter = reporter
        self._kind = ""
        self._since_s = 0.0

    def explain(
        self, context: RendezvousContext, decision: Decision, now_s: float, deadline: float
    ) -> None:
        """Say what is waited for now."""
        if decision.kind != self._kind:
            self._kind, self._since_s = decision.kind, now_s
        there = attendance(context)
        self.text = f"{decision.reason}; {there}"
        self._reporter.report(
            Wait(
                decision.kind,
                decision.reason,
                now_s - self._since_s,
                there.missing,
                there.missing_count,
                ends_in_s(context, decision.kind),
                None if decision.kind == SPARE else deadline - now_s,
            )
        )

    def end(self) -> None:
        """Say that the wait is over, if there was one."""
        if self._kind:
            self._reporter.done()


class DistributedRendezvousOpExecutor(RendezvousOpExecutor):
    """Carries out operations on a state that is shared with other nodes.

    Several threads may run operations: each step (sync, decide, change) is done under the lock,
    the waits between the steps are not, so that nobody waits for another's operation.

    Args:
        node: The node for which the operations are carried out.
        state_holder: Its copy of the state; its observer judges all ages (R9).
        settings: The settings of the run.
        clock: Gives the time; the same that the holder has.
        profile: What the node says about itself when it joins. It may be replaced between runs.
        lock: Guards the holder; whoever else uses the holder takes it too.
        reporter: Where it is said what the node waits for; the log by default. It may be replaced
            between runs.
        jitter: Returns a number from a range, for how long the node stays back.
    """

    def __init__(
        self,
        node: NodeDesc,
        state_holder: RendezvousStateHolder,
        settings: RendezvousSettings,
        clock: Clock | None = None,
        profile: NodeProfile | None = None,
        lock: threading.Lock | None = None,
        reporter: WaitReporter | None = None,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.profile = profile or NodeProfile()
        self.reporter = reporter or WaitLog(settings.run_id, clock)
        self._node = node
        self._state_holder = state_holder
        self._settings = settings
        self._clock = clock or SystemClock()
        self._lock = lock or threading.Lock()
        self._jitter = jitter
        self._losses = 0

    def run(
        self,
        state_handler: Operation,
        deadline: float,
        update_deadline: Callable[[timedelta], float] | None = None,
    ) -> None:
        """See `RendezvousOpExecutor`."""
        self.carry_out(self.steps(state_handler, deadline, update_deadline))

    def steps(
        self,
        state_handler: Operation,
        deadline: float,
        update_deadline: Callable[[timedelta], float] | None = None,
    ) -> Generator[Pause, None, None]:
        """Do what `run` does, one step after the other, and say what to wait for in between.

        All decisions are in here, and no wait: whoever goes through the steps waits for real
        (`carry_out`), or in the time of a simulation.

        Args:
            state_handler: See `run`.
            deadline: See `run`.
            update_deadline: See `run`.

        Raises:
            RendezvousError: As `run` does.
        """
        waiting = OngoingWait(self.reporter)
        polls_s = chain(POLLS_FIRST_S, repeat(POLL_S))
        try:
            while True:
                decision = yield from self._step(state_handler, deadline, waiting)
                self._tell(decision)
                if decision.action is Action.FINISH:
                    return
                self._raise_if_over(decision, waiting)
                if decision.action is Action.REMOVE_FROM_REDUNDANCY_LIST and update_deadline:
                    deadline = update_deadline(self._settings.timeout.join)
                if decision.action is Action.SYNC:
                    yield Pause(self._wait_s(next(polls_s), deadline), until_change=True)
                else:
                    yield Pause(0.0)
        finally:
            waiting.end()

    def carry_out(self, steps: Generator[Pause, None, T]) -> T:
        """Go through some steps, and block the calling thread in between.

        Args:
            steps: They hear of the error of a wait as if they had waited themselves.

        Returns:
            What they return.
        """
        with closing(steps):
            try:
                pause = next(steps)
                while True:
                    try:
                        self._wait(pause)
                    except RendezvousError as error:
                        pause = steps.throw(error)
                    else:
                        pause = next(steps)
            except StopIteration as end:
                result: T = end.value
                return result

    def _wait(self, pause: Pause) -> None:
        if pause.until_change:
            self._state_holder.wait(pause.wait_s)
        elif pause.wait_s:
            self._clock.sleep(pause.wait_s)

    def _step(
        self, operation: Operation, deadline: float, waiting: OngoingWait
    ) -> Generator[Pause, None, Decision]:
        """Bring the state up to date, and decide on it before another thread can change it.

        A lost compare-and-set has read what is there, and the node decides on that at once. After
        further losses everybody who lost would write again at the same moment: it stays back
        first, and then decides on what it reads afresh.
        """
        while True:
            with self._lock:
                has_set = self._state_holder.sync()
                if has_set is False:
                    self._losses += 1
                elif has_set:
                    self._losses = 0
                if has_set is not False or self._losses < 2:
                    return self._decide(operation, deadline, waiting)
            yield Pause(self._jitter(0, _backoff_max_s(self._losses)))

    def _decide(self, operation: Operation, deadline: float, waiting: OngoingWait) -> Decision:
        context = RendezvousContext(
            self._node,
            self._state_holder.state,
            self._settings,
            self._state_holder.observer,
            self.profile,
        )
        decision = operation(context, deadline)
        if decision.action is Action.SYNC:
            waiting.explain(context, decision, self._clock.monotonic(), deadline)
        if transitions.apply(context, decision):
            self._state_holder.mark_dirty()
        return decision

    def _raise_if_over(self, decision: Decision, waiting: OngoingWait) -> None:
        run_id = self._settings.run_id
        if decision.action is Action.ERROR_CLOSED:
            raise RendezvousClosedError.of_run(run_id, decision.reason)
        if decision.action is Action.ERROR_TIMEOUT:
            # Once the node has given up its place, the state misses the node itself as well.
            reason = waiting.text or decision.reason
            advice = "Start the missing nodes" if decision.kind == JOIN else "See to the backend"
            raise RendezvousTimeoutError(
                f"The rendezvous '{run_id}' has timed out for {self._node}: {reason}. {advice}, or "
                f"raise {decision.kind}."
            )

    def _wait_s(self, poll_s: float, deadline: float) -> float:
        """Return how long to wait: no longer than until the next heartbeat falls due."""
        wait_s = min(poll_s, self._settings.beat_s)
        remaining_s = deadline - self._clock.monotonic()
        return min(wait_s, remaining_s + PAST_DEADLINE_S) if remaining_s > 0 else wait_s

    def _tell(self, decision: Decision) -> None:
        """Record what is done."""
        if decision.action not in (Action.SYNC, Action.FINISH):
            self._record(f"{decision.action.name}: {decision.reason}")

    def _record(self, message: str) -> None:
        events.record(
            "DistributedRendezvousOpExecutor.run",
            self._settings.run_id,
            message,
            node=self._node,
            round_number=self._state_holder.state.round,
            time=self._clock.now(),
        )


def _backoff_max_s(losses: int) -> float:
    return min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(losses - 2, 10))
