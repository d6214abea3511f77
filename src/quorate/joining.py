"""One node's way into the next round, in the direct way, while the backend comes and goes."""

from __future__ import annotations

from collections.abc import Callable, Generator
from datetime import timedelta

from quorate.clock import Clock
from quorate.core.action import Action, Decision, RendezvousContext
from quorate.core.ops import RendezvousJoinOp
from quorate.core.settings import RendezvousSettings
from quorate.core.state import World, WorldName
from quorate.errors import RendezvousConnectionError
from quorate.executor import DistributedRendezvousOpExecutor, Pause

__all__ = ["Joining"]

# While the backend is away a join is tried again this often, for as long as a node may be silent.
RETRY_S = 1.0


class Joining:
    """A join that outlives a backend that is away for a moment (R11).

    It is an operation too, which remembers when the backend last answered, and the world.

    Args:
        executor: Carries it out.
        settings: The settings of the run.
        clock: Gives the time; the same that the executor has.
        after: The world that the node was given last.
        timeout: After how long the node gives up; the join timeout of the settings if `None`.
        retrying: Told each error after which it tries again.
    """

    def __init__(
        self,
        executor: DistributedRendezvousOpExecutor,
        settings: RendezvousSettings,
        clock: Clock,
        after: WorldName | None,
        timeout: timedelta | None = None,
        retrying: Callable[[RendezvousConnectionError], None] = lambda error: None,
    ) -> None:
        self._executor = executor
        self._silence_s = settings.silence_s
        self._clock = clock
        self._operation = RendezvousJoinOp(after)
        self._retrying = retrying
        self._world: World | None = None
        self._seen_s = clock.monotonic()
        self._deadline = self._extend(timeout or settings.timeout.join)

    def __call__(self, ctx: RendezvousContext, deadline: float) -> Decision:
        """Decide on the next step; see `quorate.core.ops.RendezvousJoinOp`."""
        self._seen_s = self._clock.monotonic()
        decision = self._operation(ctx, deadline)
        if decision.action is Action.FINISH:
            # Another thread's sync may move the holder on as soon as this call returns.
            self._world = ctx.state.world
        return decision

    def steps(self) -> Generator[Pause, None, World]:
        """Join, one step after the other; see `DistributedRendezvousOpExecutor.steps`.

        Returns:
            The world that has a place for the node.

        Raises:
            RendezvousConnectionError: The backend has not answered for as long as a node may be
                silent.
            RendezvousError: As `RendezvousOpExecutor.run` does.
        """
        while True:
            try:
                yield from self._executor.steps(self, self._deadline, self._extend)
                break
            except RendezvousConnectionError as error:
                if self._clock.monotonic() - self._seen_s >= self._silence_s:
                    raise
                self._retrying(error)
            yield Pause(RETRY_S)
        assert self._world is not None, "a join that is finished has its world"
        return self._world

    def _extend(self, timeout: timedelta) -> float:
        """Set a new deadline, which outlives a lost connection too."""
        self._deadline = self._clock.monotonic() + timeout.total_seconds()
        return self._deadline
