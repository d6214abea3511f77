"""A ledger and a seat that do what a test says."""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping

from quorate.errors import RendezvousConnectionError

PATIENCE_S = 30.0


class GatedLedger:
    """Keeps what is committed in memory; can be told to wait, to fail, and to be uncertain."""

    def __init__(self) -> None:
        self.held = True
        self.kept: dict[str, bytes] = {}
        self.commits: list[int] = []
        self.failures: list[Exception] = []
        self.gate = threading.Event()
        self.gate.set()
        self.closed = False

    def load(self) -> dict[str, bytes]:
        return dict(self.kept)

    def commit(self, changes: Mapping[str, bytes | None], durable: bool = True) -> None:
        assert self.gate.wait(PATIENCE_S)
        if self.failures:
            raise self.failures.pop(0)
        self.commits.append(sum(len(value or b"") for value in changes.values()))
        for key, value in changes.items():
            self.kept.pop(key, None)
            if value is not None:
                self.kept[key] = value

    def is_held(self) -> bool:
        return self.held

    def close(self) -> None:
        self.closed = True


class GatedSeat:
    """A seat that is taken when the test gives a ledger for it."""

    def __init__(self) -> None:
        self.ledgers: queue.Queue[GatedLedger | None] = queue.Queue()
        self.takes = 0

    def take(self) -> GatedLedger:
        self.takes += 1
        ledger = self.ledgers.get(timeout=PATIENCE_S)
        if ledger is None:
            raise RendezvousConnectionError("closed")
        return ledger

    def holder(self) -> str:
        return "holder:1"

    def close(self) -> None:
        self.ledgers.put(None)
