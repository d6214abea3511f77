"""Calls that block, made beside an event loop, each waited for in bounded time.

They run on daemon threads: Python waits for those of an executor when the process ends, for as long
as a name service hangs.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

__all__ = ["outcome_of"]

T = TypeVar("T")

_lock = threading.Lock()
_calls: dict[Hashable, concurrent.futures.Future[Any]] = {}


def _forget_in_child() -> None:
    """After a fork: the calls are made by threads of the parent."""
    global _calls, _lock
    _calls, _lock = {}, threading.Lock()


os.register_at_fork(after_in_child=_forget_in_child)


async def outcome_of(key: Hashable, function: Callable[[], T], timeout_s: float) -> T:
    """Return what a function that may block returns, or raise what it raises.

    Args:
        key: What is called; one call for each is under way at a time, however many wait for it, so
            that what hangs takes one thread.
        function: The call.
        timeout_s: How long to wait, in seconds; the call goes on.

    Raises:
        TimeoutError: It has taken longer.
        OSError: The system gives no thread for it now.
    """
    async with asyncio.timeout(timeout_s):
        return await asyncio.wrap_future(_begun(key, function))


def _begun(key: Hashable, function: Callable[[], T]) -> concurrent.futures.Future[T]:
    with _lock:
        call = _calls.get(key)
        if call is None:
            call = concurrent.futures.Future()
            # Whoever stops waiting cannot cancel it for the others.
            call.set_running_or_notify_cancel()
            thread = threading.Thread(
                target=_make, args=(key, function, call), name="quorate-client_call", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as error:
                raise OSError(str(error)) from error
            _calls[key] = call
        return call


def _make(key: Hashable, function: Callable[[], T], call: concurrent.futures.Future[T]) -> None:
    try:
        result = function()
    except BaseException as error:
        _end(key)
        call.set_exception(error)
    else:
        _end(key)
        call.set_result(result)


def _end(key: Hashable) -> None:
    with _lock:
        _calls.pop(key, None)
