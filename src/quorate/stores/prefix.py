"""A store within a store: every key under one prefix."""

from __future__ import annotations

from collections.abc import Sequence

from quorate.stores.base import Store, Value

__all__ = ["PrefixStore"]


class PrefixStore:
    """A `Store` whose keys are those of another, after ``<prefix>/``, as in torch's.

    Args:
        prefix: What precedes every key.
        store: Where the values are kept. Its errors name the keys with the prefix.
    """

    def __init__(self, prefix: str, store: Store) -> None:
        self._prefix = prefix
        self._store = store

    @property
    def underlying_store(self) -> Store:
        """The store that keeps the values."""
        return self._store

    def set(self, key: str, value: Value) -> None:
        """Give `key` a value, whatever it held before."""
        self._store.set(self._full(key), value)

    def get(self, key: str, timeout_s: float | None = None) -> bytes:
        """Return the value of `key`, once it is there.

        Raises:
            StoreTimeoutError: It did not appear within `timeout_s` seconds.
        """
        return self._store.get(self._full(key), timeout_s)

    def add(self, key: str, amount: int) -> int:
        """Add `amount` to the number at `key`, 0 if it is absent, and return the sum.

        Raises:
            RendezvousStateError: The key holds something else than a number.
            RendezvousLimitError: The sum does not fit into 64 bits.
        """
        return self._store.add(self._full(key), amount)

    def compare_set(self, key: str, expected: Value, desired: Value) -> bytes:
        """Replace the value of `key` if it is `expected`; return the value after the call."""
        return self._store.compare_set(self._full(key), expected, desired)

    def wait(self, keys: Sequence[str], timeout_s: float | None = None) -> None:
        """Return once all of `keys` are there.

        Raises:
            StoreTimeoutError: Some were missing for `timeout_s` seconds.
        """
        self._store.wait([self._full(key) for key in keys], timeout_s)

    def check(self, keys: Sequence[str]) -> bool:
        """Return at once whether all of `keys` are there."""
        return self._store.check([self._full(key) for key in keys])

    def delete(self, key: str) -> bool:
        """Remove `key`; return whether it was there."""
        return self._store.delete(self._full(key))

    def num_keys(self) -> int:
        """Return how many keys the underlying store holds, whatever their prefix."""
        return self._store.num_keys()

    def _full(self, key: str) -> str:
        return f"{self._prefix}/{key}"
