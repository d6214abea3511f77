"""The memory store: the contract, and threads that wait."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from quorate.errors import StoreTimeoutError
from quorate.stores.memory import MemoryStore
from quorate.testing.stores import StoreSuite


class TestMemoryStore(StoreSuite):
    store: MemoryStore | None = None

    def open(self, tmp_path: Path) -> MemoryStore:
        self.store = self.store or MemoryStore()
        return self.store


def test_a_parked_get_is_woken(until: Callable[..., Any]) -> None:
    store = MemoryStore()
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(store.get, "k") for _ in range(2)]
        until(lambda: store._keyspace.waiters == 2)
        store.set("k", "v")
        assert [answer.result(10.0) for answer in answers] == [b"v", b"v"]
    assert store._keyspace.waiters == 0


def test_a_timeout_leaves_nobody_parked() -> None:
    store = MemoryStore()
    with pytest.raises(StoreTimeoutError, match=r"'k' appeared in the store within 0\.01 s"):
        store.get("k", timeout_s=0.01)
    assert store._keyspace.waiters == 0


def test_the_default_timeout_is_the_stores() -> None:
    store = MemoryStore(timeout_s=0.01)
    with pytest.raises(StoreTimeoutError, match=r"within 0\.01 s"):
        store.get("k")
    with pytest.raises(StoreTimeoutError, match=r"within 0\.01 s"):
        store.wait(["k"])


def test_a_timeout_of_zero_asks_once() -> None:
    store = MemoryStore()
    store.set("k", "v")
    assert store.get("k", timeout_s=0) == b"v"
    store.wait(["k"], timeout_s=0)
    with pytest.raises(StoreTimeoutError):
        store.get("absent", timeout_s=0)


def test_a_key_that_is_gone_before_it_was_read_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, until: Callable[..., Any]
) -> None:
    store = MemoryStore()
    real_wait = threading.Event.wait

    def wait_and_lose(event: threading.Event, timeout: float | None = None) -> bool:
        woken = real_wait(event, timeout)
        monkeypatch.setattr(threading.Event, "wait", real_wait)
        store.delete("k")
        store.set("again", "")
        return woken

    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result(10.0)
        monkeypatch.setattr(threading.Event, "wait", wait_and_lose)
        answer = pool.submit(store.get, "k", 10.0)
        until(lambda: store._keyspace.waiters == 1)
        store.set("k", "first")
        store.get("again", 10.0)
        until(lambda: store._keyspace.waiters == 1)
        store.set("k", "second")
        assert answer.result(10.0) == b"second"
