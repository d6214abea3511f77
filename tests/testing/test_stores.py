"""The store suite refuses stores that break the contract."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from quorate.errors import StoreTimeoutError
from quorate.stores.base import Store, Value, timeout_error
from quorate.stores.memory import MemoryStore
from quorate.testing.stores import StoreSuite


class TextStore(MemoryStore):
    """Keeps text in another encoding."""

    def set(self, key: str, value: Value) -> None:
        super().set(key, value.encode("utf-16") if isinstance(value, str) else value)


class ForgetfulStore(MemoryStore):
    """Adds to zero, always."""

    def add(self, key: str, amount: int) -> int:
        self.delete(key)
        return super().add(key, amount)


class EagerStore(MemoryStore):
    """Sets an absent key whatever was expected."""

    def compare_set(self, key: str, expected: Value, desired: Value) -> bytes:
        return super().compare_set(key, expected if self.check([key]) else b"", desired)


class ImpatientStore(MemoryStore):
    """Waits for nothing, and names every key."""

    def wait(self, keys: Sequence[str], timeout_s: float | None = None) -> None:
        raise timeout_error(keys, 0.0)


class HastyStore(MemoryStore):
    """Waits until the first of the missing keys has come."""

    def wait(self, keys: Sequence[str], timeout_s: float | None = None) -> None:
        missing = [key for key in keys if not self.check([key])]
        super().wait(missing[:1], timeout_s)


class StaleStore(MemoryStore):
    """Names all keys that were missing when a wait began."""

    def wait(self, keys: Sequence[str], timeout_s: float | None = None) -> None:
        try:
            super().wait(keys, timeout_s)
        except StoreTimeoutError:
            raise timeout_error([key for key in keys if key != "present"], 0.0) from None


class CurtStore(MemoryStore):
    """Gets what is there, and waits for nothing."""

    def get(self, key: str, timeout_s: float | None = None) -> bytes:
        return super().get(key, 0.0)


class BlindStore(MemoryStore):
    """Sees every key."""

    def check(self, keys: Sequence[str]) -> bool:
        return True


@pytest.mark.parametrize(
    ("store", "contract"),
    [
        (TextStore, "test_set_then_get"),
        (ForgetfulStore, "test_add_counts"),
        (ForgetfulStore, "test_additions_are_not_lost"),
        (EagerStore, "test_compare_set"),
        (ImpatientStore, "test_wait_ends_when_all_keys_are_there"),
        (ImpatientStore, "test_wait_times_out"),
        (HastyStore, "test_wait_ends_when_all_keys_are_there"),
        (StaleStore, "test_wait_ends_when_all_keys_are_there"),
        (CurtStore, "test_get_ends_when_the_key_appears"),
        (BlindStore, "test_check_delete_and_num_keys"),
    ],
)
def test_the_suite_refuses(store: type[MemoryStore], contract: str, tmp_path: Path) -> None:
    kept = store()

    class Suite(StoreSuite):
        def open(self, tmp_path: Path) -> Store:
            return kept

    with pytest.raises((AssertionError, StoreTimeoutError)):
        getattr(Suite(), contract)(tmp_path)
