"""Keys of the ledger can be read back, whatever a store key holds."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate.coordinator.ledgers.records import (
    EntryKey,
    StoreResult,
    entry_key,
    parse_key,
    result_key,
    run_key,
    seen_key,
    store_key,
)

PLAIN = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)


@given(run_id=PLAIN, epoch=PLAIN, number=st.integers(0, 2**40), name=st.text(max_size=8))
def test_every_key_is_read_back(run_id: str, epoch: str, number: int, name: str) -> None:
    assert parse_key(run_key(run_id)) == EntryKey("run", run_id)
    assert parse_key(seen_key(run_id)) == EntryKey("seen", run_id)
    assert parse_key(result_key(run_id, epoch)) == EntryKey("result", run_id, name=epoch)
    entry = EntryKey("entry", run_id, (epoch, number), name)
    assert parse_key(entry_key(run_id, (epoch, number), name)) == entry
    for text in (result_key(run_id, epoch), entry_key(run_id, (epoch, number), name)):
        assert store_key(parse_key(text)) == text


@given(st.lists(st.tuples(PLAIN, PLAIN, st.integers(0, 9), st.text(max_size=4)), unique=True))
def test_different_entries_have_different_keys(entries: list[tuple[str, str, int, str]]) -> None:
    keys = {entry_key(run_id, (epoch, number), k) for run_id, epoch, number, k in entries}
    assert len(keys) == len(entries)


@pytest.mark.parametrize(
    "text", ["", "run", "run\0a\0b", "other\0a", "entry\0r\0e\0one\0k", "result\0r", "seen"]
)
def test_another_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - int's own message is one of them
        parse_key(text)


def test_a_result_is_small_and_comes_back() -> None:
    result = StoreResult(7, ("e", 3), b"answer")
    data = msgspec.msgpack.encode(result)
    assert msgspec.msgpack.decode(data, type=StoreResult) == result
    assert len(data) < 20
