from __future__ import annotations

from pathlib import Path

import pytest

from quorate.backends.base import RendezvousBackend
from quorate.backends.file import FileRendezvousBackend
from quorate.backends.memory import MemoryRendezvousBackend
from quorate.errors import RendezvousStateError, StoreTimeoutError
from quorate.stores.backed import BackedStore
from quorate.stores.base import Store
from quorate.testing import ManualClock, StoreSuite


class TestOverFiles(StoreSuite):
    def open(self, tmp_path: Path) -> Store:
        return BackedStore(FileRendezvousBackend(tmp_path / "store"))


class TestOverMemory(StoreSuite):
    @pytest.fixture(autouse=True)
    def _backend(self) -> None:
        self.backend = MemoryRendezvousBackend()

    def open(self, tmp_path: Path) -> Store:
        return BackedStore(self.backend)


class Polled(MemoryRendezvousBackend):
    @property
    def can_watch(self) -> bool:
        return False


def test_a_wait_is_as_long_as_it_was_told() -> None:
    clock = ManualClock()
    store = BackedStore(Polled(), timeout_s=30, clock=clock)
    for timeout_s, expected_s in ((None, 30), (5, 5)):
        before = clock.monotonic()
        with pytest.raises(StoreTimeoutError):
            store.wait(["key"], timeout_s)
        assert clock.monotonic() - before == pytest.approx(expected_s)


def test_what_is_no_store_is_refused() -> None:
    backend: RendezvousBackend = MemoryRendezvousBackend()
    backend.set_state(b"something else")
    with pytest.raises(RendezvousStateError, match="memory backend holds is not a store"):
        BackedStore(backend).check(["key"])
