"""etcd's transactions and leases in memory, as far as a writer needs them."""

from __future__ import annotations

from quorate.etcd.client import LeaseLost, ReplyLost
from quorate.etcd.messages import (
    Compare,
    Delete,
    Deleted,
    Header,
    KeyValue,
    LeaseGranted,
    Operation,
    OperationReply,
    Put,
    Range,
    RangeReply,
    Transaction,
    TransactionReply,
)


class ModelEtcd:
    """One key space; a transaction is applied at once and completely."""

    def __init__(self) -> None:
        self.revision = 1
        self.keys: dict[bytes, KeyValue] = {}
        self.leases: set[int] = set()
        self.granted = 0
        # How often each value was put into each key.
        self.puts: dict[tuple[bytes, bytes], int] = {}

    def grant(self) -> int:
        self.granted += 1
        self.leases.add(100 + self.granted)
        return 100 + self.granted

    def revoke(self, lease: int) -> None:
        self.leases.discard(lease)
        self.keys = {key: kept for key, kept in self.keys.items() if kept.lease != lease}

    def apply(self, transaction: Transaction) -> TransactionReply | LeaseLost:
        taken: list[Put | Delete] = []
        if not self._leases_live(transaction):
            return LeaseLost()
        reply = self._run(transaction, self.revision + 1, taken)
        self.revision += bool(taken)
        reply.header = Header(self.revision)
        return reply

    def _leases_live(self, transaction: Transaction) -> bool:
        """etcd looks at the leases of the branches that are taken, before it writes."""
        branch = transaction.success if self._holds(transaction) else transaction.failure
        for step in branch:
            if step.request_put and step.request_put.lease not in {0, *self.leases}:
                return False
            if step.request_txn and not self._leases_live(step.request_txn):
                return False
        return True

    def _run(
        self, transaction: Transaction, revision: int, taken: list[Put | Delete]
    ) -> TransactionReply:
        succeeded = self._holds(transaction)
        branch = transaction.success if succeeded else transaction.failure
        replies = [self._step(step, revision, taken) for step in branch]
        return TransactionReply(succeeded=succeeded, responses=replies)

    def _step(self, step: Operation, revision: int, taken: list[Put | Delete]) -> OperationReply:
        if step.request_txn is not None:
            return OperationReply(response_txn=self._run(step.request_txn, revision, taken))
        if step.request_put is not None:
            self._put(step.request_put, revision)
            taken.append(step.request_put)
            return OperationReply()
        if step.request_delete_range is not None:
            deleted = self.keys.pop(step.request_delete_range.key, None) is not None
            taken += [step.request_delete_range] * deleted
            return OperationReply(response_delete_range=Deleted(deleted=int(deleted)))
        assert isinstance(step.request_range, Range)
        found = self.keys.get(step.request_range.key)
        return OperationReply(response_range=RangeReply(kvs=[found] if found else []))

    def _put(self, put: Put, revision: int) -> None:
        before = self.keys.get(put.key)
        self.keys[put.key] = KeyValue(
            put.key,
            put.value,
            before.create_revision if before else revision,
            revision,
            before.version + 1 if before else 1,
            put.lease,
        )
        self.puts[put.key, put.value] = self.puts.get((put.key, put.value), 0) + 1

    def _holds(self, transaction: Transaction) -> bool:
        return all(self._matches(compare) for compare in transaction.compare)

    def _matches(self, compare: Compare) -> bool:
        found = self.keys.get(compare.key)
        match compare.target:
            case "CREATE":
                return (found.create_revision if found else 0) == compare.create_revision
            case "MOD":
                return (found.mod_revision if found else 0) == compare.mod_revision
            case "VERSION":
                return (found.version if found else 0) == compare.version
        return found is not None and found.value == compare.value


class ModelClient:
    """As much of an `EtcdClient` as a writer uses; `lose` says what becomes of each sending."""

    timeout_s = 10.0

    def __init__(self, etcd: ModelEtcd) -> None:
        self.etcd = etcd
        self.fates: list[str] = []
        self.late: list[Transaction] = []
        self.sent: list[Transaction] = []
        self.kept_alive: list[int] = []

    def try_transaction(
        self, transaction: Transaction, timeout_s: float | None = None
    ) -> TransactionReply | ReplyLost | LeaseLost:
        self.sent.append(transaction)
        fate = self.fates.pop(0) if self.fates else "pass"
        if fate == "pass":
            return self.etcd.apply(transaction)
        if fate == "lose reply":
            self.etcd.apply(transaction)
        elif fate == "late":
            self.late.append(transaction)
        return ReplyLost()

    def deliver_late(self) -> None:
        """Let everything arrive that was on its way for long."""
        late, self.late = self.late, []
        for transaction in late:
            self.etcd.apply(transaction)

    def grant_lease(self, ttl_s: int, timeout_s: float | None = None) -> LeaseGranted:
        return LeaseGranted(self.etcd.grant(), ttl_s)

    def keep_alive(self, lease: int, timeout_s: float | None = None) -> int:
        self.kept_alive.append(lease)
        return 60 if lease in self.etcd.leases else 0
