"""A coordinator's ledger in etcd: a log of commits and now and then a snapshot, behind a fence.

Below the prefix lie::

    seat                 who decides; the key's lease is the coordinator's
    log/N                commit number N: compressed changes, or how many parts they have; and
                         the seat under which it was written
    part/N/I             the parts of a commit that does not fit into one request
    snapshot             the number of the last commit that the newest snapshot holds, and how many
                         parts it has
    snapshot/N/I         its parts

Every write is a transaction that compares the seat: a coordinator that was deposed changes
nothing, however late its words arrive (R17). A commit creates `log/N`, which exists once: when its
reply is lost, the same is sent again, and what is there tells whether it was applied (R14). A
frozen member of etcd may apply what it was sent long after everybody has gone on: a snapshot
replaces only the one that it was made after.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import msgspec

from quorate.clock import Clock, SystemClock
from quorate.compression import compress, decompress
from quorate.errors import (
    RendezvousConnectionError,
    RendezvousDeposedError,
    RendezvousError,
    RendezvousLimitError,
    RendezvousStateError,
)
from quorate.etcd.client import EtcdClient
from quorate.etcd.messages import (
    Compare,
    Delete,
    KeyValue,
    Operation,
    Put,
    Range,
    Transaction,
    TransactionReply,
    absent,
    modified_at,
    operation,
    prefix_end,
)
from quorate.undecodable import UNDECODABLE

__all__ = ["EtcdLedger", "seat_key"]

logger = logging.getLogger("quorate.coordinator")

# etcd takes 1.5 MiB in one request, which the base64 of its gateway does not count.
PART_BYTES = 1024 * 1024

# A snapshot costs the live bytes: it is made when the log is this much longer, or has this many
# commits, which a new coordinator would have to read one by one.
SNAPSHOT_RATIO = 4
SNAPSHOT_BYTES_MIN = 4 * 1024 * 1024
SNAPSHOT_COMMITS = 2048

# How many log entries, of up to `PART_BYTES` each, are read at once.
PAGE = 16

# How long a write is sent again and again until it is answered; then the server is told, and
# repeats the commit for as long as it takes.
WRITE_TIMEOUT_S = 5.0
RETRY_S = 0.1

# What a commit or a snapshot may be before it is compressed: twice the stores of the largest run.
# Beyond it no snapshot is made, and the log grows until etcd has no space.
CONTENT_BYTES_MAX = 1024 * 1024 * 1024

_NUMBER = re.compile(b"[0-9a-f]{16}")

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, bytes | None]).decode


class _Entry(msgspec.Struct, array_like=True):
    """A commit: its bytes, or the number of its parts if there are several.

    `seat` is the revision at which its writer took the seat: commits of two writers may be alike,
    those of as many parts always would be. Coordinators of before it was added do not tell.
    """

    body: bytes
    parts: int = 0
    seat: int = 0


class _Snapshot(msgspec.Struct, array_like=True):
    number: int
    parts: int


Record = TypeVar("Record", _Entry, _Snapshot)


def seat_key(prefix: str) -> bytes:
    """Return the key of the seat."""
    return f"{prefix}/seat".encode()


class EtcdLedger:
    """The ledger of the coordinator that holds the seat. `EtcdSeat.take` makes it.

    Args:
        client: The way to etcd.
        prefix: Below what the keys lie, without a slash at the end.
        seat_revision: The revision at which this coordinator took the seat.
        is_held: Returns whether it is certain that the seat is still held.
        clock: The time.
    """

    def __init__(
        self,
        client: EtcdClient,
        prefix: str,
        seat_revision: int,
        is_held: Callable[[], bool],
        clock: Clock | None = None,
    ) -> None:
        self._client = client
        self._clock = clock or SystemClock()
        self._prefix = prefix
        self._fence = modified_at(seat_key(prefix), seat_revision)
        self._seat_revision = seat_revision
        self._is_held = is_held
        self._live: dict[str, bytes] = {}
        self._live_bytes = 0
        self._number = 0
        self._snapshot = _Snapshot(0, 0)
        self._log_bytes = 0
        self.commits = 0

    def load(self) -> dict[str, bytes]:
        """Return everything that is stored.

        Raises:
            RendezvousConnectionError: etcd does not answer; try again.
            RendezvousDeposedError: Another coordinator has the seat.
            RendezvousStateError: What is stored is not a ledger.
        """
        self._live, self._live_bytes, self._log_bytes = {}, 0, 0
        try:
            self._load_snapshot()
            self._load_log()
        except RendezvousStateError:
            # While it was read by one that was deposed, another one may have changed it.
            self._under_fence([])
            raise
        self._under_fence([])
        return dict(self._live)

    def commit(self, changes: Mapping[str, bytes | None], durable: bool = True) -> None:
        """Store all changes or none; etcd makes them durable in any case.

        Without changes it finds out whether the seat is still held.

        Raises:
            RendezvousDeposedError: Another coordinator has the seat; nothing was stored.
            RendezvousConnectionError: Nobody knows whether it was stored: call it again with the
                same changes.
        """
        del durable
        if not changes:
            self._under_fence([])
            return
        number = self._number + 1
        body = _compressed(dict(changes))
        entry = _Entry(body, 0, self._seat_revision)
        if len(body) > PART_BYTES:
            parts = self._write_parts("part", number, body)
            entry = _Entry(b"", parts, self._seat_revision)
        self._append(number, _encode(entry))
        self.commits += 1
        self._number = number
        self._log_bytes += len(body)
        self._apply(changes)
        if self._is_log_long():
            self._compact()

    def is_held(self) -> bool:
        """Return whether it is certain that nobody else writes."""
        return self._is_held()

    def close(self) -> None:
        """Do nothing: the seat ends the lease, and the client its connections."""

    def _append(self, number: int, value: bytes) -> None:
        """Create `log/NUMBER`, once, however often it has to be sent."""
        key = self._key(f"log/{number:016x}")
        put = Transaction(
            (self._fence, absent(key)),
            (operation(Put(key, value)),),
            (operation(Range(key)), operation(Range(seat_key(self._prefix)))),
        )
        reply = self._send(put)
        if reply.succeeded:
            return
        there, seat = (_only(answer.response_range) for answer in reply.responses)
        if there is not None and there.value == value:
            return
        if seat is None or seat.mod_revision != self._seat_revision:
            raise self._deposed(seat)
        raise RendezvousStateError(
            f"The log in etcd already has a commit {number} under {self._prefix} that this "
            f"coordinator did not write: something else writes there. Give it another prefix."
        )

    def _under_fence(self, steps: list[Operation]) -> None:
        """Do some steps, which may be done again, if the seat is still held."""
        check = operation(Range(seat_key(self._prefix)))
        reply = self._send(Transaction((self._fence,), tuple(steps), (check,)))
        if not reply.succeeded:
            raise self._deposed(_only(reply.responses[0].response_range))

    def _send(self, transaction: Transaction) -> TransactionReply:
        """Send a transaction, which may be applied several times, until it is answered."""
        deadline = self._clock.monotonic() + WRITE_TIMEOUT_S
        while (left_s := deadline - self._clock.monotonic()) > 0:
            try:
                outcome = self._client.try_transaction(transaction, left_s)
            except RendezvousLimitError as error:
                # Space can be made, and load passes.
                raise RendezvousConnectionError(str(error)) from error
            if isinstance(outcome, TransactionReply):
                return outcome
            self._clock.sleep(RETRY_S)
        raise RendezvousConnectionError(
            f"etcd did not answer a write within {WRITE_TIMEOUT_S:g} s: see whether a majority of "
            f"its members is alive and reachable."
        )

    def _write_parts(self, folder: str, number: int, body: bytes) -> int:
        """Write a body that is too large for one request; nothing counts before its head does."""
        parts = range(0, len(body), PART_BYTES)
        for index, start in enumerate(parts):
            part = Put(self._part_key(folder, number, index), body[start : start + PART_BYTES])
            self._under_fence([operation(part)])
        return len(parts)

    def _is_log_long(self) -> bool:
        if self._live_bytes > CONTENT_BYTES_MAX:
            return False
        limit = max(SNAPSHOT_BYTES_MIN, SNAPSHOT_RATIO * self._live_bytes)
        return self._log_bytes > limit or self._number - self._snapshot.number > SNAPSHOT_COMMITS

    def _compact(self) -> None:
        """Write a snapshot, and remove what it makes superfluous; to fail here costs nothing."""
        former, number = self._snapshot, self._number
        try:
            replaced = self._replaced_by_snapshot()
            body = _compressed(self._live)
            snapshot = _Snapshot(number, self._write_parts("snapshot", number, body))
            self._point_to(snapshot, replaced)
            self._snapshot, self._log_bytes = snapshot, 0
            self._under_fence([operation(each) for each in self._superfluous(number)])
        except RendezvousError as error:
            # The log stays as long as it is until the next try; a broken fence the next commit
            # finds out.
            logger.info("a snapshot of the runs was not completed: %s", error)
            self._log_bytes = 0 if self._snapshot is not former else self._log_bytes // 2

    def _replaced_by_snapshot(self) -> Compare:
        pointer = self._read(self._key("snapshot"))
        return modified_at(self._key("snapshot"), pointer.mod_revision if pointer else 0)

    def _point_to(self, snapshot: _Snapshot, replaced: Compare) -> None:
        """Let a snapshot count, in the place of the one that was there when it was begun.

        Raises:
            RendezvousDeposedError: Another coordinator has the seat.
            RendezvousStateError: An older snapshot that was held up has come in between.
        """
        key, value = self._key("snapshot"), _encode(snapshot)
        reads = (operation(Range(key)), operation(Range(seat_key(self._prefix))))
        put = (operation(Put(key, value)),)
        reply = self._send(Transaction((self._fence, replaced), put, reads))
        if reply.succeeded:
            return
        there, seat = (_only(answer.response_range) for answer in reply.responses)
        if there is not None and there.value == value:
            return
        if seat is None or seat.mod_revision != self._seat_revision:
            raise self._deposed(seat)
        raise RendezvousStateError("Another snapshot came in between; it is made again later.")

    def _superfluous(self, number: int) -> tuple[Delete, ...]:
        """Return what to remove once a snapshot holds everything up to a commit."""
        return (
            Delete(self._key("log/"), self._key(f"log/{number + 1:016x}")),
            Delete(self._key("part/"), self._part_key("part", number + 1, 0)),
            Delete(self._key("snapshot/"), self._part_key("snapshot", number, 0)),
        )

    def _load_snapshot(self) -> None:
        pointer = self._read(self._key("snapshot"))
        self._snapshot = _Snapshot(0, 0)
        if pointer is not None:
            self._snapshot = _decoded(pointer.value, _Snapshot, "snapshot")
            body = self._parts("snapshot", self._snapshot.number, self._snapshot.parts)
            self._apply(_changes(body, "snapshot"))
        self._number = self._snapshot.number

    def _load_log(self) -> None:
        for number, entry in self._log():
            if number != self._number + 1:
                raise self._missing(f"Commit {self._number + 1}")
            body = entry.body if not entry.parts else self._parts("part", number, entry.parts)
            self._apply(_changes(body, f"log/{number}"))
            self._log_bytes += len(body)
            self._number = number

    def _log(self) -> Iterator[tuple[int, _Entry]]:
        """Yield the commits since the snapshot, in order."""
        start = self._key(f"log/{self._snapshot.number + 1:016x}")
        end = prefix_end(self._key("log/"))
        while True:
            page = self._client.range(start, end, limit=PAGE)
            for pair in page.kvs:
                number = self._number_of(pair.key)
                yield number, _decoded(pair.value, _Entry, f"log/{number}")
            if len(page.kvs) < PAGE:
                return
            start = page.kvs[-1].key + b"\0"

    def _number_of(self, key: bytes) -> int:
        """Return the number of the commit that a key of the log is for."""
        digits = key.removeprefix(self._key("log/"))
        if not _NUMBER.fullmatch(digits):
            raise _damaged(key.decode(errors="replace"), "no commit has this key")
        return int(digits, 16)

    def _parts(self, folder: str, number: int, parts: int) -> bytes:
        found = []
        for index in range(parts):
            part = self._read(self._part_key(folder, number, index))
            if part is None:
                raise self._missing(f"A part of {folder} {number}")
            found.append(part.value)
        return b"".join(found)

    def _apply(self, changes: Mapping[str, bytes | None]) -> None:
        for key, value in changes.items():
            former = self._live.pop(key, None)
            if former is not None:
                self._live_bytes -= len(key) + len(former)
            if value is not None:
                self._live[key] = value
                self._live_bytes += len(key) + len(value)

    def _read(self, key: bytes) -> KeyValue | None:
        return _only(self._client.range(key))

    def _key(self, name: str) -> bytes:
        return f"{self._prefix}/{name}".encode()

    def _part_key(self, folder: str, number: int, index: int) -> bytes:
        return self._key(f"{folder}/{number:016x}/{index:04x}")

    def _missing(self, what: str) -> RendezvousStateError:
        return RendezvousStateError(
            f"{what} is missing in etcd under {self._prefix}: something else has removed it. Give "
            f"the coordinators another prefix; runs start anew."
        )

    def _deposed(self, seat: KeyValue | None) -> RendezvousDeposedError:
        by = "nobody" if seat is None else "another one"
        return RendezvousDeposedError(
            f"This coordinator has lost its seat in etcd ({by} holds it now): it was away for "
            f"longer than its lease. It stands by, and its agents move."
        )


def _only(reply: object) -> KeyValue | None:
    pairs: list[KeyValue] = getattr(reply, "kvs", [])
    return pairs[0] if pairs else None


def _compressed(changes: Mapping[str, bytes | None]) -> bytes:
    """Return the body of a commit or snapshot; nothing is written that nobody would read."""
    content = _encode(changes)
    if len(content) > CONTENT_BYTES_MAX:
        raise RendezvousLimitError(
            f"{len(content)} bytes are to be stored in etcd at once, where {CONTENT_BYTES_MAX} may "
            f"be: give the coordinators fewer runs, or the runs less to store."
        )
    return compress(content)


def _changes(body: bytes, what: str) -> dict[str, bytes | None]:
    try:
        return _decode(decompress(body, CONTENT_BYTES_MAX))
    except (ValueError, *UNDECODABLE) as error:
        raise _damaged(what, error) from error


def _decoded(value: bytes, kind: type[Record], what: str) -> Record:
    try:
        return msgspec.msgpack.decode(value, type=kind)
    except UNDECODABLE as error:
        raise _damaged(what, error) from error


def _damaged(what: str, error: object) -> RendezvousStateError:
    return RendezvousStateError(
        f"What is stored in etcd as '{what}' is not a coordinator's ledger ({error}): something "
        f"else writes there. Give the coordinators another prefix; runs start anew."
    )
