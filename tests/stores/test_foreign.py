from __future__ import annotations

import sys

import pytest

from quorate.errors import RendezvousConnectionError
from quorate.stores.foreign import is_of_torch, prefixed, translating_foreign
from quorate.stores.memory import MemoryStore
from quorate.stores.prefix import PrefixStore


def test_a_store_of_ours_stays_ours() -> None:
    store = MemoryStore()
    assert not is_of_torch(store)
    inner = prefixed("a.b", store)
    assert isinstance(inner, PrefixStore)
    inner.set("key", b"value")
    assert store.get("a.b/key", 1) == b"value"


def test_errors_around_a_store_of_ours_stay_what_they_are() -> None:
    with (
        pytest.raises(RuntimeError, match="as it is"),
        translating_foreign(MemoryStore(), "Doing something"),
    ):
        raise RuntimeError("as it is")


@pytest.mark.torch
def test_a_store_of_torch_stays_one() -> None:
    from torch.distributed import HashStore, Store

    store = HashStore()
    assert is_of_torch(store)
    inner = prefixed("a.b", store)
    assert isinstance(inner, Store)
    inner.set("key", "value")
    assert store.get("a.b/key") == b"value"


@pytest.mark.torch
def test_a_store_that_somebody_wrote_for_torch_is_one_of_torch() -> None:
    from torch.distributed import Store

    class Own(Store):
        pass

    assert is_of_torch(Own())


@pytest.mark.torch
def test_errors_around_a_store_of_torch_become_ours() -> None:
    from torch.distributed import HashStore

    with (
        pytest.raises(RendezvousConnectionError, match="Doing something failed: gone"),
        translating_foreign(HashStore(), "Doing something"),
    ):
        raise RuntimeError("gone")
    assert "torch" in sys.modules
