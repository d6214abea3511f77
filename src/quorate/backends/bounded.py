"""Calls into code that blocks without a time limit, with one."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from quorate.errors import RendezvousConnectionError

__all__ = ["BoundedCaller", "Call", "serve"]

T = TypeVar("T")


class BoundedCaller:
    """Runs calls one after the other on a daemon thread, and stops waiting at a deadline.

    A call that does not return cannot be ended from outside: until it does, every further call
    is refused at once. The thread ends with `close` or with this object, or, stuck, with the
    process.

    Args:
        name: What the calls reach, for messages: ``"The c10d store"``.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._stuck: Future[Any] | None = None
        self._calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        # The thread must not hold this object, whose end is what ends the thread.
        threading.Thread(
            target=serve, args=(self._calls,), name="RendezvousBoundedCaller", daemon=True
        ).start()
        self._end = weakref.finalize(self, self._calls.put, None)

    def close(self) -> None:
        """End the thread after the calls that were made; a second call does nothing."""
        self._end()

    def call(self, function: Callable[[], T], timeout_s: float) -> T:
        """Return what `function` returns, or raise what it raises.

        Args:
            function: The blocking call.
            timeout_s: How long to wait for it and for the calls before it, in seconds.

        Raises:
            RendezvousConnectionError: It did not return in time (it may still take effect), or
                an earlier call is stuck, or this was closed.
        """
        if not self._end.alive:
            raise RendezvousConnectionError(f"{self._name} was closed here: open it again.")
        if self._stuck is not None and not self._stuck.done():
            raise RendezvousConnectionError(
                f"{self._name} still has not answered an earlier call, so no other was made. See "
                "whether its host is alive; calls are made again once the earlier one returns."
            )
        future: Future[T] = Future()
        self._calls.put((function, future))
        try:
            return future.result(timeout_s)
        except TimeoutError:
            # The error may be the function's own, or the answer may have come just now.
            if future.done():
                return future.result()
            if not future.cancel():
                self._stuck = future
            raise RendezvousConnectionError(
                f"{self._name} did not answer within {timeout_s:g} s. See whether its host is "
                "alive and reachable, or raise `read_timeout`."
            ) from None


Call = tuple[Callable[[], Any], "Future[Any]"]


def serve(calls: queue.SimpleQueue[Call | None]) -> None:
    """Make the calls of a queue in their order, until it gives None."""
    while (call := calls.get()) is not None:
        function, future = call
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)
        # Nothing of a past call may live on while the thread waits for the next.
        del call, function, future
