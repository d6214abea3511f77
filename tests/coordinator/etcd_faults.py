"""What becomes of the transactions of one client of etcd, as a test has planned it."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from quorate.coordinator.ledgers.etcd import EtcdLedger, seat_key
from quorate.etcd.client import EtcdClient
from quorate.etcd.messages import Put, absent, operation
from quorate.etcd.server import EtcdServer
from quorate.etcd.transport import Failure, HttpTransport, Reply, Stream
from quorate.identity import Endpoint
from quorate.testing.clock import ManualClock

Fate = Literal["pass", "lose request", "lose reply", "hold", "too much"]

TRANSACTION = "/v3/kv/txn"

# More than a ledger tries in all the transactions of one commit.
OUT = 1000
LOSE_REQUEST: Fate = "lose request"
LOST = Failure("it did not answer in time", was_sent=True)


class FaultyTransport:
    """Carries requests to a real etcd; each transaction has the fate that was planned for it."""

    def __init__(self) -> None:
        self._inner = HttpTransport()
        self._held: list[Any] = []
        self.fates: deque[Fate] = deque()
        self.cut = False
        self.transactions = 0

    def exchange(
        self, endpoint: Endpoint, path: str, body: bytes, headers: Mapping[str, str], limit_s: float
    ) -> Reply | Failure:
        if self.cut:
            return LOST
        request = (endpoint, path, body, headers, limit_s)
        if path != TRANSACTION:
            return self._inner.exchange(*request)
        self.transactions += 1
        fate = self.fates.popleft() if self.fates else "pass"
        if fate == "too much":
            return Reply(429, b"")
        if fate == "hold":
            self._held.append(request)
        if fate in {"hold", "lose request"}:
            return LOST
        reply = self._inner.exchange(*request)
        return reply if fate == "pass" else LOST

    def open_stream(
        self, endpoint: Endpoint, path: str, body: bytes, headers: Mapping[str, str], limit_s: float
    ) -> Stream | Reply | Failure:
        return LOST if self.cut else self._inner.open_stream(endpoint, path, body, headers, limit_s)

    @contextlib.contextmanager
    def out_after(self, *fates: Fate) -> Iterator[None]:
        """Let the next transactions have these fates, and be lost then for as long as it lasts."""
        self.fates.extend((*fates, *OUT * (LOSE_REQUEST,)))
        yield
        self.fates.clear()

    def release(self) -> None:
        """Deliver what was held, long after its sender has gone on."""
        held, self._held = self._held, []
        for request in held:
            assert isinstance(self._inner.exchange(*request), Reply)

    def close(self) -> None:
        self._inner.close()


class FaultyEtcd:
    """A client of a real etcd whose transactions can be lost, and the ledgers below one prefix."""

    def __init__(self, server: EtcdServer, prefix: str) -> None:
        self.transport = FaultyTransport()
        self.client = EtcdClient([server.address], transport=self.transport, timeout_s=5.0)
        self.prefix = prefix

    def open(self) -> EtcdLedger:
        """Return the ledger of a new holder of the seat, loaded; the former one is deposed."""
        ledger = self.seated()
        ledger.load()
        return ledger

    def seated(self) -> EtcdLedger:
        """Return the ledger of a new holder of the seat."""
        key = seat_key(self.prefix)
        self.client.delete(key)
        reply = self.client.transact((absent(key),), (operation(Put(key, b"")),))
        assert reply.succeeded
        return EtcdLedger(
            self.client, self.prefix, reply.header.revision, lambda: True, ManualClock()
        )

    def keys(self, folder: str) -> list[str]:
        """Return the keys of a folder, without what is before it."""
        start = f"{self.prefix}/{folder}/".encode()
        found = self.client.range(start, start[:-1] + b"0", keys_only=True).kvs
        return [pair.key.decode().removeprefix(f"{self.prefix}/") for pair in found]
