"""The contract that every key-value store keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event
from typing import TypeVar

from quorate.errors import (
    RendezvousError,
    RendezvousLimitError,
    RendezvousStateError,
    StoreTimeoutError,
)
from quorate.stores.base import Store

__all__ = ["StoreSuite"]

Error = TypeVar("Error", bound=RendezvousError)
Result = TypeVar("Result")

THREADS = 4
ADDITIONS = 25
SOON_S = 0.02
LATE_S = 10.0


class StoreSuite(ABC):
    """The contract of a `Store`, for pytest: subclass it as ``Test...`` and define `open`."""

    @abstractmethod
    def open(self, tmp_path: Path) -> Store:
        """Return a handle on the one store that belongs to `tmp_path`, empty at first."""

    def test_it_is_a_store(self, tmp_path: Path) -> None:
        """It has every operation of the protocol."""
        assert isinstance(self.open(tmp_path), Store), "an operation is missing"

    def test_set_then_get(self, tmp_path: Path) -> None:
        """Bytes come back as they are, text as UTF-8, and the last value counts."""
        store = self.open(tmp_path)
        store.set("bytes", bytes(range(256)))
        store.set("text", "naïve")
        store.set("text", "né")
        store.set("empty", b"")
        assert store.get("bytes") == bytes(range(256)), "bytes were changed"
        assert store.get("text") == "né".encode(), "text is not the last, as UTF-8"
        assert store.get("empty") == b"", "an empty value is not kept"

    def test_get_ends_when_the_key_appears(self, tmp_path: Path) -> None:
        """A blocked get returns what another sets, adds or compare-and-sets."""
        store, other = self.open(tmp_path), self.open(tmp_path)
        with ThreadPoolExecutor(3) as pool:
            answers = [begin(pool, partial(store.get, key, LATE_S)) for key in ("a", "b", "c")]
            expect(StoreTimeoutError, lambda: store.get("absent", SOON_S))
            were_done = any(answer.done() for answer in answers)
            other.set("a", b"1")
            other.add("b", 2)
            other.compare_set("c", b"", b"3")
            assert [answer.result(LATE_S) for answer in answers] == [b"1", b"2", b"3"]
        assert not were_done, "a get ended before its key came"

    def test_get_times_out(self, tmp_path: Path) -> None:
        """The error names the key that did not appear."""
        store = self.open(tmp_path)
        error = expect(StoreTimeoutError, lambda: store.get("absent", SOON_S))
        assert "absent" in str(error), "the key is not named"

    def test_add_counts(self, tmp_path: Path) -> None:
        """An absent key counts as zero, and the sum is kept as decimal text."""
        store = self.open(tmp_path)
        assert store.add("n", 3) == 3, "an absent key is not zero"
        assert store.add("n", -5) == -2, "a negative amount is not added"
        assert store.get("n") == b"-2", "the number is not kept as decimal text"
        store.set("n", "40")
        assert store.add("n", 2) == 42, "a number that was set is not added to"

    def test_add_refuses_what_is_no_number(self, tmp_path: Path) -> None:
        """Text is told from a number, a sum that does not fit is told; nothing changes."""
        store = self.open(tmp_path)
        for text in ("", "x", "-", " 1", "1_0", "1" * 40):
            store.set("text", text)
            expect(RendezvousStateError, lambda: store.add("text", 1))
            assert store.get("text") == text.encode(), "a failed add changed the value"
        store.add("n", 2**63 - 1)
        expect(RendezvousLimitError, lambda: store.add("n", 1))
        assert store.get("n") == b"%d" % (2**63 - 1), "a failed add changed the value"

    def test_additions_are_not_lost(self, tmp_path: Path) -> None:
        """Concurrent additions all count."""
        stores = [self.open(tmp_path) for _ in range(THREADS)]
        with ThreadPoolExecutor(THREADS) as pool:
            sums = list(
                pool.map(lambda store: [store.add("n", 1) for _ in range(ADDITIONS)], stores)
            )
        seen = sorted(total for per_thread in sums for total in per_thread)
        assert seen == list(range(1, THREADS * ADDITIONS + 1)), "two additions had one sum"

    def test_compare_set(self, tmp_path: Path) -> None:
        """It sets on a match, and an absent key on an empty expectation only (as TCPStore)."""
        store = self.open(tmp_path)
        assert store.compare_set("k", "other", "v1") == b"other", "an absent key was not left"
        assert not store.check(["k"]), "an absent key was set on a wrong expectation"
        assert store.compare_set("k", "", "v1") == b"v1", "an absent key was not set"
        assert store.compare_set("k", "", "v2") == b"v1", "an existing key was set"
        assert store.compare_set("k", b"other", b"v2") == b"v1", "a wrong expectation matched"
        assert store.compare_set("k", b"v1", b"v2") == b"v2", "a right expectation did not match"
        assert store.get("k") == b"v2", "the value is not the one set"

    def test_wait_ends_when_all_keys_are_there(self, tmp_path: Path) -> None:
        """Present, late and repeated keys are all waited for."""
        store, other = self.open(tmp_path), self.open(tmp_path)
        store.set("a", b"")
        store.wait(["a"], SOON_S)
        store.wait([], SOON_S)
        with ThreadPoolExecutor(1) as pool:
            done = begin(pool, lambda: store.wait(["a", "key-b", "key-c", "key-b"], LATE_S))
            expect(StoreTimeoutError, lambda: store.wait(["key-b", "key-c"], SOON_S))
            other.set("key-b", b"")
            error = expect(StoreTimeoutError, lambda: store.wait(["key-b", "key-c"], SOON_S))
            was_done = done.done()
            other.set("key-c", b"")
            done.result(LATE_S)
        assert not was_done, "a wait ended when some of its keys had come"
        assert "key-c" in str(error), "the missing key is not named"
        assert "key-b" not in str(error), "a key is named that has come"

    def test_wait_times_out(self, tmp_path: Path) -> None:
        """The error names the keys that are missing, and no other."""
        store = self.open(tmp_path)
        store.set("present", b"")
        error = expect(StoreTimeoutError, lambda: store.wait(["present", "absent"], SOON_S))
        assert "absent" in str(error), "the missing key is not named"
        assert "present" not in str(error), "a key is named that was there"

    def test_check_delete_and_num_keys(self, tmp_path: Path) -> None:
        """They tell at once what is there."""
        store = self.open(tmp_path)
        before = store.num_keys()
        store.set("a", b"1")
        store.add("b", 1)
        assert store.num_keys() == before + 2, "keys are not counted"
        assert store.check(["a", "b"]), "present keys are not seen"
        assert not store.check(["a", "absent"]), "an absent key is seen"
        assert store.delete("a"), "a present key was not deleted"
        assert not store.delete("a"), "an absent key was deleted"
        assert not store.check(["a"]), "a deleted key is seen"
        assert store.num_keys() == before + 1, "a deleted key is counted"
        expect(StoreTimeoutError, lambda: store.get("a", SOON_S))


def begin(pool: ThreadPoolExecutor, call: Callable[[], Result]) -> Future[Result]:
    """Return the outcome of a `call` that blocks, once a thread is about to make it."""
    begun = Event()

    def make() -> Result:
        begun.set()
        return call()

    outcome = pool.submit(make)
    begun.wait(LATE_S)
    return outcome


def expect(error_type: type[Error], call: Callable[[], object]) -> Error:
    """Return the error of `error_type` that `call` raises; fail if it raises none."""
    try:
        answer = call()
    except error_type as error:
        return error
    raise AssertionError(f"returned {answer!r} where {error_type.__name__} is due")
