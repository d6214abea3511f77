"""A client of etcd's v3 API: keys, transactions, leases, watches."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from types import TracebackType
from typing import Self, TypeVar

from quorate.clock import Clock, SystemClock
from quorate.errors import (
    RendezvousConnectionError,
    RendezvousProtocolError,
    RendezvousSettingsError,
)
from quorate.etcd.gateway import Credentials, Gateway
from quorate.etcd.messages import (
    Compare,
    Delete,
    Deleted,
    LeaseGranted,
    LeaseKept,
    LeaseLeft,
    Member,
    Members,
    Operation,
    Put,
    Range,
    RangeReply,
    Revised,
    Status,
    Transaction,
    TransactionReply,
    decode,
    encode,
    operation,
)
from quorate.etcd.transport import HttpTransport, Reply, Transport
from quorate.etcd.watch import Watch
from quorate.identity import Endpoint

__all__ = ["EtcdClient", "LeaseLost", "ReplyLost"]

# PyTorch's default for its clients of etcd.
TIMEOUT_S = 60.0

T = TypeVar("T")


class ReplyLost:
    """A transaction has no reply: it may have been applied, or may be yet."""


class LeaseLost:
    """A transaction was refused because a lease that it names has ended."""


class EtcdClient:
    """Speaks to the members of one etcd cluster; any number of threads may share it.

    Whatever member fails, the others are asked, until the deadline of the call. Reads are
    linearizable. Every call raises a RendezvousConnectionError if no member serves it in time, a
    RendezvousSettingsError if etcd refuses who asks, a RendezvousLimitError if it refuses how
    much, a RendezvousProtocolError if it is not etcd. After a RendezvousConnectionError a write
    may have happened all the same: `quorate.etcd.writer` has writes that are certain.

    Args:
        endpoints: The members, or some of them.
        credentials: User and password, None where etcd asks for none.
        tls: How to speak TLS, None for plain HTTP; `quorate.etcd.parameters` makes one of files.
        timeout_s: How long a call may take, all attempts together, in seconds.
        clock: Gives the time.
        transport: Carries the requests; by default HTTP.

    Raises:
        RendezvousSettingsError: There is no endpoint.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        credentials: Credentials | None = None,
        tls: ssl.SSLContext | None = None,
        timeout_s: float = TIMEOUT_S,
        clock: Clock | None = None,
        transport: Transport | None = None,
    ) -> None:
        if not endpoints:
            raise RendezvousSettingsError(
                "A client of etcd needs an endpoint: give one or several."
            )
        self._clock = clock or SystemClock()
        self._timeout_s = timeout_s
        self._gateway = Gateway(
            endpoints,
            transport or HttpTransport(tls, clock=self._clock),
            credentials,
            self._clock,
        )

    def __enter__(self) -> Self:
        """Return the client itself; `close` is called at the end."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Call `close`."""
        self.close()

    @property
    def timeout_s(self) -> float:
        """How long a call may take, in seconds."""
        return self._timeout_s

    def range(
        self,
        key: bytes,
        range_end: bytes = b"",
        *,
        limit: int = 0,
        keys_only: bool = False,
        count_only: bool = False,
        timeout_s: float | None = None,
    ) -> RangeReply:
        """Read a key, or all keys from `key` up to and without `range_end`.

        Args:
            key: The key, or the first one.
            range_end: The end; empty reads one key. See `prefix_end`.
            limit: How many keys to return at most, 0 for all.
            keys_only: Whether to leave the values out.
            count_only: Whether to return their number only.
            timeout_s: How long it may take, in seconds; by default as the client was told.
        """
        request = Range(key, range_end, limit, keys_only, count_only)
        return self._read("/v3/kv/range", request, RangeReply, timeout_s)

    def range_each(self, keys: Sequence[bytes], timeout_s: float | None = None) -> RangeReply:
        """Read several keys as they are at one moment; return those that are there.

        Args:
            keys: Which; etcd takes 128 at once.
            timeout_s: How long it may take, in seconds; by default as the client was told.
        """
        path = "/v3/kv/txn"
        reads = Transaction((), tuple(operation(Range(key)) for key in keys))
        reply = self._gateway.read(path, encode(reads), self._limit(timeout_s))
        answer = answer_to(reads, found(path, reply))
        kvs = [
            kv for step in answer.responses if step.response_range for kv in step.response_range.kvs
        ]
        return RangeReply(answer.header, kvs, len(kvs))

    def put(self, key: bytes, value: bytes, lease: int = 0) -> int:
        """Give a key a value, and return the revision; `lease` removes the key when it ends.

        Raises:
            RendezvousSettingsError: There is no such lease (any more).
        """
        return self._write("/v3/kv/put", Put(key, value, lease), Revised).header.revision

    def delete(self, key: bytes, range_end: bytes = b"") -> int:
        """Remove a key, or all from `key` up to and without `range_end`; return how many."""
        return self._write("/v3/kv/deleterange", Delete(key, range_end), Deleted).deleted

    def transact(
        self,
        compare: Sequence[Compare] = (),
        success: Sequence[Operation] = (),
        failure: Sequence[Operation] = (),
        timeout_s: float | None = None,
    ) -> TransactionReply:
        """Do all of `success` if every condition holds, else all of `failure`, in one step.

        Raises:
            RendezvousSettingsError: A lease that is named has ended.
        """
        transaction = Transaction(tuple(compare), tuple(success), tuple(failure))
        outcome = self.try_transaction(transaction, timeout_s)
        if isinstance(outcome, ReplyLost):
            raise lost_reply()
        if isinstance(outcome, LeaseLost):
            raise lost_lease()
        return outcome

    def try_transaction(
        self, transaction: Transaction, timeout_s: float | None = None
    ) -> TransactionReply | ReplyLost | LeaseLost:
        """Send a transaction once, and say what became of it.

        It goes to another member only while it has certainly reached none.

        Raises:
            RendezvousError: As every call; the transaction was not applied.
        """
        reply = self._gateway.write("/v3/kv/txn", encode(transaction), self._limit(timeout_s))
        if reply is None:
            return ReplyLost()
        if reply.status == 404:
            return LeaseLost()
        return answer_to(transaction, reply)

    def grant_lease(self, ttl_s: int, timeout_s: float | None = None) -> LeaseGranted:
        """Return a new lease, which ends `ttl_s` seconds after it was last kept alive.

        It may live twice as long where etcd's leader changes just after.
        """
        return self._read("/v3/lease/grant", {"TTL": ttl_s}, LeaseGranted, timeout_s)

    def keep_alive(self, lease: int, timeout_s: float | None = None) -> int:
        """Keep a lease alive; return its seconds from now on, 0 if it has ended before."""
        return self._read("/v3/lease/keepalive", {"ID": lease}, LeaseKept, timeout_s).result.ttl_s

    def time_to_live(self, lease: int) -> LeaseLeft:
        """Return what is left of a lease, without keeping it alive."""
        return self._read("/v3/lease/timetolive", {"ID": lease}, LeaseLeft, None)

    def revoke_lease(self, lease: int) -> bool:
        """End a lease, and remove its keys; return whether it was there."""
        reply = self._gateway.read("/v3/lease/revoke", encode({"ID": lease}), self._timeout_s)
        return reply.status == 200

    def watch(self, key: bytes, start_revision: int, range_end: bytes = b"") -> Watch:
        """Watch a key, or all from `key` up to and without `range_end`.

        Args:
            key: The key, or the first one.
            start_revision: The first revision to tell of, above 0; as a rule one more than the
                revision of the reply to a read.
            range_end: The end; empty watches one key.
        """
        return Watch(self._gateway, self._clock, key, start_revision, range_end)

    def compact(self, revision: int) -> None:
        """Let etcd forget what was before `revision`; watches from there are told."""
        self._read("/v3/kv/compaction", {"revision": revision}, Revised, None)

    def status(self, timeout_s: float | None = None) -> Status:
        """Return what the member that answers says of itself."""
        return self._read("/v3/maintenance/status", {}, Status, timeout_s)

    def members(self, timeout_s: float | None = None) -> list[Member]:
        """Return the members of the cluster, as the one that answers knows them."""
        return self._read("/v3/cluster/member/list", {}, Members, timeout_s).members

    def is_healthy(self, timeout_s: float) -> bool:
        """Return whether a majority of the members serves a read within `timeout_s` seconds."""
        try:
            self.range(b"\0", count_only=True, timeout_s=timeout_s)
        except RendezvousConnectionError:
            return False
        return True

    def close(self) -> None:
        """Close every connection that is kept."""
        self._gateway.close()

    def _limit(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else timeout_s

    def _read(self, path: str, request: object, kind: type[T], timeout_s: float | None) -> T:
        reply = self._gateway.read(path, encode(request), self._limit(timeout_s))
        return decode(found(path, reply).body, kind)

    def _write(self, path: str, request: object, kind: type[T]) -> T:
        reply = self._gateway.write(path, encode(request), self._timeout_s)
        if reply is None:
            raise lost_reply()
        if reply.status == 404 and isinstance(request, Put) and request.lease:
            raise lost_lease()
        return decode(found(path, reply).body, kind)


def answer_to(transaction: Transaction, reply: Reply) -> TransactionReply:
    """Return what etcd has answered to a transaction.

    Raises:
        RendezvousProtocolError: The answer is not one to this transaction.
    """
    answer = decode(reply.body, TransactionReply)
    if not is_answered(transaction, answer):
        raise RendezvousProtocolError(
            "What answers at the endpoint of etcd has not answered the steps of a transaction: "
            "see whether the endpoint is right and etcd is 3.4 or newer."
        )
    return answer


def is_answered(transaction: Transaction, reply: TransactionReply) -> bool:
    """Return whether each step of the branch that was taken has the answer that it must have."""
    steps = transaction.success if reply.succeeded else transaction.failure
    if len(steps) != len(reply.responses):
        return False
    for step, answer in zip(steps, reply.responses, strict=True):
        if step.request_range is not None and answer.response_range is None:
            return False
        if step.request_txn is not None and (
            answer.response_txn is None or not is_answered(step.request_txn, answer.response_txn)
        ):
            return False
    return True


def found(path: str, reply: Reply) -> Reply:
    """Return a reply to a request that every etcd knows.

    Raises:
        RendezvousProtocolError: Its status is 404.
    """
    if reply.status == 404:
        raise RendezvousProtocolError(
            f"What answers at the endpoint of etcd does not know {path}: see whether the endpoint "
            "is right and etcd is 3.4 or newer."
        )
    return reply


def lost_reply() -> RendezvousConnectionError:
    """Return the error of a write whose reply was lost."""
    return RendezvousConnectionError(
        "The connection to etcd broke before a write was answered: it may have happened. Read "
        "before you write again."
    )


def lost_lease() -> RendezvousSettingsError:
    """Return the error of a write under a lease that has ended."""
    return RendezvousSettingsError(
        "etcd knows no lease of this number (any more): grant another one."
    )
