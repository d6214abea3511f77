"""A store in etcd: a key for each key, watches instead of polling, writes that happen once."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

from quorate.clock import Clock, SystemClock
from quorate.etcd.client import EtcdClient
from quorate.etcd.messages import (
    Delete,
    KeyValue,
    Put,
    Range,
    absent,
    modified_at,
    operation,
    prefix_end,
)
from quorate.etcd.receipt import Applied, Refused
from quorate.etcd.writer import Writer
from quorate.stores.base import Value, timeout_error, to_bytes
from quorate.stores.keyspace import Keyspace, Mutation

__all__ = ["EtcdStore"]

# torch's default for its stores.
TIMEOUT_S = 300.0

# etcd takes 128 steps in one transaction.
STEPS_MAX = 128

# What a watch cannot tell, such as a cluster that was restored from a backup, a look tells.
LOOK_AGAIN_S = 30.0

# Whoever loses a compare-and-set stays back for a random time up to this.
BACKOFF_MAX_S = 0.05

Result = TypeVar("Result")


class EtcdStore:
    """A `Store` whose keys are keys of etcd; see there.

    Each write happens once, also where its reply was lost (R14), at the cost of its own key. Keys
    stay until they are deleted.

    Args:
        client: The way to etcd.
        prefix: Below what the keys are, ``<prefix>/keys/<key>``; the store uses all below it.
        timeout_s: How long `get` and `wait` block unless they are told, in seconds.
        clock: Gives the time.
    """

    def __init__(
        self,
        client: EtcdClient,
        prefix: str,
        timeout_s: float = TIMEOUT_S,
        clock: Clock | None = None,
    ) -> None:
        self._client = client
        self._prefix = f"{prefix}/keys/".encode()
        self._timeout_s = timeout_s
        self._clock = clock or SystemClock()
        self._writer = Writer(client, f"{prefix}/writers/".encode(), clock=self._clock)

    def set(self, key: str, value: Value) -> None:
        """Give `key` a value, whatever it held before."""
        self._writer.write([], [operation(Put(self._key(key), to_bytes(value)))])

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
        return self._change(key, lambda keys: keys.add(key, amount))

    def compare_set(self, key: str, expected: Value, desired: Value) -> bytes:
        """Replace the value of `key` if it is `expected`; return the value after the call."""
        return self._change(
            key, lambda keys: keys.compare_set(key, to_bytes(expected), to_bytes(desired))
        )

    def wait(self, keys: Sequence[str], timeout_s: float | None = None) -> None:
        """Return once all of `keys` are there.

        Raises:
            StoreTimeoutError: Some were missing for `timeout_s` seconds.
        """
        self._await(keys, timeout_s)

    def check(self, keys: Sequence[str]) -> bool:
        """Return at once whether all of `keys` are there."""
        return len(self._read(keys)[0]) == len(set(keys))

    def delete(self, key: str) -> bool:
        """Remove `key`; return whether it was there."""
        return self._change(key, lambda keys: keys.delete(key))

    def num_keys(self) -> int:
        """Return how many keys there are."""
        end = prefix_end(self._prefix)
        return self._client.range(self._prefix, end, count_only=True).count

    def _key(self, key: str) -> bytes:
        return self._prefix + key.encode()

    def _read(self, keys: Sequence[str]) -> tuple[dict[str, bytes], int]:
        """Return those of `keys` that are there, and a revision since when they were."""
        values: dict[str, bytes] = {}
        revision = 0
        distinct = list(dict.fromkeys(keys))
        for start in range(0, len(distinct), STEPS_MAX):
            part = distinct[start : start + STEPS_MAX]
            reply = self._client.range_each([self._key(key) for key in part])
            revision = revision or reply.header.revision
            there = {kv.key: kv.value for kv in reply.kvs}
            values |= {key: there[self._key(key)] for key in part if self._key(key) in there}
        return values, revision

    def _await(self, keys: Sequence[str], timeout_s: float | None) -> dict[str, bytes]:
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        deadline = self._clock.monotonic() + limit_s
        while True:
            values, revision = self._read(keys)
            missing = [key for key in keys if key not in values]
            if not missing:
                return values
            left_s = deadline - self._clock.monotonic()
            if left_s <= 0:
                raise timeout_error(missing, limit_s)
            with self._client.watch(self._key(missing[0]), revision + 1) as watch:
                watch.next(min(left_s, LOOK_AGAIN_S))

    def _change(self, key: str, operation_on: Callable[[Keyspace], Mutation[Result]]) -> Result:
        found = self._client.range(self._key(key)).kvs
        while True:
            current = found[0] if found else None
            mutation = operation_on(Keyspace({} if current is None else {key: current.value}))
            if not mutation.changes:
                return mutation.result
            outcome = self._replace(self._key(key), current, mutation.changes[key])
            if isinstance(outcome, Applied):
                return mutation.result
            found = outcome.found[0].kvs
            self._clock.sleep(random.uniform(0, BACKOFF_MAX_S))

    def _replace(
        self, key: bytes, current: KeyValue | None, value: bytes | None
    ) -> Applied | Refused:
        """Write a key, or delete it, if it still is as it was read; else read it again."""
        condition = absent(key) if current is None else modified_at(key, current.mod_revision)
        step = Delete(key) if value is None else Put(key, value)
        return self._writer.write([condition], [operation(step)], [operation(Range(key))])
