"""The memory backend: the contract, who shares one, and what waits for a change."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

from quorate.backends.base import RendezvousBackend
from quorate.backends.memory import MemoryRendezvousBackend
from quorate.testing.backends import BackendTraits, RendezvousBackendSuite


class TestMemoryBackend(RendezvousBackendSuite):
    traits = BackendTraits(durable=False, multi_host=False, detects_corruption=False)

    def open(self, tmp_path: Path) -> RendezvousBackend:
        return MemoryRendezvousBackend.shared(str(tmp_path))


def test_name() -> None:
    assert MemoryRendezvousBackend().name == "memory"


def test_handlers_of_one_run_share_a_backend() -> None:
    one, other = MemoryRendezvousBackend.shared("one"), MemoryRendezvousBackend.shared("other")
    assert MemoryRendezvousBackend.shared("one") is one
    assert other is not one


def test_a_run_that_nobody_holds_starts_anew() -> None:
    backend = MemoryRendezvousBackend.shared("short")
    backend.set_state(b"x")
    del backend
    gc.collect()
    assert MemoryRendezvousBackend.shared("short").get_state() is None


def test_the_state_does_not_change_with_the_callers_buffer() -> None:
    backend = MemoryRendezvousBackend()
    buffer = bytearray(b"x")
    backend.set_state(buffer)
    buffer[0] = 0
    state = backend.get_state()
    assert state is not None
    assert state[0] == b"x"


def test_every_watcher_is_told() -> None:
    backend = MemoryRendezvousBackend()
    told: list[bool] = []
    threads = [
        threading.Thread(target=lambda: told.append(backend.wait_for_change(None, 15.0)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    backend.set_state(b"x")
    for thread in threads:
        thread.join(10.0)
    assert told == [True, True, True]


def test_a_refused_write_is_no_change() -> None:
    backend = MemoryRendezvousBackend()
    backend.set_state(b"x")
    state = backend.get_state()
    assert state is not None
    backend.set_state(b"y")
    assert not backend.wait_for_change(state[1], 0.0)
