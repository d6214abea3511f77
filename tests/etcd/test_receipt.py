"""The forms of a numbered transaction, against a model of etcd: applied once, or refused (R14)."""

from __future__ import annotations

import pytest

from quorate.errors import RendezvousProtocolError
from quorate.etcd.messages import (
    Put,
    Range,
    Transaction,
    TransactionReply,
    absent,
    operation,
)
from quorate.etcd.receipt import Applied, Forgotten, NumberedTransaction, Refused
from tests.etcd.model import ModelEtcd

RECEIPT = b"receipt"


@pytest.fixture
def etcd() -> ModelEtcd:
    return ModelEtcd()


def numbered(lease: int, number: int = 1, previous: bytes | None = None) -> NumberedTransaction:
    """Create the key, once."""
    return NumberedTransaction(
        RECEIPT,
        lease,
        number,
        previous,
        Transaction(
            (absent(b"key"),),
            (operation(Put(b"key", b"mine")),),
            (operation(Range(b"key")),),
        ),
    )


def applied(etcd: ModelEtcd, transaction: Transaction) -> TransactionReply:
    reply = etcd.apply(transaction)
    assert isinstance(reply, TransactionReply)
    return reply


def write(etcd: ModelEtcd, key: bytes, value: bytes) -> None:
    applied(etcd, Transaction(success=(operation(Put(key, value)),)))


def value_of(etcd: ModelEtcd, key: bytes) -> bytes | None:
    return etcd.keys[key].value if key in etcd.keys else None


def test_what_is_answered_at_once_is_applied_and_leaves_its_number(etcd: ModelEtcd) -> None:
    one = numbered(etcd.grant())
    assert one.judge_first(applied(etcd, one.first())) == Applied(2)
    assert value_of(etcd, b"key") == b"mine"
    assert value_of(etcd, RECEIPT) == b"1"


def test_what_is_refused_at_once_says_what_was_found(etcd: ModelEtcd) -> None:
    write(etcd, b"key", b"theirs")
    one = numbered(etcd.grant())
    verdict = one.judge_first(applied(etcd, one.first()))
    assert isinstance(verdict, Refused)
    assert verdict.found[0].kvs[0].value == b"theirs"
    assert (verdict.revision, verdict.receipt) == (2, None)


def test_a_lost_reply_is_told_from_a_lost_request_even_after_others_have_written(
    etcd: ModelEtcd,
) -> None:
    """R14: reading the key back would find another's value in both cases."""
    one = numbered(etcd.grant())
    applied(etcd, one.first())
    write(etcd, b"key", b"theirs")
    assert one.judge_again(applied(etcd, one.again())) == Applied(2)
    assert value_of(etcd, b"key") == b"theirs"


def test_a_lost_request_is_applied_by_the_next_form(etcd: ModelEtcd) -> None:
    one = numbered(etcd.grant())
    assert one.judge_again(applied(etcd, one.again())) == Applied(2)
    applied(etcd, one.first())
    applied(etcd, one.again())
    assert etcd.puts[b"key", b"mine"] == 1


def test_what_was_refused_after_a_lost_request_is_refused_for_ever(etcd: ModelEtcd) -> None:
    """Its first form may still be on its way when the condition holds again."""
    write(etcd, b"key", b"theirs")
    one = numbered(etcd.grant())
    verdict = one.judge_again(applied(etcd, one.again()))
    assert isinstance(verdict, Refused)
    assert verdict.found[0].kvs[0].value == b"theirs"
    assert verdict.receipt == one.void_receipt
    del etcd.keys[b"key"]
    applied(etcd, one.first())
    assert isinstance(one.judge_again(applied(etcd, one.again())), Refused)
    assert value_of(etcd, b"key") is None


def test_a_late_form_does_not_disturb_the_ones_after_it(etcd: ModelEtcd) -> None:
    lease = etcd.grant()
    one = numbered(lease)
    applied(etcd, one.first())
    two = numbered(lease, 2, one.receipt)
    del etcd.keys[b"key"]
    assert isinstance(two.judge_first(applied(etcd, two.first())), Applied)
    del etcd.keys[b"key"]
    for late in (one.first(), one.again(), one.void()):
        applied(etcd, late)
        assert value_of(etcd, RECEIPT) == two.receipt
        assert value_of(etcd, b"key") is None


def test_what_was_given_up_is_not_applied_later(etcd: ModelEtcd) -> None:
    one = numbered(etcd.grant())
    assert one.judge_void(applied(etcd, one.void())) == one.void_receipt
    applied(etcd, one.first())
    applied(etcd, one.again())
    assert value_of(etcd, b"key") is None


def test_giving_up_what_was_applied_leaves_it(etcd: ModelEtcd) -> None:
    one = numbered(etcd.grant())
    applied(etcd, one.first())
    assert one.judge_void(applied(etcd, one.void())) == one.receipt


def test_a_receipt_that_went_with_its_lease_is_told(etcd: ModelEtcd) -> None:
    lease = etcd.grant()
    one = numbered(lease)
    applied(etcd, one.first())
    etcd.revoke(lease)
    two = numbered(lease, 2, one.receipt)
    assert two.judge_first(applied(etcd, two.first())) == Forgotten()
    assert two.judge_again(applied(etcd, two.again())) == Forgotten()
    assert two.judge_void(applied(etcd, two.void())) is None


def test_an_answer_without_what_was_asked_for_is_told() -> None:
    one = numbered(1)
    with pytest.raises(RendezvousProtocolError, match="without the reads"):
        one.judge_first(TransactionReply())
    with pytest.raises(RendezvousProtocolError, match="inner part"):
        one.judge_again(TransactionReply())
