"""A node's own check before it joins: a sick node stays out, says why, and tries again."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from quorate.api import RendezvousHandler
from quorate.clock import SECONDS_MAX, Clock, SystemClock
from quorate.errors import (
    RendezvousConnectionError,
    RendezvousSettingsError,
    RendezvousTimeoutError,
    RendezvousUnhealthyError,
)
from quorate.launch.output import WorkerOutput
from quorate.launch.wards import Wards
from quorate.launch.workers import WorkerGroup, WorkerState

__all__ = [
    "HEALTH_KEYS",
    "HEALTH_TIMEOUT_S",
    "HealthCheck",
    "Infirmary",
    "parse_health_check",
    "take_health_check",
]

HEALTH_KEYS = ("health_check", "health_check_timeout")

# Members that come back to regroup have `regroup_timeout`, 60 s, for stopping workers and this.
HEALTH_TIMEOUT_S = 30.0

# The pause between two checks doubles with each, from the first of these to the second.
PAUSE_FIRST_S = 5.0
PAUSE_MAX_S = 60.0

# During a pause it is looked this often whether the run was closed meanwhile.
LOOK_EVERY_S = 1.0

LINE_CHARACTERS_MAX = 200


@dataclass(frozen=True, kw_only=True)
class HealthCheck:
    """A command that exits with 0 if this node is fit to take part.

    Args:
        command: The program and its arguments; no shell reads them.
        timeout_s: How long it may take, in seconds.
        give_up_after_s: For how long a node that is not healthy tries again, in seconds.
        environment: The command's environment.

    Raises:
        RendezvousSettingsError: There is no such program, or the time is not one.
    """

    command: tuple[str, ...]
    timeout_s: float = HEALTH_TIMEOUT_S
    give_up_after_s: float = 600.0
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    def __post_init__(self) -> None:
        """Check the values."""
        program = self.command[0]
        if shutil.which(program, path=self.environment.get("PATH")) is None:
            raise RendezvousSettingsError(
                f"The health check cannot be run, there is no program '{program}': check its name "
                f"and PATH."
            )
        if not 0 < self.timeout_s <= SECONDS_MAX:
            raise RendezvousSettingsError(
                f"The timeout of the health check ({self.timeout_s} s) must be a positive number "
                f"of seconds, {SECONDS_MAX:.0f} at most."
            )

    def problem(self, wards: Wards, clock: Clock) -> str:
        """Run the command, and end what it leaves behind.

        Args:
            wards: Ends it if this process ends without doing so.
            clock: Measures its time.

        Returns:
            Why the node is not healthy, with the last line that the command printed; empty if it
            is.

        Raises:
            OSError: No process could be made.
        """
        with open(os.devnull, "wb") as nowhere:
            group = WorkerGroup(wards, WorkerOutput(nowhere, nowhere), clock)
            try:
                group.start(self.command, {0: self.environment}, {})
                status = group.wait(self.timeout_s)
            finally:
                group.stop(grace_s=0.0)
        if status.state is WorkerState.SUCCEEDED:
            return ""
        what = f"the health check did not end within {self.timeout_s:g} s"
        if status.failure is not None:
            how = status.failure.signal_name or f"exit code {status.failure.exit_code}"
            what = f"the health check ended with {how}"
        lines = [line.strip() for line in group.last_lines(0) if line.strip()]
        return f"{what}: {lines[-1][:LINE_CHARACTERS_MAX]}" if lines else what


def take_health_check(config: dict[str, Any], give_up_after_s: float) -> HealthCheck | None:
    """Take the keys of a health check out of a configuration; handlers do not know them.

    Args:
        config: The configuration; `health_check` and `health_check_timeout` are removed.
        give_up_after_s: For how long a node that is not healthy tries again, in seconds.

    Raises:
        RendezvousSettingsError: A value makes no sense.
    """
    command = config.pop("health_check", None)
    timeout = config.pop("health_check_timeout", None)
    try:
        timeout_s = HEALTH_TIMEOUT_S if timeout is None else float(timeout)
    except (TypeError, ValueError, OverflowError) as error:
        raise RendezvousSettingsError(
            f"The configuration option 'health_check_timeout' is '{timeout}', which is not a "
            f"number of seconds."
        ) from error
    if command is None:
        return None
    return HealthCheck(
        command=parse_health_check(command),
        timeout_s=timeout_s,
        give_up_after_s=give_up_after_s,
    )


def parse_health_check(text: str) -> tuple[str, ...]:
    """Read a command as a shell would, without what only a shell can do.

    Raises:
        RendezvousSettingsError: It is empty, or a quotation has no end.
    """
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise RendezvousSettingsError(
            f"The health check '{text}' cannot be read: {str(error).lower()}."
        ) from error
    if not words:
        raise RendezvousSettingsError("The health check is empty: name a program.")
    return words


class Infirmary:
    """Keeps a node out of its run until it is healthy.

    Args:
        check: Says whether it is.
        handler: The node's part in the rendezvous.
        say: Tells people.
        clock: Measures the pauses.
        felt: Entered wherever it waits: what may interrupt it does so there.
    """

    def __init__(
        self,
        check: HealthCheck,
        handler: RendezvousHandler,
        say: Callable[[str], None],
        clock: Clock | None = None,
        felt: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        self._check = check
        self._handler = handler
        self._say = say
        self._clock = clock or SystemClock()
        self._felt = felt

    def await_health(self, wards: Wards) -> None:
        """Return once the node may join: it is healthy, or the run is closed and will say so.

        Raises:
            RendezvousUnhealthyError: It was not healthy in time.
            RendezvousError: It is not wanted any more.
        """
        begun_s, pause_s, tries = self._clock.monotonic(), PAUSE_FIRST_S, 0
        while problem := self._problem(wards):
            tries += 1
            self._step_aside(f"unhealthy: {problem}")
            left_s = self._check.give_up_after_s - (self._clock.monotonic() - begun_s)
            if left_s <= 0:
                raise RendezvousUnhealthyError(
                    f"This node was not healthy within {self._check.give_up_after_s:g} s "
                    f"({tries} checks): {problem}. Mend it, or raise join_timeout."
                )
            pause_s = min(pause_s, left_s)
            self._say(f"unhealthy: {problem}; the next check is in {pause_s:.0f} s")
            if self._is_closed_within(pause_s):
                return
            pause_s = min(2 * pause_s, PAUSE_MAX_S)
        if tries:
            self._say("healthy again: joining")

    def _problem(self, wards: Wards) -> str:
        try:
            with self._felt():
                return self._check.problem(wards, self._clock)
        except OSError as error:
            return f"the health check cannot be started: {error}"

    def _step_aside(self, reason: str) -> None:
        """Leave, for the others shall not wait for this node; say the reason each time anew."""
        try:
            with self._felt():
                self._handler.step_aside(reason)
        except (RendezvousConnectionError, RendezvousTimeoutError) as error:
            self._say(f"the others could not be told that this node stays out: {error}")

    def _is_closed_within(self, pause_s: float) -> bool:
        until_s = self._clock.monotonic() + pause_s
        with self._felt():
            while not self._handler.closed_reason:
                left_s = until_s - self._clock.monotonic()
                if left_s <= 0:
                    return False
                self._clock.sleep(min(left_s, LOOK_EVERY_S))
        return True
