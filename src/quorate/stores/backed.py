"""A store in a rendezvous backend: all its keys and values are the backend's one state."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from quorate.backends.base import RendezvousBackend, Token
from quorate.clock import Clock, SystemClock
from quorate.errors import RendezvousStateError
from quorate.stores.base import Value, timeout_error, to_bytes
from quorate.stores.keyspace import Keyspace, Mutation
from quorate.undecodable import UNDECODABLE

__all__ = ["BackedStore"]

# torch's default for its stores.
TIMEOUT_S = 300.0

# A key that is not there is looked for this often, where the backend cannot watch.
POLL_S = 0.1

# Whoever loses a compare-and-set stays back for a random time up to this.
BACKOFF_MAX_S = 0.05

Result = TypeVar("Result")

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(dict[str, bytes])


class BackedStore:
    """A `Store` for a few small keys, shared by whoever shares the backend; see there.

    Each write costs all keys. Keys are never collected. A RendezvousConnectionError leaves it
    open whether a write has happened.

    Args:
        backend: Where the keys are kept; the store uses all of it.
        timeout_s: How long `get` and `wait` block unless they are told, in seconds.
        clock: Gives the time.
    """

    def __init__(
        self,
        backend: RendezvousBackend,
        timeout_s: float = TIMEOUT_S,
        clock: Clock | None = None,
    ) -> None:
        self._backend = backend
        self._timeout_s = timeout_s
        self._clock = clock or SystemClock()

    def set(self, key: str, value: Value) -> None:
        """Give `key` a value, whatever it held before."""
        self._change(lambda keys: keys.set(key, to_bytes(value)))

    def get(self, key: str, timeout_s: float | None = None) -> bytes:
        """Return the value of `key`, once it is there.

        Raises:
            StoreTimeoutError: It did not appear within `timeout_s` seconds.
        """
        return self._await([key], timeout_s)[key]

    def add(self, key: str, amount: int) -> int:
        """Add `amount` to the number at `key`, 0 if it is absent, and return the sum.

        Raises:
            RendezvousStateError: The key holds something else than a number.
            RendezvousLimitError: The sum does not fit into 64 bits.
        """
        return self._change(lambda keys: keys.add(key, amount))

    def compare_set(self, key: str, expected: Value, desired: Value) -> bytes:
        """Replace the value of `key` if it is `expected`; return the value after the call."""
        return self._change(
            lambda keys: keys.compare_set(key, to_bytes(expected), to_bytes(desired))
        )

    def wait(self, keys: Sequence[str], timeout_s: float | None = None) -> None:
        """Return once all of `keys` are there.

        Raises:
            StoreTimeoutError: Some were missing for `timeout_s` seconds.
        """
        self._await(keys, timeout_s)

    def check(self, keys: Sequence[str]) -> bool:
        """Return at once whether all of `keys` are there."""
        return self._read()[0].check(keys)

    def delete(self, key: str) -> bool:
        """Remove `key`; return whether it was there."""
        return self._change(lambda keys: keys.delete(key))

    def num_keys(self) -> int:
        """Return how many keys there are."""
        return self._read()[0].num_keys()

    def _read(self) -> tuple[Keyspace, Token | None]:
        stored = self._backend.get_state()
        if stored is None:
            return Keyspace(), None
        try:
            return Keyspace(_decoder.decode(stored[0])), stored[1]
        except UNDECODABLE as error:
            raise RendezvousStateError(
                f"What the {self._backend.name} backend holds is not a store ({error}): something "
                f"else was written in its place. Use another run id, or remove it."
            ) from error

    def _change(self, operation: Callable[[Keyspace], Mutation[Result]]) -> Result:
        while True:
            keys, token = self._read()
            mutation = operation(keys)
            if not mutation.changes:
                return mutation.result
            answer = self._backend.set_state(_encoder.encode(keys.snapshot()), token)
            if answer is not None and answer[2]:
                return mutation.result
            self._clock.sleep(random.uniform(0, BACKOFF_MAX_S))

    def _await(self, wanted: Sequence[str], timeout_s: float | None) -> dict[str, bytes]:
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        deadline = self._clock.monotonic() + limit_s
        while True:
            keys, token = self._read()
            missing = keys.missing(wanted)
            if not missing:
                return keys.snapshot()
            left_s = deadline - self._clock.monotonic()
            if left_s <= 0:
                raise timeout_error(missing, limit_s)
            if self._backend.can_watch:
                self._backend.wait_for_change(token, left_s)
            else:
                self._clock.sleep(min(POLL_S, left_s))
