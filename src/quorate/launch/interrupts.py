"""The signals that end an agent, felt only where it waits; others are for its workers."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

__all__ = ["Interrupted", "Interrupts"]

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)

# By these a batch system says to a job that its time is nearly over, or what its user likes.
PASSED_ON = (signal.SIGUSR1, signal.SIGUSR2)


class Interrupted(BaseException):
    """A signal asks the agent to end. Like KeyboardInterrupt it passes `except Exception`."""


class Interrupts:
    """Counts the signals that ask this process to end.

    The first one is raised as `Interrupted` within `felt`, and kept for the next `felt` elsewhere,
    so that workers are never left half started. The second one calls `on_second` at once, on the
    spot.

    Attributes:
        on_second: Called by the signal handler at the second signal.
        on_other: Called by the signal handler with a signal that is meant for the workers.
        first: The first signal; `None` before.
    """

    def __init__(self) -> None:
        self.on_second: Callable[[], None] = lambda: None
        self.on_other: Callable[[signal.Signals], None] = lambda _: None
        self._count = 0
        self._felt_above: int | None = None
        self.first: signal.Signals | None = None

    @property
    def urgent(self) -> bool:
        """Whether there was a second signal: nothing is waited for any more."""
        return self._count > 1

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals; what the process ignores, as under nohup, it goes on to ignore.

        Python delivers signals to the main thread only: elsewhere nothing is installed.
        """
        before = {}
        if threading.current_thread() is threading.main_thread():
            for numbers, handle in ((ENDING, self._handle), (PASSED_ON, self._pass_on)):
                for number in numbers:
                    if signal.getsignal(number) is not signal.SIG_IGN:
                        before[number] = signal.signal(number, handle)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def felt(self, above: int = 0) -> Iterator[None]:
        """Raise `Interrupted` in this block once there were more than `above` signals."""
        self._felt_above = above
        try:
            self._raise_if_felt()
            yield
        finally:
            self._felt_above = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        if self.first is None:
            self.first = signal.Signals(number)
        else:
            self.on_second()
        self._raise_if_felt()

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.on_other(signal.Signals(number))

    def _raise_if_felt(self) -> None:
        if self._felt_above is not None and self._count > self._felt_above:
            # The block is over, even if the signal came on its very end.
            self._felt_above = None
            raise Interrupted
