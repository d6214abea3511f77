"""One namespace of keys and values, and who waits for which of them; it never blocks."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Generic, TypeVar

import msgspec

from quorate.errors import RendezvousLimitError, RendezvousStateError

__all__ = ["NUMBER_MAX", "NUMBER_MIN", "Keyspace", "Mutation", "entry_bytes"]

# Numbers are torch's: signed, 64 bits.
NUMBER_MIN = -(2**63)
NUMBER_MAX = 2**63 - 1
NUMBER_DIGITS_MAX = 19

Result = TypeVar("Result")


class Mutation(msgspec.Struct, Generic[Result], frozen=True):
    """What one operation answered, wrote and woke.

    Attributes:
        result: The answer for the one who asked.
        changes: Each key that was written with its new bytes, None where it was deleted: what a
            journal has to hold before anyone is answered (R14). Empty if nothing was written.
        woken: The waiters whose keys are now all present, first parked first. They are not
            parked any more.
    """

    result: Result
    changes: dict[str, bytes | None]
    woken: tuple[Hashable, ...] = ()


class Keyspace:
    """Keys, values and parked waiters of one namespace, without a clock, a lock or a thread.

    Each operation is complete when it returns: call it, store `Mutation.changes`, then answer
    the caller and the woken waiters. A mutation costs the number of waiters of its own key.

    Args:
        values: What the namespace holds already, as loaded from a journal.
    """

    def __init__(self, values: Mapping[str, bytes] | None = None) -> None:
        self._values: dict[str, bytes] = dict(values or {})
        self._bytes_used = sum(entry_bytes(key, value) for key, value in self._values.items())
        # Every key that a waiter named, present or not: a key may be deleted while another of
        # the same waiter is still missing.
        self._waiters_of: dict[str, dict[Hashable, None]] = {}
        self._keys_of: dict[Hashable, tuple[str, ...]] = {}
        self._missing_count: dict[Hashable, int] = {}

    @property
    def bytes_used(self) -> int:
        """Bytes of all keys (as UTF-8) and values together."""
        return self._bytes_used

    @property
    def waiters(self) -> int:
        """How many waiters are parked."""
        return len(self._keys_of)

    def num_keys(self) -> int:
        """Return how many keys are present."""
        return len(self._values)

    def snapshot(self) -> dict[str, bytes]:
        """Return a copy of all keys and values."""
        return dict(self._values)

    def get(self, key: str) -> bytes | None:
        """Return the value of `key`, None if it is absent."""
        return self._values.get(key)

    def check(self, keys: Iterable[str]) -> bool:
        """Return whether all of `keys` are present."""
        return all(key in self._values for key in keys)

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Return those of `keys` that are absent, in the order given."""
        return [key for key in keys if key not in self._values]

    def set(self, key: str, value: bytes) -> Mutation[None]:
        """Give `key` the bytes `value`, whatever it held before."""
        return Mutation(None, {key: value}, self._put(key, value))

    def add(self, key: str, amount: int) -> Mutation[int]:
        """Add `amount` to the decimal number at `key`; an absent key counts as 0.

        Returns:
            The mutation, with the sum as its result; the key holds it as decimal text.

        Raises:
            RendezvousStateError: The key holds something that is not a decimal number.
            RendezvousLimitError: The sum does not fit into 64 bits.
        """
        total = parse_number(key, self._values.get(key, b"0")) + amount
        if not NUMBER_MIN <= total <= NUMBER_MAX:
            raise RendezvousLimitError(
                f"Adding {amount} to key {key!r} leaves the range of a signed 64-bit number; "
                "nothing was changed. Set the key to a smaller number first."
            )
        value = b"%d" % total
        return Mutation(total, {key: value}, self._put(key, value))

    def compare_set(self, key: str, expected: bytes, desired: bytes) -> Mutation[bytes]:
        """Replace the value of `key` by `desired` if it is `expected`.

        An absent key is set if `expected` is empty, and stays absent otherwise (as torch's
        TCPStore does it).

        Returns:
            The mutation, with the value after the call as its result: `desired` if it was set,
            the value that is there if not, `expected` if the key stays absent.
        """
        current = self._values.get(key)
        if current is None and expected:
            return Mutation(expected, {})
        if current is not None and current != expected:
            return Mutation(current, {})
        return Mutation(desired, {key: desired}, self._put(key, desired))

    def delete(self, key: str) -> Mutation[bool]:
        """Remove `key`; the result says whether it was there."""
        value = self._values.pop(key, None)
        if value is None:
            return Mutation(False, {})
        self._bytes_used -= entry_bytes(key, value)
        for waiter in self._waiters_of.get(key, ()):
            self._missing_count[waiter] += 1
        return Mutation(True, {key: None})

    def park(self, waiter: Hashable, keys: Iterable[str]) -> bool:
        """Let `waiter` wait until all of `keys` are present at one moment.

        Args:
            waiter: What a later `Mutation.woken` will name; parked at most once at a time.
            keys: The keys that it needs.

        Returns:
            True if it is parked now; False if all keys are present already: answer at once.

        Raises:
            ValueError: The waiter is parked already; `unpark` it first.
        """
        if waiter in self._keys_of:
            raise ValueError(f"The waiter {waiter!r} is parked already.")
        distinct = tuple(dict.fromkeys(keys))
        missing_count = len(self.missing(distinct))
        if not missing_count:
            return False
        self._keys_of[waiter] = distinct
        self._missing_count[waiter] = missing_count
        for key in distinct:
            self._waiters_of.setdefault(key, {})[waiter] = None
        return True

    def unpark(self, waiter: Hashable) -> bool:
        """Forget `waiter`; return whether it was parked."""
        keys = self._keys_of.pop(waiter, None)
        if keys is None:
            return False
        del self._missing_count[waiter]
        for key in keys:
            waiters = self._waiters_of[key]
            del waiters[waiter]
            if not waiters:
                del self._waiters_of[key]
        return True

    def awaited(self, waiter: Hashable) -> list[str]:
        """Return the keys that `waiter` still misses, none if it is not parked (R16)."""
        return self.missing(self._keys_of.get(waiter, ()))

    def _put(self, key: str, value: bytes) -> tuple[Hashable, ...]:
        previous = self._values.get(key)
        self._values[key] = value
        if previous is not None:
            self._bytes_used += len(value) - len(previous)
            return ()
        self._bytes_used += entry_bytes(key, value)
        return self._wake(key)

    def _wake(self, key: str) -> tuple[Hashable, ...]:
        waiters = self._waiters_of.get(key)
        if not waiters:
            return ()
        for waiter in waiters:
            self._missing_count[waiter] -= 1
        woken = tuple(waiter for waiter in waiters if not self._missing_count[waiter])
        for waiter in woken:
            self.unpark(waiter)
        return woken


def entry_bytes(key: str, value: bytes) -> int:
    """Return the bytes that one entry counts for: its key as UTF-8 and its value."""
    return (len(key) if key.isascii() else len(key.encode())) + len(value)


def parse_number(key: str, value: bytes) -> int:
    """Return the decimal number that `value` spells; `key` is for the message.

    Raises:
        RendezvousStateError: It is not a number of at most 19 digits with an optional minus.
    """
    digits = value.removeprefix(b"-")
    if not digits.isdigit() or len(digits) > NUMBER_DIGITS_MAX:
        raise RendezvousStateError(
            f"Cannot add to key {key!r}: it holds {value[:40]!r}, which is not a decimal number. "
            "Set or delete the key first."
        )
    return int(value)
