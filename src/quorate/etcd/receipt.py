"""How a write to etcd happens exactly once, whatever becomes of the requests and replies (R14).

Each writer owns a key, its receipt. Its transactions are numbered; each carries, besides its own
conditions and puts, the condition that the receipt is as the one before left it, and a put of its
number there. So a number that was applied can never be applied again, and after a lost reply the
receipt tells for certain what became of it, also after others have written:

    the receipt holds       the transaction
    its number              was applied, at the revision at which the receipt was written
    its number and "void"   was refused, or given up, and can never be applied any more
    what it held before     has not been applied yet; it may be on its way

This is pure: it says what to send and what the answers mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from quorate.errors import RendezvousProtocolError
from quorate.etcd.messages import (
    Compare,
    KeyValue,
    Operation,
    OperationReply,
    Put,
    Range,
    RangeReply,
    Transaction,
    TransactionReply,
    absent,
    operation,
    value_is,
)

__all__ = ["Applied", "Forgotten", "NumberedTransaction", "Refused", "Verdict"]


@dataclass(frozen=True)
class Applied:
    """The transaction was applied once.

    Attributes:
        revision: The revision at which it was.
    """

    revision: int


@dataclass(frozen=True)
class Refused:
    """A condition did not hold: nothing was written, and nothing of it ever will be.

    Attributes:
        found: What each read of the failure branch has found.
        revision: The revision of these reads.
        receipt: What the receipt holds now.
    """

    found: tuple[RangeReply, ...]
    revision: int
    receipt: bytes | None


@dataclass(frozen=True)
class Forgotten:
    """The receipt is not as this writer left it: its lease has ended."""


Verdict: TypeAlias = Applied | Refused | Forgotten


@dataclass(frozen=True)
class NumberedTransaction:
    """One transaction of a writer, in the forms in which it is sent.

    Args:
        receipt_key: The writer's receipt.
        lease: The lease that the receipt hangs on.
        number: The number of the transaction, above those of all before it.
        previous: What the receipt held before, None if it was not there.
        transaction: The conditions, what to do if they hold, and what to read if not.
    """

    receipt_key: bytes
    lease: int
    number: int
    previous: bytes | None
    transaction: Transaction

    @property
    def receipt(self) -> bytes:
        """What the receipt holds once the transaction was applied."""
        return b"%d" % self.number

    @property
    def void_receipt(self) -> bytes:
        """What the receipt holds once the transaction can never be applied any more."""
        return b"%d void" % self.number

    def first(self) -> Transaction:
        """Return the form to send until a reply was lost."""
        return self._apply_or(*self.transaction.failure, self._read_receipt())

    def again(self) -> Transaction:
        """Return the form to send after a lost reply: it is applied unless it already was."""
        refuse = Transaction(
            compare=(self._fence(),),
            success=(self._put(self.void_receipt),),
        )
        failure = (operation(refuse), *self.transaction.failure, self._read_receipt())
        return Transaction(
            compare=(value_is(self.receipt_key, self.receipt),),
            success=(self._read_receipt(),),
            failure=(operation(self._apply_or(*failure)),),
        )

    def void(self) -> Transaction:
        """Return what to send to give a transaction up: it is not applied later any more."""
        return Transaction(
            compare=(self._fence(),),
            success=(self._put(self.void_receipt), self._read_receipt()),
            failure=(self._read_receipt(),),
        )

    def judge_first(self, reply: TransactionReply) -> Verdict:
        """Return what the answer to `first` means."""
        if reply.succeeded:
            return Applied(reply.header.revision)
        refused = refused_by(reply, reply.header.revision)
        return refused if refused.receipt == self.previous else Forgotten()

    def judge_again(self, reply: TransactionReply) -> Verdict:
        """Return what the answer to `again` means."""
        if reply.succeeded:
            receipt = single(ranges(reply.responses)[-1:])
            return Applied(receipt.mod_revision if receipt else 0)
        inner = inner_reply(reply.responses)
        if inner.succeeded:
            return Applied(reply.header.revision)
        refused = refused_by(inner, reply.header.revision)
        return refused if refused.receipt == self.void_receipt else Forgotten()

    def judge_void(self, reply: TransactionReply) -> bytes | None:
        """Return what the receipt holds after `void`: the next one's `previous`."""
        receipt = single(ranges(reply.responses)[-1:])
        return receipt.value if receipt else None

    def _apply_or(self, *failure: Operation) -> Transaction:
        return msgspec.structs.replace(
            self.transaction,
            compare=(*self.transaction.compare, self._fence()),
            success=(*self.transaction.success, self._put(self.receipt)),
            failure=failure,
        )

    def _fence(self) -> Compare:
        if self.previous is None:
            return absent(self.receipt_key)
        return value_is(self.receipt_key, self.previous)

    def _put(self, receipt: bytes) -> Operation:
        return operation(Put(self.receipt_key, receipt, self.lease))

    def _read_receipt(self) -> Operation:
        return operation(Range(self.receipt_key))


def refused_by(reply: TransactionReply, revision: int) -> Refused:
    """Return the refusal that the failure branch of `first` or `again` tells of."""
    *found, receipts = ranges(reply.responses)
    receipt = single([receipts])
    return Refused(tuple(found), revision, receipt.value if receipt else None)


def ranges(replies: list[OperationReply]) -> list[RangeReply]:
    """Return the answers to the reads of one branch.

    Raises:
        RendezvousProtocolError: There is none, where there must be the receipt's.
    """
    found = [reply.response_range for reply in replies if reply.response_range is not None]
    if not found:
        raise RendezvousProtocolError(
            "etcd answered a transaction without the reads that it asked for: see what serves "
            "at its endpoint."
        )
    return found


def inner_reply(replies: list[OperationReply]) -> TransactionReply:
    """Return the answer to the transaction within a transaction.

    Raises:
        RendezvousProtocolError: There is none.
    """
    for reply in replies:
        if reply.response_txn is not None:
            return reply.response_txn
    raise RendezvousProtocolError(
        "etcd answered a nested transaction without its inner part: see what serves at its "
        "endpoint."
    )


def single(replies: list[RangeReply]) -> KeyValue | None:
    """Return the one key that a read has found, None if it was not there."""
    return replies[0].kvs[0] if replies and replies[0].kvs else None
