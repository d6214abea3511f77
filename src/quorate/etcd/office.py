"""The work of who holds the seat: keys to the mailroom, the engine's batches and answers to etcd.

One thread does all of it. While a write to etcd stalls it waits, and so do the windows of all
nodes (R9). Everything is written in transactions that compare the seat: one who was deposed
tells nobody anything (R17), and nothing is told before it is stored (R14).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence

from quorate.clock import Clock
from quorate.coordinator.chronicle import tell
from quorate.coordinator.engine import Batch, Engine
from quorate.coordinator.ledgers.etcd import EtcdLedger, seat_key
from quorate.core.state import WorldName
from quorate.errors import (
    RendezvousConnectionError,
    RendezvousDeposedError,
    RendezvousError,
    RendezvousLimitError,
)
from quorate.etcd.client import EtcdClient, LeaseLost, ReplyLost
from quorate.etcd.letters import Keys
from quorate.etcd.mailroom import Answer, Mailroom, NodeKey
from quorate.etcd.messages import (
    Delete,
    KeyValue,
    Operation,
    Put,
    Transaction,
    modified_at,
    operation,
    prefix_end,
)
from quorate.etcd.watch import Changes

__all__ = ["TICK_S", "Office"]

logger = logging.getLogger("quorate.etcd")

TICK_S = 0.25
RETRY_S = 0.5

# What etcd takes at once: 128 steps by default, and 1.5 MiB.
STEPS_MAX = 100
ANSWERS_BYTES_MAX = 512 * 1024

PAGE = 500
WRITE_TIMEOUT_S = 5.0


class Office:
    """What one who holds the seat does, from the first look at the keys to the last answer.

    Args:
        client: The way to etcd.
        keys: Where the run lies.
        run_id: The run.
        ledger: What must not be forgotten, loaded.
        engine: Decides, from what the ledger holds.
        term: The revision at which the seat was taken.
        closed: Set once this node gives the seat up.
        clock: The time.
    """

    def __init__(
        self,
        client: EtcdClient,
        keys: Keys,
        run_id: str,
        ledger: EtcdLedger,
        engine: Engine,
        term: int,
        closed: threading.Event,
        clock: Clock,
    ) -> None:
        self._client = client
        self._keys = keys
        self._run_id = run_id
        self._ledger = ledger
        self._engine = engine
        self._mailroom = Mailroom(engine, run_id, term)
        self._fence = modified_at(seat_key(keys.prefix), term)
        self._closed = closed
        self._clock = clock
        self._ticked_s = clock.monotonic()
        self._swept: WorldName | None = None

    def read(self) -> int:
        """Read all nodes' keys, and return the revision since when changes count."""
        start, end = self._keys.nodes, prefix_end(self._keys.nodes)
        revision = 0
        found: dict[str, NodeKey] = {}
        while True:
            page = self._client.range(start, end, limit=PAGE)
            revision = revision or page.header.revision
            found |= {self._name(pair): _node_key(pair) for pair in page.kvs}
            if len(page.kvs) < PAGE:
                self._mailroom.replace(found)
                return revision
            start = page.kvs[-1].key + b"\0"

    def turn(self, news: Sequence[Changes | RendezvousError]) -> None:
        """Take what has changed, let time pass, and answer.

        Raises:
            RendezvousDeposedError: Another node has the seat.
            RendezvousError: The keys cannot be read any more.
        """
        for changes in news:
            if isinstance(changes, RendezvousError):
                raise changes
            self._take(changes)
        now_s = self._clock.monotonic()
        if now_s - self._ticked_s >= TICK_S:
            self._ticked_s = now_s
            self._tick()
        self._flush()

    def _tick(self) -> None:
        held = self._ledger.is_held()
        self._mailroom.tick(certain=held)
        if not held:
            # An empty write finds out who has the seat.
            self._insist(lambda: self._ledger.commit({}))

    def _take(self, changes: Changes) -> None:
        if changes.is_gap:
            self.read()
        for event in changes.events:
            if event.type == "PUT":
                self._mailroom.put(self._name(event.kv), _node_key(event.kv))
            else:
                self._mailroom.remove(self._name(event.kv))

    def _flush(self) -> None:
        while self._engine.has_chores:
            self._engine.carry_on()
        while (batch := self._engine.take_batch()) is not None:
            self._mailroom.deliver(self._engine.take_sends())
            self._store(batch)
        self._mailroom.deliver(self._engine.take_sends())
        for text in self._mailroom.take_events():
            logger.warning("run %s: %s", self._run_id, text)
        tell(logger, self._engine.take_events())
        self._sweep_stores()
        for answers in _bundles(self._mailroom.take_answers()):
            self._tell(answers)

    def _store(self, batch: Batch) -> None:
        if self._insist(lambda: self._ledger.commit(batch.changes, batch.durable)):
            self._engine.settle(batch)
        else:
            raise RendezvousConnectionError("This node gives the seat up; nothing more is stored.")

    def _tell(self, answers: Sequence[Answer]) -> None:
        """Put answer keys; one whose node's lease has ended is not wanted, the others are."""
        puts = tuple(
            operation(Put(self._keys.answer(answer.name), answer.value, answer.lease))
            for answer in answers
        )
        if not self._under_fence(puts) and len(answers) > 1:
            for answer in answers:
                self._tell([answer])

    def _sweep_stores(self) -> None:
        """Remove the stores of former rounds, but of the last one: some may still read it."""
        run = self._engine.runs.get(self._run_id)
        world = run.state.world if run is not None else None
        if world is None or world.name == self._swept:
            return
        self._swept = world.name
        first_kept = self._keys.store(WorldName(world.epoch, max(0, world.round - 1))).encode()
        last_kept = prefix_end(self._keys.store(world.name).encode() + b"/")
        stores = self._keys.stores
        self._under_fence(
            (
                operation(Delete(stores, first_kept)),
                operation(Delete(last_kept, prefix_end(stores))),
            )
        )

    def _under_fence(self, steps: tuple[Operation, ...]) -> bool:
        """Do some steps while the seat is held; return False if a lease that they name has ended.

        Raises:
            RendezvousDeposedError: Another node has the seat.
        """
        transaction = Transaction((self._fence,), steps)
        outcomes: list[bool] = []

        def write() -> None:
            outcome = self._client.try_transaction(transaction, WRITE_TIMEOUT_S)
            if isinstance(outcome, ReplyLost):
                raise RendezvousConnectionError("The reply to a write was lost; it is repeated.")
            if not isinstance(outcome, LeaseLost) and not outcome.succeeded:
                self._ledger.commit({})
            outcomes.append(not isinstance(outcome, LeaseLost))

        self._insist(write)
        return not outcomes or outcomes[0]

    def _insist(self, write: Callable[[], None]) -> bool:
        """Write, however often it takes (R14); return False if this node gave up the seat first."""
        while not self._closed.is_set():
            try:
                write()
                return True
            except RendezvousDeposedError:
                raise
            except (RendezvousConnectionError, RendezvousLimitError) as error:
                logger.warning("run %s: %s; trying again", self._run_id, error)
                self._closed.wait(RETRY_S)
        return False

    def _name(self, pair: KeyValue) -> str:
        return pair.key.removeprefix(self._keys.nodes).decode(errors="replace")


def _node_key(pair: KeyValue) -> NodeKey:
    return NodeKey(pair.value, pair.create_revision, pair.lease)


def _bundles(answers: Sequence[Answer]) -> Iterator[Sequence[Answer]]:
    """Yield answers in bundles that etcd takes."""
    bundle: list[Answer] = []
    size = 0
    for answer in answers:
        if bundle and (len(bundle) == STEPS_MAX or size + len(answer.value) > ANSWERS_BYTES_MAX):
            yield bundle
            bundle, size = [], 0
        bundle.append(answer)
        size += len(answer.value)
    if bundle:
        yield bundle
