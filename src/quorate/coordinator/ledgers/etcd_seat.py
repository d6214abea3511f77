"""The seat of several coordinators that share an etcd: a key under a lease (R17).

Who writes the key decides; it exists for as long as its lease is kept alive. A coordinator that
dies loses it when the lease lapses; one that ends in order gives it up at once.
"""

from __future__ import annotations

import logging
import random
import threading
from typing import NamedTuple

import msgspec

from quorate.clock import Clock, SystemClock
from quorate.coordinator.ledgers.etcd import EtcdLedger, seat_key
from quorate.coordinator.ledgers.etcd_lease import EtcdLease
from quorate.coordinator.ledgers.vigil import Vigil
from quorate.errors import (
    RendezvousConnectionError,
    RendezvousLimitError,
    RendezvousProtocolError,
    RendezvousStateError,
)
from quorate.etcd.client import EtcdClient, LeaseLost, ReplyLost
from quorate.etcd.messages import (
    Compare,
    KeyValue,
    Put,
    Range,
    Transaction,
    TransactionReply,
    absent,
    modified_at,
    operation,
)
from quorate.etcd.watch import Watch
from quorate.undecodable import UNDECODABLE

__all__ = ["EtcdSeat"]

logger = logging.getLogger("quorate.coordinator")

# How long the others wait for a holder that has died. An election of etcd takes up to 2 s.
LEASE_TTL_S = 6

# A watch on a member that is frozen says nothing: the lease is looked at so often in its life.
LOOKS_PER_TTL = 3

# For how many times its life a lease may not be kept alive before it does not count any more.
PATIENCE_TTLS = 2

# Between two claims that were not answered.
RETRY_S = 0.2

# Between two tries after etcd has not answered for the length of a call.
STAND_BY_S = 1.0


class _Holder(msgspec.Struct, array_like=True):
    """What the seat's key says: where agents find the coordinator that decides."""

    endpoint: str


class _Claim(NamedTuple):
    """What became of a claim: the ledger if it succeeded, else the seat of another one, if any."""

    ledger: EtcdLedger | None
    seat: KeyValue | None
    revision: int


class EtcdSeat:
    """One coordinator's claim to the seat.

    Args:
        client: The way to etcd; it is closed with the seat.
        prefix: Below what the keys lie, without a slash at the end.
        endpoint: Where agents find this coordinator.
        ttl_s: The time to live of the lease, in whole seconds.
        clock: The time.
        stagger_s: Where there are many, they do not all reach for a vacant seat in the same
            instant: each waits for a part of this first, in seconds.
    """

    def __init__(
        self,
        client: EtcdClient,
        prefix: str,
        endpoint: str,
        ttl_s: int = LEASE_TTL_S,
        clock: Clock | None = None,
        stagger_s: float = 0.0,
    ) -> None:
        self._client = client
        self._stagger_s = stagger_s
        self._prefix = prefix
        self._endpoint = endpoint
        self._ttl_s = ttl_s
        self._clock = clock or SystemClock()
        self._holder = ""
        self._closed = threading.Event()
        self._lease: EtcdLease | None = None
        self._watch: Watch | None = None

    def take(self) -> EtcdLedger:
        """Wait until the seat is ours, and return the ledger; what was held before is given up.

        Raises:
            RendezvousConnectionError: The seat was closed meanwhile.
            RendezvousProtocolError: What answers is not etcd.
            RendezvousSettingsError: etcd refuses who asks.
            RendezvousStateError: Something else has written the seat's key.
        """
        self._give_up()
        while not self._closed.is_set():
            try:
                ledger = self._try()
            except RendezvousProtocolError:
                raise
            except (RendezvousConnectionError, RendezvousLimitError) as error:
                logger.warning("%s %s stands by.", error, self._endpoint)
                self._closed.wait(STAND_BY_S)
                continue
            if ledger is not None and not self._closed.is_set():
                self._holder = self._endpoint
                return ledger
        self._give_up()
        raise RendezvousConnectionError("This coordinator ends; it does not take the seat.")

    def holder(self) -> str:
        """Return the endpoint of the coordinator that holds the seat; empty if none is known."""
        return self._holder

    def close(self) -> None:
        """Give the seat up, so that another coordinator need not wait for the lease."""
        self._closed.set()
        if (watch := self._watch) is not None:
            watch.close()
        self._give_up()
        self._client.close()

    def _try(self) -> EtcdLedger | None:
        """Take the seat, or wait until it is not another's any more."""
        self._closed.wait(random.uniform(0, self._stagger_s))
        key = seat_key(self._prefix)
        # A claim costs a lease, and a look none.
        found = self._client.range(key)
        seat, revision = (found.kvs[0] if found.kvs else None), found.header.revision
        if seat is None:
            claim = self._claim(absent(key))
            if claim.ledger is not None or claim.seat is None:
                return claim.ledger
            seat, revision = claim.seat, claim.revision
        if self._stand_by(seat, revision):
            return self._depose(seat)
        return None

    def _claim(self, condition: Compare) -> _Claim:
        """Write the seat's key if a condition holds; an answer that was lost is found by it."""
        lease = EtcdLease(self._client, self._ttl_s, self._clock)
        try:
            reply = self._ask(condition, lease)
        except BaseException:
            lease.end()
            raise
        seat, revision = _taken(reply), reply.header.revision
        if not reply.succeeded and (seat is None or seat.lease != lease.id):
            lease.end()
            return _Claim(None, seat, revision)
        self._lease = lease
        own = seat.mod_revision if seat is not None else revision
        ledger = EtcdLedger(self._client, self._prefix, own, lease.is_certain, self._clock)
        return _Claim(ledger, seat, revision)

    def _ask(self, condition: Compare, lease: EtcdLease) -> TransactionReply:
        """Send a claim until it is answered.

        Raises:
            RendezvousConnectionError: The lease has not lived long enough.
        """
        key = seat_key(self._prefix)
        own = msgspec.msgpack.encode(_Holder(self._endpoint))
        claim = Transaction(
            (condition,), (operation(Put(key, own, lease.id)),), (operation(Range(key)),)
        )
        while lease.is_certain() and not self._closed.is_set():
            outcome = self._client.try_transaction(claim, self._ttl_s)
            if isinstance(outcome, LeaseLost):
                break
            if not isinstance(outcome, ReplyLost):
                return outcome
            self._closed.wait(RETRY_S)
        raise RendezvousConnectionError("etcd did not answer who holds the seat in time.")

    def _stand_by(self, seat: KeyValue, revision: int) -> bool:
        """Wait until the seat is not as it was at a revision.

        Returns:
            Whether it still is, though nobody keeps it alive.
        """
        self._holder = _holder(seat)
        logger.info("%s decides; this one stands by", self._holder)
        vigil = Vigil(PATIENCE_TTLS * self._ttl_s, self._clock.monotonic())
        with self._client.watch(seat_key(self._prefix), revision + 1) as watch:
            self._watch = watch
            while not self._closed.is_set():
                if watch.next(self._ttl_s / LOOKS_PER_TTL) is not None:
                    break
                left = self._client.time_to_live(seat.lease)
                if left.ttl_s < 0 and not self._is_there(seat):
                    break
                vigil.look(left.ttl_s, left.header.raft_term, self._clock.monotonic())
                if vigil.is_over(self._clock.monotonic()):
                    return True
        self._holder = ""
        return False

    def _is_there(self, seat: KeyValue) -> bool:
        found = self._client.range(seat_key(self._prefix)).kvs
        return bool(found) and found[0].mod_revision == seat.mod_revision

    def _depose(self, seat: KeyValue) -> EtcdLedger | None:
        """Take the seat of one that does not keep it alive.

        Should it live all the same, it writes nothing from now on. It is certain of its seat for
        no longer than its lease would have lived: so long nothing is decided here.
        """
        logger.warning("%s does not keep its seat alive: this one takes it", self._holder)
        claim = self._claim(modified_at(seat_key(self._prefix), seat.mod_revision))
        if claim.ledger is not None:
            try:
                self._client.revoke_lease(seat.lease)
            except BaseException:
                self._give_up()
                raise
            self._closed.wait(self._ttl_s)
        return claim.ledger

    def _give_up(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.end()


def _taken(reply: TransactionReply) -> KeyValue | None:
    """Return the seat's key, if a claim has found it there."""
    if reply.succeeded or not reply.responses:
        return None
    found = reply.responses[0].response_range
    return found.kvs[0] if found is not None and found.kvs else None


def _holder(seat: KeyValue) -> str:
    try:
        return msgspec.msgpack.decode(seat.value, type=_Holder).endpoint
    except UNDECODABLE as error:
        raise RendezvousStateError(
            f"What is stored in etcd as {seat.key!r} is not a coordinator's seat ({error}): "
            f"something else writes there. Give the coordinators another prefix."
        ) from error
