"""A store in the memory of one process."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TypeVar

from quorate.clock import SystemClock
from quorate.stores.base import Value, timeout_error, to_bytes
from quorate.stores.keyspace import Keyspace, Mutation

__all__ = ["MemoryStore"]

# torch's default for its stores.
TIMEOUT_S = 300.0

Result = TypeVar("Result")


class MemoryStore:
    """A `Store` whose callers are threads of one process; see there for each call.

    Args:
        timeout_s: How long `get` and `wait` block unless they are told, in seconds.
    """

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        # Threads really block here: no other clock could tell how long.
        self._clock = SystemClock()
        self._lock = threading.Lock()
        self._keyspace = Keyspace()

    def set(self, key: str, value: Value) -> None:
        """Give `key` a value, whatever it held before."""
        with self._lock:
            settle(self._keyspace.set(key, to_bytes(value)))

    def get(self, key: str, timeout_s: float | None = None) -> bytes:
        """Return the value of `key`, once it is there.

        Raises:
            StoreTimeoutError: It did not appear within `timeout_s` seconds.
        """
        limit_s = self._limit_s(timeout_s)
        deadline = self._clock.monotonic() + limit_s
        while True:
            with self._lock:
                value = self._keyspace.get(key)
            if value is not None:
                return value
            # A key may be deleted between the wake and the read: then the wait goes on.
            self._wait((key,), deadline - self._clock.monotonic(), limit_s)

    def add(self, key: str, amount: int) -> int:
        """Add `amount` to the number at `key`, 0 if it is absent, and return the sum.

        Raises:
            RendezvousStateError: The key holds something else than a number.
            RendezvousLimitError: The sum does not fit into 64 bits.
        """
        with self._lock:
            return settle(self._keyspace.add(key, amount))

    def compare_set(self, key: str, expected: Value, desired: Value) -> bytes:
        """Replace the value of `key` if it is `expected`; return the value after the call."""
        with self._lock:
            return settle(self._keyspace.compare_set(key, to_bytes(expected), to_bytes(desired)))

    def wait(self, keys: Sequence[str], timeout_s: float | None = None) -> None:
        """Return once all of `keys` are there.

        Raises:
            StoreTimeoutError: Some were missing for `timeout_s` seconds.
        """
        limit_s = self._limit_s(timeout_s)
        self._wait(keys, limit_s, limit_s)

    def check(self, keys: Sequence[str]) -> bool:
        """Return at once whether all of `keys` are there."""
        with self._lock:
            return self._keyspace.check(keys)

    def delete(self, key: str) -> bool:
        """Remove `key`; return whether it was there."""
        with self._lock:
            return settle(self._keyspace.delete(key))

    def num_keys(self) -> int:
        """Return how many keys there are."""
        with self._lock:
            return self._keyspace.num_keys()

    def _limit_s(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else timeout_s

    def _wait(self, keys: Sequence[str], left_s: float, limit_s: float) -> None:
        woken = threading.Event()
        with self._lock:
            if not self._keyspace.park(woken, keys):
                return
        try:
            if woken.wait(max(left_s, 0.0)):
                return
        finally:
            with self._lock:
                missing = self._keyspace.awaited(woken)
                was_parked = self._keyspace.unpark(woken)
        # Woken between the end of the time and the lock: the keys were there in time.
        if was_parked:
            raise timeout_error(missing, limit_s)


def settle(mutation: Mutation[Result]) -> Result:
    """Wake the threads that `mutation` woke and return its result."""
    for waiter in mutation.woken:
        if isinstance(waiter, threading.Event):
            waiter.set()
    return mutation.result
