from __future__ import annotations

import msgspec
import pytest

from quorate.errors import RendezvousLimitError, RendezvousProtocolError
from quorate.etcd.messages import (
    Delete,
    Put,
    Range,
    RangeReply,
    Transaction,
    absent,
    decode,
    encode,
    modified_at,
    operation,
    prefix_end,
    value_is,
    version_is,
)


def test_a_transaction_is_written_as_the_gateway_reads_it() -> None:
    inner = Transaction(success=(operation(Delete(b"d")),))
    transaction = Transaction(
        (absent(b"a"), modified_at(b"b", 5), version_is(b"c", 0), value_is(b"d", b"")),
        (operation(Put(b"\xff", b"v", 3)), operation(inner)),
        (operation(Range(b"k", limit=1)),),
    )
    assert msgspec.json.decode(encode(transaction)) == {
        "compare": [
            {"key": "YQ==", "target": "CREATE", "create_revision": 0},
            {"key": "Yg==", "target": "MOD", "mod_revision": 5},
            {"key": "Yw==", "target": "VERSION", "version": 0},
            {"key": "ZA==", "target": "VALUE", "value": ""},
        ],
        "success": [
            {"request_put": {"key": "/w==", "value": "dg==", "lease": 3}},
            {
                "request_txn": {
                    "compare": [],
                    "success": [{"request_delete_range": {"key": "ZA=="}}],
                    "failure": [],
                }
            },
        ],
        "failure": [{"request_range": {"key": "aw==", "limit": 1}}],
    }


def test_numbers_come_as_text_and_what_is_default_not_at_all() -> None:
    reply = decode(
        b'{"header":{"revision":"9007199254740993"},"kvs":[{"key":"/w==","version":"1"}]}',
        RangeReply,
    )
    assert reply.header.revision == 2**53 + 1
    assert (reply.kvs[0].key, reply.kvs[0].value, reply.kvs[0].version) == (b"\xff", b"", 1)
    assert decode(b"{}", RangeReply).kvs == []


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b'{"kvs":[{"key":"?"}]}', b"\xff"])
def test_what_is_no_reply_of_etcd_is_told(content: bytes) -> None:
    with pytest.raises(RendezvousProtocolError, match=r"is not etcd's v3 gateway.*endpoint"):
        decode(content, RangeReply)


def test_a_request_that_etcd_would_not_take_is_not_made() -> None:
    """R15"""
    encode(Put(b"k", bytes(1536 * 1024 - 1000)))
    with pytest.raises(RendezvousLimitError, match="at most 1572864"):
        encode(Put(b"k", bytes(1536 * 1024)))


def test_the_end_of_a_prefix_is_just_above_all_that_starts_with_it() -> None:
    assert prefix_end(b"/a/") == b"/a0"
    assert prefix_end(b"a\xff\xff") == b"b"
    assert prefix_end(b"\xff") == prefix_end(b"") == b"\0"
