"""The key-value stores of one run's rounds, as a coordinator holds them. Pure.

Each round has a store of its own, named by the world's epoch and round, so that nothing of an old
world is ever mistaken for the new one's. The last two are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from quorate.coordinator.ledgers.records import EntryKey, StoreResult, entry_key, result_key
from quorate.coordinator.runs.outbox import Outbox
from quorate.errors import (
    RendezvousError,
    RendezvousLimitError,
    RendezvousStateError,
    StoreTimeoutError,
)
from quorate.stores.keyspace import Keyspace, Mutation, entry_bytes
from quorate.wire.messages import (
    AddNumber,
    Answer,
    CheckKeys,
    CompareSet,
    CountKeys,
    DeleteKey,
    Flag,
    GetValue,
    Number,
    SetValue,
    StoreChange,
    StoreRequest,
    Value,
    WaitKeys,
    encode,
    failure,
)

__all__ = ["ROUNDS_KEPT", "RunStore"]

# A worker of the last round may still be finishing a read while the next round begins.
ROUNDS_KEPT = 2

# All stores of one run together; a store is for addresses, barriers and small tensors.
STORE_BYTES_MAX = 512 * 1024 * 1024
KEY_CHARACTERS_MAX = 1024
KEYS_MAX = 1_000_000

# Requests that wait for a key, of one connection and of one run; each worker of the largest runs
# waits for a few.
PARKED_BY_CONNECTION_MAX = 1024
PARKED_MAX = 250_000

# The keys that they name, of all of them together.
PARKED_BYTES_MAX = 64 * 1024 * 1024

Space = tuple[str, int]
_answer_decoder = msgspec.msgpack.Decoder(Answer)


class _Waiter(msgspec.Struct, frozen=True):
    connection: int
    request_id: int


class RunStore:
    """Carries out store requests, and holds those that wait for a key.

    Args:
        run_id: The run.
        outbox: Where the answers go.

    Attributes:
        changes: What has to be stored before anyone is answered; `None` where it is deleted.
        written_bytes: How much went into `changes` so far, keys and deletions included.
        dropped: Keys of the ledger that may be deleted at any time, if nothing new lies there.
    """

    def __init__(self, run_id: str, outbox: Outbox) -> None:
        self._run_id = run_id
        self._outbox = outbox
        self._spaces: dict[Space, Keyspace] = {}
        self._results: dict[str, StoreResult] = {}
        self._parked: dict[_Waiter, tuple[Space, GetValue | WaitKeys]] = {}
        self._parked_by: dict[int, set[_Waiter]] = {}
        self._parked_bytes = 0
        self._result_bytes = 0
        self._newest: Space | None = None
        self.changes: dict[str, bytes | None] = {}
        self.written_bytes = 0
        self.dropped: list[str] = []

    @property
    def bytes_used(self) -> int:
        """Return the bytes of all keys and values."""
        return sum(space.bytes_used for space in self._spaces.values())

    @property
    def keys(self) -> int:
        """Return the number of keys in all spaces."""
        return sum(space.num_keys() for space in self._spaces.values())

    @property
    def held(self) -> int:
        """Return how many requests wait for a key."""
        return len(self._parked)

    def load(self, entries: Mapping[EntryKey, bytes]) -> None:
        """Take over what a ledger held of this run."""
        values: dict[Space, dict[str, bytes]] = {}
        for key, value in entries.items():
            if key.space is not None:
                values.setdefault(key.space, {})[key.name] = value
            else:
                result = msgspec.msgpack.decode(value, type=StoreResult)
                _answer_decoder.decode(result.answer)
                self._remember(key.name, result)
                # Whoever has emptied the store of a round may still ask it something.
                values.setdefault(result.space, {})
        self._spaces = {space: Keyspace(content) for space, content in values.items()}

    def open(self, newest: Space) -> None:
        """Open the store of a round that was completed, and drop those that are too old."""
        self._newest = newest
        self._spaces.setdefault(newest, Keyspace())
        oldest = newest[1] - ROUNDS_KEPT + 1
        for space in list(self._spaces):
            if space[0] != newest[0] or space[1] < oldest:
                self._drop(space)

    def clear(self) -> None:
        """Drop all stores: the run has no world yet, and what was loaded is of a former life."""
        for space in list(self._spaces):
            self._drop(space)

    def handle(self, connection: int, session: str, request: StoreRequest) -> float | None:
        """Carry out a request, or hold it.

        Returns:
            For a request that is held, in how many seconds to call `expire` for it.
        """
        try:
            _require_modest(request)
            keyspace = self._space(request.space)
            if isinstance(request, StoreChange):
                self._change(connection, session, request, keyspace)
                return None
            if isinstance(request, GetValue | WaitKeys):
                return self._hold(connection, request, keyspace)
            self._outbox.send(connection, _look(request, keyspace))
        except RendezvousError as error:
            self._outbox.send(connection, failure(request.id, error))
        return None

    def is_held(self, connection: int, request_id: int) -> bool:
        """Return whether a request waits for a key."""
        return _Waiter(connection, request_id) in self._parked

    def expire(self, connection: int, request_id: int) -> None:
        """Give up on a held request, if it still is held."""
        waiter = _Waiter(connection, request_id)
        held = self._parked.get(waiter)
        if held is None:
            return
        space, request = held
        missing = self._spaces[space].awaited(waiter)
        self._release(waiter)
        names = ", ".join(repr(key) for key in missing[:3])
        error = StoreTimeoutError(
            f"The key(s) {names} did not appear in the store of round {space[1]} within "
            f"{request.timeout_s:g} s ({len(missing)} missing): another worker is late or gone."
        )
        self._outbox.send(connection, failure(request_id, error))

    def disconnect(self, connection: int) -> None:
        """Forget what a connection waits for; its session asks again when it is back."""
        for waiter in list(self._parked_by.get(connection, ())):
            self._release(waiter)

    def all_keys(self) -> Iterator[str]:
        """Return the ledger's keys of everything that is stored, to delete them."""
        for space, keyspace in self._spaces.items():
            for key in keyspace.snapshot():
                yield entry_key(self._run_id, space, key)
        for session in self._results:
            yield result_key(self._run_id, session)

    def _space(self, space: Space) -> Keyspace:
        keyspace = self._spaces.get(space)
        if keyspace is None:
            newest = "no round is complete yet" if self._newest is None else f"{self._newest[1]}"
            raise RendezvousStateError(
                f"There is no store of round {space[1]} (epoch {space[0]}); the newest is of round "
                f"{newest}. The worker that asks belongs to a world that has ended."
            )
        return keyspace

    def _change(
        self,
        connection: int,
        session: str,
        request: StoreChange,
        keyspace: Keyspace,
    ) -> None:
        """Carry out a change once, however often it is asked for (R14)."""
        last = self._results.get(session)
        if last is not None and request.id <= last.request_id:
            if request.id == last.request_id:
                self._outbox.send(connection, _answer_decoder.decode(last.answer))
            return
        self._require_room(session, request, keyspace)
        answer, mutation = _mutate(request, keyspace)
        for key, value in mutation.changes.items():
            self._write(entry_key(self._run_id, request.space, key), value)
        result = StoreResult(request.id, request.space, encode(answer))
        self._remember(session, result)
        self._write(result_key(self._run_id, session), msgspec.msgpack.encode(result))
        self._outbox.send(connection, answer)
        for waiter in mutation.woken:
            self._answer_held(waiter)

    def _write(self, key: str, value: bytes | None) -> None:
        self.changes[key] = value
        self.written_bytes += entry_bytes(key, value or b"")

    def _remember(self, session: str, result: StoreResult) -> None:
        self._forget(session)
        self._results[session] = result
        self._result_bytes += len(session) + len(result.answer)

    def _forget(self, session: str) -> None:
        former = self._results.pop(session, None)
        if former is not None:
            self._result_bytes -= len(session) + len(former.answer)

    def _require_room(self, session: str, request: StoreChange, keyspace: Keyspace) -> None:
        # What is remembered of a session that deletes takes the place of its last result, or of a
        # key: there may be only so many.
        if isinstance(request, DeleteKey) and (
            session in self._results or keyspace.check((request.key,))
        ):
            return
        used = self.bytes_used + self._result_bytes
        if used > STORE_BYTES_MAX:
            raise RendezvousLimitError(
                f"The stores of the run '{self._run_id}' hold {used} bytes, last answers included, "
                f"more than {STORE_BYTES_MAX}: delete keys that are no longer needed."
            )
        adds_key = not isinstance(request, DeleteKey) and not keyspace.check((request.key,))
        if self.keys >= KEYS_MAX and adds_key:
            raise RendezvousLimitError(
                f"The stores of the run '{self._run_id}' hold {KEYS_MAX} keys, and may hold no "
                f"more: delete keys that are no longer needed."
            )

    def _require_patience(self, connection: int) -> None:
        own = len(self._parked_by.get(connection, ()))
        if own >= PARKED_BY_CONNECTION_MAX:
            raise RendezvousLimitError(
                f"This worker waits for keys {own} times already, and may not more often: wait for "
                f"several keys in one call."
            )
        if len(self._parked) >= PARKED_MAX or self._parked_bytes > PARKED_BYTES_MAX:
            raise RendezvousLimitError(
                f"{len(self._parked)} requests of the run '{self._run_id}' wait for keys of "
                f"{self._parked_bytes} bytes together; {PARKED_MAX} may, for {PARKED_BYTES_MAX} "
                f"bytes: wait for fewer keys."
            )

    def _hold(
        self, connection: int, request: GetValue | WaitKeys, keyspace: Keyspace
    ) -> float | None:
        waiter = _Waiter(connection, request.id)
        self._release(waiter)
        keys = _keys_of(request)
        if keyspace.check(keys):
            self._outbox.send(connection, _answer_present(request, keyspace))
            return None
        self._require_patience(connection)
        keyspace.park(waiter, keys)
        self._parked_bytes += _bytes_of(keys)
        self._parked[waiter] = (request.space, request)
        self._parked_by.setdefault(connection, set()).add(waiter)
        return request.timeout_s

    def _answer_held(self, waiter: object) -> None:
        assert isinstance(waiter, _Waiter)
        space, request = self._parked[waiter]
        self._release(waiter)
        self._outbox.send(waiter.connection, _answer_present(request, self._spaces[space]))

    def _release(self, waiter: _Waiter) -> None:
        held = self._parked.pop(waiter, None)
        if held is None:
            return
        self._parked_bytes -= _bytes_of(_keys_of(held[1]))
        self._spaces[held[0]].unpark(waiter)
        waiters = self._parked_by[waiter.connection]
        waiters.discard(waiter)
        if not waiters:
            del self._parked_by[waiter.connection]

    def _drop(self, space: Space) -> None:
        for waiter, (held_space, _) in list(self._parked.items()):
            if held_space == space:
                self._release(waiter)
                error = RendezvousStateError(
                    f"The store of round {space[1]} was removed: the run has moved on."
                )
                self._outbox.send(waiter.connection, failure(waiter.request_id, error))
        for key in self._spaces.pop(space).snapshot():
            self._discard(entry_key(self._run_id, space, key))
        for session, result in list(self._results.items()):
            if result.space == space:
                self._forget(session)
                self._discard(result_key(self._run_id, session))

    def _discard(self, key: str) -> None:
        self.changes.pop(key, None)
        self.dropped.append(key)


def _require_modest(request: StoreRequest) -> None:
    keys = _keys_of(request)
    longest = max(map(len, keys), default=0)
    if longest > KEY_CHARACTERS_MAX:
        raise RendezvousLimitError(
            f"A key of {longest} characters is refused: {KEY_CHARACTERS_MAX} is the most. Use a "
            f"shorter key."
        )


def _keys_of(request: StoreRequest) -> tuple[str, ...]:
    if isinstance(request, CountKeys):
        return ()
    return request.keys if isinstance(request, WaitKeys | CheckKeys) else (request.key,)


def _bytes_of(keys: tuple[str, ...]) -> int:
    return sum(map(len, keys))


def _mutate(request: StoreChange, keyspace: Keyspace) -> tuple[Answer, Mutation[Any]]:
    mutation: Mutation[Any]
    if isinstance(request, SetValue):
        mutation = keyspace.set(request.key, request.value)
        return Flag(request.id, True), mutation
    if isinstance(request, AddNumber):
        added = keyspace.add(request.key, request.amount)
        return Number(request.id, added.result), added
    if isinstance(request, CompareSet):
        compared = keyspace.compare_set(request.key, request.expected, request.desired)
        return Value(request.id, compared.result), compared
    deleted = keyspace.delete(request.key)
    return Flag(request.id, deleted.result), deleted


def _look(request: CheckKeys | CountKeys, keyspace: Keyspace) -> Answer:
    if isinstance(request, CheckKeys):
        return Flag(request.id, keyspace.check(request.keys))
    return Number(request.id, keyspace.num_keys())


def _answer_present(request: GetValue | WaitKeys, keyspace: Keyspace) -> Answer:
    if isinstance(request, GetValue):
        value = keyspace.get(request.key)
        assert value is not None
        return Value(request.id, value)
    return Flag(request.id, True)
