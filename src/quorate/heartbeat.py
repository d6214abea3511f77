"""A thread that calls a function again and again, and ends with its owner."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from datetime import timedelta
from typing import Any

__all__ = ["PeriodicTimer"]

# A call that hangs in a backend must not hold up the one that cancels; its thread is a daemon
# and ends after the call.
JOIN_S = 5.0


class PeriodicTimer:
    """Calls a function periodically on a thread of its own.

    It ends when it is cancelled or collected; the function must therefore not hold a reference
    to the owner of the timer. It must not raise.

    Args:
        interval: The time between two calls, and before the first.
        function: What to call.
        *args: Its arguments.
        name: The name of the thread.
    """

    def __init__(
        self,
        interval: timedelta,
        function: Callable[..., None],
        *args: Any,
        name: str = "PeriodicTimer",
    ) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=_run,
            args=(self._stop, interval.total_seconds(), function, args),
            name=name,
            daemon=True,
        )
        self._finalizer: weakref.finalize[Any, PeriodicTimer] | None = None

    @property
    def name(self) -> str:
        """The name of the thread."""
        return self._thread.name

    def start(self) -> None:
        """Start calling.

        Raises:
            RuntimeError: The timer was started before.
        """
        if self._finalizer is not None:
            raise RuntimeError(f"The timer {self.name} was started before: make a new one.")
        self._finalizer = weakref.finalize(self, _end, self._thread, self._stop)
        # While the interpreter shuts down a daemon thread may be gone already.
        self._finalizer.atexit = False
        self._thread.start()

    def cancel(self) -> None:
        """Make no more calls, and wait a moment for one that is being made."""
        if self._finalizer is not None:
            self._finalizer()


def _run(
    stop: threading.Event, interval_s: float, function: Callable[..., None], args: tuple[Any, ...]
) -> None:
    while not stop.wait(interval_s):
        function(*args)


def _end(thread: threading.Thread, stop: threading.Event) -> None:
    stop.set()
    # The last reference to an owner may be dropped on the timer's own thread.
    if thread is not threading.current_thread():
        thread.join(JOIN_S)
