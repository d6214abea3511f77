"""A node's claim to decide for its run: whoever holds the seat runs the engine over etcd's keys.

Every node of the run has one; there is no other coordinator. The seat and the ledger are those
that coordinators share (`coordinator.ledgers`), below the run's own prefix; what is done in the
seat is `office`.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence

from quorate.clock import Clock, SystemClock
from quorate.coordinator.engine import Engine
from quorate.coordinator.ledgers.etcd import EtcdLedger, seat_key
from quorate.coordinator.ledgers.etcd_seat import LEASE_TTL_S, EtcdSeat
from quorate.errors import (
    RendezvousConnectionError,
    RendezvousDeposedError,
    RendezvousError,
    RendezvousLimitError,
)
from quorate.etcd.client import EtcdClient
from quorate.etcd.letters import Keys
from quorate.etcd.messages import prefix_end
from quorate.etcd.office import TICK_S, Office
from quorate.etcd.watch import Changes, Watch

__all__ = ["Chair"]

logger = logging.getLogger("quorate.etcd")

RETRY_S = 0.5
WATCH_S = 60.0
CLOSE_S = 5.0

# All nodes of a run see at the same instant that the seat is vacant.
STAGGER_S = 0.2

# What is found of a watch: changes, or why there will be no more.
News = Changes | RendezvousError


class Chair:
    """Takes the seat of a run when it is vacant, and decides while it is held.

    Args:
        client: The way to etcd; it is the chair's own, and closed with it.
        keys: Where the run lies.
        run_id: The run.
        name: What this node is called, for people.
        failed: Called with what keeps this node from deciding for good, such as a corrupt ledger.
        ttl_s: How long the others wait for one who has died in office, in whole seconds.
        clock: The time.
    """

    def __init__(
        self,
        client: EtcdClient,
        keys: Keys,
        run_id: str,
        name: str,
        failed: Callable[[RendezvousError], None],
        ttl_s: int = LEASE_TTL_S,
        clock: Clock | None = None,
    ) -> None:
        self._client = client
        self._keys = keys
        self._run_id = run_id
        self._name = name
        self._failed = failed
        self._clock = clock or SystemClock()
        self._seat = EtcdSeat(client, keys.prefix, name, ttl_s, self._clock, STAGGER_S)
        self._closed = threading.Event()
        self._deciding = threading.Event()
        self._watch: Watch | None = None
        self._thread = threading.Thread(target=self._run, name="quorate-etcd-chair", daemon=True)

    @property
    def decides(self) -> bool:
        """Whether this node believes that it holds the seat."""
        return self._deciding.is_set()

    def start(self) -> None:
        """Begin to reach for the seat; returns at once."""
        self._thread.start()

    def close(self) -> None:
        """Give the seat up at once, and end."""
        self._closed.set()
        self._stop_watching()
        if self.decides:
            # What it has begun to store is told before the seat is another's.
            self._thread.join(CLOSE_S)
        self._seat.close()
        if self._thread.is_alive():
            self._thread.join(CLOSE_S)
        self._client.close()

    def _run(self) -> None:
        try:
            self._claim()
        finally:
            # Whatever ended it, others must not wait for one who does not decide.
            self._seat.close()

    def _claim(self) -> None:
        while not self._closed.is_set():
            try:
                # It gives up a seat that this node could make no use of.
                self._decide(self._seat.take())
            except RendezvousDeposedError as error:
                logger.warning("run %s: %s", self._run_id, error)
            except (RendezvousConnectionError, RendezvousLimitError) as error:
                self._complain(error)
            except RendezvousError as error:
                self._complain(error)
                self._failed(error)
                return
            finally:
                self._deciding.clear()

    def _complain(self, error: RendezvousError) -> None:
        if not self._closed.is_set():
            logger.warning("run %s: this node cannot decide: %s", self._run_id, error)
            self._closed.wait(RETRY_S)

    def _decide(self, ledger: EtcdLedger) -> None:
        """Decide until the seat is lost or given up."""
        term = self._term(ledger)
        engine = Engine(
            ledger.load(), self._clock, lambda: secrets.token_hex(4), self._name, is_shared=True
        )
        office = Office(
            self._client,
            self._keys,
            self._run_id,
            ledger,
            engine,
            term,
            self._closed,
            self._clock,
        )
        logger.info("run %s: this node decides for all now (%s)", self._run_id, self._name)
        self._deciding.set()
        with self._following(office.read()) as news:
            while not self._closed.is_set():
                office.turn(_all_in(news))

    def _term(self, ledger: EtcdLedger) -> int:
        """Return the revision at which the seat was taken: by us, if it is ours afterwards."""
        found = self._client.range(seat_key(self._keys.prefix)).kvs
        ledger.commit({})
        return found[0].mod_revision if found else 0

    @contextlib.contextmanager
    def _following(self, revision: int) -> Iterator[queue.SimpleQueue[News]]:
        """Yield a queue of all changes of the nodes' keys since a revision."""
        news: queue.SimpleQueue[News] = queue.SimpleQueue()
        over = threading.Event()
        follower = threading.Thread(
            target=self._follow,
            args=(revision, news, over),
            name="quorate-etcd-follower",
            daemon=True,
        )
        follower.start()
        try:
            yield news
        finally:
            over.set()
            self._stop_watching()
            follower.join(CLOSE_S)

    def _follow(self, revision: int, news: queue.SimpleQueue[News], over: threading.Event) -> None:
        nodes = self._keys.nodes
        with self._client.watch(nodes, revision + 1, prefix_end(nodes)) as watch:
            self._watch = watch
            try:
                while not over.is_set() and not self._closed.is_set():
                    found = watch.next(WATCH_S)
                    if found is not None:
                        news.put(found)
            except RendezvousError as error:
                news.put(error)

    def _stop_watching(self) -> None:
        if (watch := self._watch) is not None:
            watch.close()


def _all_in(news: queue.SimpleQueue[News]) -> Sequence[News]:
    """Return all that has come; where nothing has, wait for one tick."""
    found: list[News] = []
    with contextlib.suppress(queue.Empty):
        found.append(news.get(timeout=TICK_S))
        while True:
            found.append(news.get_nowait())
    return found
