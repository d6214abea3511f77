"""The prefix store: the contract, and where the keys end up."""

from __future__ import annotations

from pathlib import Path

import pytest

from quorate.errors import StoreTimeoutError
from quorate.stores.memory import MemoryStore
from quorate.stores.prefix import PrefixStore
from quorate.testing.stores import StoreSuite


class TestPrefixStore(StoreSuite):
    store: MemoryStore | None = None

    def open(self, tmp_path: Path) -> PrefixStore:
        self.store = self.store or MemoryStore()
        return PrefixStore("prefix", self.store)


@pytest.fixture
def below() -> MemoryStore:
    return MemoryStore(timeout_s=0.01)


def test_keys_are_below_the_prefix(below: MemoryStore) -> None:
    store = PrefixStore("a/b", below)
    store.set("set", "1")
    store.add("add", 2)
    store.compare_set("compare", "", "3")
    assert below.get("a/b/set") == b"1"
    assert below.get("a/b/add") == b"2"
    assert below.get("a/b/compare") == b"3"
    assert below.num_keys() == store.num_keys() == 3
    assert store.underlying_store is below


def test_other_keys_are_not_seen(below: MemoryStore) -> None:
    below.set("k", "outside")
    below.set("other/k", "beside")
    store = PrefixStore("prefix", below)
    assert not store.check(["k"])
    assert not store.delete("k")
    with pytest.raises(StoreTimeoutError, match="prefix/k"):
        store.get("k")
    with pytest.raises(StoreTimeoutError, match="prefix/k"):
        store.wait(["k"])
    assert below.num_keys() == 2


def test_prefixes_can_be_stacked(below: MemoryStore) -> None:
    PrefixStore("inner", PrefixStore("outer", below)).set("k", "v")
    assert below.get("outer/inner/k") == b"v"
