"""Several ranks in one process, and the store that they share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from quorate.errors import StoreTimeoutError

GET_TIMEOUT_S = 5.0


class ThreadStore:
    """A store for threads; remembers how many keys it ever held at once."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.keys_max = 0
        self._changed = threading.Condition()

    def set(self, key: str, value: bytes) -> None:
        with self._changed:
            self.values[key] = value
            self.keys_max = max(self.keys_max, len(self.values))
            self._changed.notify_all()

    def get(self, key: str, timeout_s: float | None = None) -> bytes:
        with self._changed:
            if not self._changed.wait_for(lambda: key in self.values, GET_TIMEOUT_S):
                raise StoreTimeoutError(f"no key {key}")
            return self.values[key]

    def delete(self, key: str) -> bool:
        with self._changed:
            return self.values.pop(key, None) is not None


@pytest.fixture
def store() -> ThreadStore:
    """A new, empty store."""
    return ThreadStore()


@pytest.fixture
def on_every_rank() -> Callable[..., list[Any]]:
    """Call a function of the rank on as many threads; return, or raise, what they do."""

    def run(world_size: int, work: Callable[[int], Any]) -> list[Any]:
        with ThreadPoolExecutor(world_size) as ranks:
            return list(ranks.map(work, range(world_size)))

    return run
