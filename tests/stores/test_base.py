"""What all stores share: values as bytes, and the error that says which keys were missing."""

from __future__ import annotations

import pytest

from quorate.errors import StoreTimeoutError
from quorate.stores.base import Store, timeout_error, to_bytes
from quorate.stores.memory import MemoryStore
from quorate.stores.prefix import PrefixStore


@pytest.mark.parametrize(
    ("value", "kept"), [("é", b"\xc3\xa9"), ("", b""), (b"\xff", b"\xff"), (bytearray(b"x"), b"x")]
)
def test_to_bytes(value: bytes | str, kept: bytes) -> None:
    assert to_bytes(value) == kept
    assert type(to_bytes(value)) is bytes


def test_the_stores_are_stores() -> None:
    store = MemoryStore()
    assert isinstance(store, Store)
    assert isinstance(PrefixStore("p", store), Store)
    assert not isinstance({}, Store)


def test_a_timeout_names_the_keys_but_not_thousands() -> None:
    error = timeout_error(["a", "b"], 1.5)
    assert isinstance(error, StoreTimeoutError)
    assert "'a', 'b' appeared in the store within 1.5 s" in str(error)
    many = str(timeout_error([f"key{number}" for number in range(1000)], 1.5))
    assert "'key4' and 995 more" in many
    assert "key5" not in many
