"""Writes to etcd that happen exactly once (R14): the shell of `quorate.etcd.receipt`."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from quorate.clock import Clock, SystemClock
from quorate.errors import RendezvousConnectionError
from quorate.etcd.client import EtcdClient, LeaseLost, ReplyLost
from quorate.etcd.messages import Compare, Operation, Transaction, TransactionReply
from quorate.etcd.receipt import Applied, Forgotten, NumberedTransaction, Refused, Verdict

__all__ = ["OWN_LEASE", "Writer"]

# PyTorch's default for the state of a run: it goes two hours after the last write.
TTL_S = 7200

# Stands in a put for the lease of the writer.
OWN_LEASE = -1

# One try to learn what became of a transaction follows the last one after about this.
PAUSE_S = 0.05
PAUSE_MAX_S = 1.0


@dataclass
class Identity:
    """One life of a writer: a lease, and the chain of numbers on its receipt.

    Attributes:
        lease: The lease, whose number names the receipt.
        receipt_key: The receipt.
        kept_at_s: When the lease was last kept alive, on the monotonic clock.
        number: The number of the last transaction.
        previous: What the receipt holds, None if it is not there yet.
        unresolved: The last transaction, if it was given up before its outcome was known.
    """

    lease: int
    receipt_key: bytes
    kept_at_s: float
    number: int = 0
    previous: bytes | None = None
    unresolved: NumberedTransaction | None = None


class Writer:
    """Applies transactions exactly once, or tells for certain that they were refused.

    Threads may share it; their transactions follow each other. It costs one key and one lease,
    which go `ttl_s` after the last write.

    Args:
        client: The way to etcd.
        prefix: Where its receipt is kept; writers of one prefix do not meet.
        ttl_s: For how long after the last write what hangs on its lease is kept, in seconds.
        clock: Gives the time.
    """

    def __init__(
        self, client: EtcdClient, prefix: bytes, ttl_s: int = TTL_S, clock: Clock | None = None
    ) -> None:
        self._client = client
        self._prefix = prefix
        # The lease is kept alive by writes, and not by each of them.
        self._keep_s = max(1, ttl_s // 8)
        self._lease_s = ttl_s + self._keep_s
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._identity: Identity | None = None

    def write(
        self,
        compare: Sequence[Compare],
        success: Sequence[Operation],
        failure: Sequence[Operation] = (),
        timeout_s: float | None = None,
    ) -> Applied | Refused:
        """Do all of `success` if every condition holds, once, else read `failure`.

        Args:
            compare: The conditions.
            success: Puts and deletions; a put under `OWN_LEASE` goes with the writer's lease.
            failure: Reads only.
            timeout_s: How long it may take, in seconds, the writes of other threads before it
                included; by default as the client was told.

        Raises:
            RendezvousConnectionError: etcd could not be asked in time. If the message says so, the
                write may have happened; it does not happen any more once a later one was made.
            RendezvousError: As the calls of `EtcdClient`; nothing was written.
        """
        transaction = Transaction(tuple(compare), tuple(success), tuple(failure))
        limit_s = self._client.timeout_s if timeout_s is None else timeout_s
        deadline = self._clock.monotonic() + limit_s
        with self._turn(limit_s):
            while True:
                verdict = self._write_as(self._living(deadline), transaction, deadline)
                if not isinstance(verdict, Forgotten):
                    return verdict
                self._identity = None

    @contextlib.contextmanager
    def _turn(self, limit_s: float) -> Iterator[None]:
        """Wait for the writes of other threads.

        Raises:
            RendezvousConnectionError: They take too long.
        """
        if not self._lock.acquire(timeout=max(0.0, limit_s)):
            raise RendezvousConnectionError(
                f"A write to etcd was not sent: others that came before it were not answered "
                f"within {limit_s:g} s. See whether a majority of its members is alive and "
                f"reachable."
            )
        try:
            yield
        finally:
            self._lock.release()

    def _write_as(self, identity: Identity, transaction: Transaction, deadline: float) -> Verdict:
        identity.number += 1
        numbered = NumberedTransaction(
            identity.receipt_key,
            identity.lease,
            identity.number,
            identity.previous,
            under_lease(transaction, identity.lease),
        )
        outcome = self._client.try_transaction(numbered.first(), self._left_s(deadline))
        if isinstance(outcome, LeaseLost):
            return Forgotten()
        if isinstance(outcome, TransactionReply):
            verdict = numbered.judge_first(outcome)
        else:
            verdict = self._resolve(identity, numbered, deadline)
        if isinstance(verdict, Applied):
            identity.previous = numbered.receipt
        elif isinstance(verdict, Refused):
            identity.previous = verdict.receipt
        return verdict

    def _resolve(
        self, identity: Identity, numbered: NumberedTransaction, deadline: float
    ) -> Applied | Refused:
        """Find out what became of a transaction whose reply was lost; apply it if it was not."""
        identity.unresolved = numbered
        reply = self._insist(numbered.again, deadline)
        verdict = Forgotten() if reply is None else numbered.judge_again(reply)
        if isinstance(verdict, Forgotten):
            self._identity = None
            raise unresolved("the receipt of the write is gone with its lease")
        identity.unresolved = None
        return verdict

    def _living(self, deadline: float) -> Identity:
        """Return an identity whose lease lives and whose last transaction is settled."""
        identity = self._identity
        if identity is not None and identity.unresolved is not None:
            self._give_up(identity, identity.unresolved, deadline)
            identity = self._identity
        now_s = self._clock.monotonic()
        if identity is not None and now_s - identity.kept_at_s > self._keep_s:
            left_s = self._client.keep_alive(identity.lease, self._left_s(deadline))
            identity.kept_at_s = now_s
            identity = identity if left_s > 0 else None
        if identity is None:
            lease = self._client.grant_lease(self._lease_s, self._left_s(deadline)).lease_id
            identity = Identity(lease, self._prefix + b"%x" % lease, now_s)
        self._identity = identity
        return identity

    def _give_up(self, identity: Identity, numbered: NumberedTransaction, deadline: float) -> None:
        """Make sure that a transaction that was reported as unknown is not applied any more."""
        reply = self._insist(numbered.void, deadline)
        identity.unresolved = None
        identity.previous = None if reply is None else numbered.judge_void(reply)
        if identity.previous is None:
            self._identity = None

    def _insist(self, form: Callable[[], Transaction], deadline: float) -> TransactionReply | None:
        """Send a transaction that may be repeated until it is answered; None: no such lease."""
        pause_s = PAUSE_S
        while True:
            try:
                outcome = self._client.try_transaction(form(), self._left_s(deadline))
            except RendezvousConnectionError as error:
                raise unresolved(str(error)) from error
            if isinstance(outcome, TransactionReply):
                return outcome
            if isinstance(outcome, LeaseLost):
                return None
            assert isinstance(outcome, ReplyLost)
            if self._clock.monotonic() >= deadline:
                raise unresolved("no reply came in time")
            self._clock.sleep(min(pause_s, self._left_s(deadline)) * random.uniform(0.5, 1))
            pause_s = min(2 * pause_s, PAUSE_MAX_S)

    def _left_s(self, deadline: float) -> float:
        return max(0.001, deadline - self._clock.monotonic())


def under_lease(transaction: Transaction, lease: int) -> Transaction:
    """Return a transaction whose puts under `OWN_LEASE` are under this lease."""
    return msgspec.structs.replace(
        transaction,
        success=tuple(
            msgspec.structs.replace(
                step, request_put=msgspec.structs.replace(step.request_put, lease=lease)
            )
            if step.request_put is not None and step.request_put.lease == OWN_LEASE
            else step
            for step in transaction.success
        ),
    )


def unresolved(reason: str) -> RendezvousConnectionError:
    """Return the error of a write whose outcome could not be found out in time."""
    return RendezvousConnectionError(
        "A write to etcd may have happened or not: its reply was lost "
        f"({reason.rstrip('.')}). Read before you write again."
    )
