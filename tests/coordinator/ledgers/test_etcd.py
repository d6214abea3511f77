"""The ledger in a real etcd: lost and late transactions, large bodies, snapshots, depositions."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.compression import compress
from quorate.coordinator.ledgers import etcd as ledger_module
from quorate.coordinator.ledgers.etcd import EtcdLedger, seat_key
from quorate.errors import (
    RendezvousConnectionError,
    RendezvousDeposedError,
    RendezvousLimitError,
    RendezvousStateError,
)
from quorate.etcd.server import EtcdServer
from tests.coordinator.etcd_faults import FaultyEtcd

pytestmark = pytest.mark.etcd

MIB = 1024 * 1024
PREFIXES = (f"/test{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def server() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        yield server


@pytest.fixture
def etcd(server: EtcdServer) -> Iterator[FaultyEtcd]:
    faulty = FaultyEtcd(server, next(PREFIXES))
    with faulty.client:
        yield faulty


def incompressible(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def test_what_is_committed_is_loaded_by_the_next(etcd: FaultyEtcd) -> None:
    ledger = etcd.open()
    assert ledger.load() == {}
    ledger.commit({"a": b"1", "b": b"2"})
    ledger.commit({"a": None, "c": b""}, durable=False)
    assert ledger.commits == 2
    assert etcd.open().load() == {"b": b"2", "c": b""}


def test_a_commit_is_one_transaction(etcd: FaultyEtcd) -> None:
    ledger = etcd.open()
    before = etcd.transport.transactions
    ledger.commit({str(number): b"x" * 100 for number in range(1000)})
    assert etcd.transport.transactions == before + 1
    assert etcd.keys("log") == ["log/0000000000000001"]


def test_more_commits_than_are_read_at_once(etcd: FaultyEtcd) -> None:
    ledger = etcd.open()
    for number in range(2 * ledger_module.PAGE + 1):
        ledger.commit({str(number): b"x", "last": b"%d" % number})
    loaded = etcd.open().load()
    assert len(loaded) == 2 * ledger_module.PAGE + 2
    assert loaded["last"] == b"%d" % (2 * ledger_module.PAGE)


@pytest.mark.parametrize("fate", ["lose request", "lose reply", "hold"])
def test_a_commit_whose_reply_is_lost_is_applied_once(fate: Any, etcd: FaultyEtcd) -> None:
    """R14: what is there tells whether it was applied; what comes late changes nothing."""
    ledger = etcd.open()
    etcd.transport.fates += [fate, fate]
    ledger.commit({"a": b"1"})
    ledger.commit({"a": b"2"})
    etcd.transport.release()
    ledger.commit({"b": b"3"})
    assert len(etcd.keys("log")) == 3
    assert etcd.open().load() == {"a": b"2", "b": b"3"}


@pytest.mark.parametrize("fate", ["lose request", "lose reply"])
def test_after_a_time_nobody_knows_and_the_same_is_committed_again(
    fate: Any, etcd: FaultyEtcd
) -> None:
    ledger = etcd.open()
    with etcd.transport.out_after(fate), pytest.raises(RendezvousConnectionError, match="majority"):
        ledger.commit({"a": b"1"})
    ledger.commit({"a": b"1"})
    ledger.commit({"b": b"2"})
    assert len(etcd.keys("log")) == 2
    assert etcd.open().load() == {"a": b"1", "b": b"2"}


def test_an_etcd_without_space_is_one_that_does_not_answer(etcd: FaultyEtcd) -> None:
    """The server tries again: space can be made."""
    ledger = etcd.open()
    etcd.transport.fates.append("too much")
    with pytest.raises(RendezvousConnectionError, match="out of space"):
        ledger.commit({"a": b"1"})
    ledger.commit({"a": b"1"})
    assert etcd.open().load() == {"a": b"1"}


def test_one_that_was_deposed_changes_nothing(etcd: FaultyEtcd) -> None:
    """R17: also what it has sent long ago, and what fits."""
    former = etcd.open()
    former.commit({"a": b"1"})
    with etcd.transport.out_after("hold"), pytest.raises(RendezvousConnectionError):
        former.commit({"a": b"late"})
    present = etcd.open()
    etcd.transport.release()
    for changes in ({"a": b"2"}, {}, {"big": incompressible(2 * MIB)}):
        with pytest.raises(RendezvousDeposedError, match="another one holds it"):
            former.commit(changes)
    assert present.load() == {"a": b"1"}
    assert len(etcd.keys("log")) == 1
    assert etcd.keys("part") == []


def test_a_lost_reply_is_resolved_although_others_decide_by_now(etcd: FaultyEtcd) -> None:
    """R14: it was applied before the seat was lost, and the next one has it."""
    former = etcd.open()
    with etcd.transport.out_after("lose reply"), pytest.raises(RendezvousConnectionError):
        former.commit({"a": b"1"})
    present = etcd.open()
    present.commit({"b": b"2"})
    former.commit({"a": b"1"})
    with pytest.raises(RendezvousDeposedError):
        former.commit({"c": b"3"})
    assert present.load() == {"a": b"1", "b": b"2"}


@pytest.mark.parametrize("size", [1, 2 * MIB])
def test_another_ones_commit_is_not_taken_for_its_own(
    size: int, etcd: FaultyEtcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R14, R17: both have as many parts, or say the same; one was paused before what counts."""
    former = etcd.open()
    append = former._append

    def paused(number: int, value: bytes) -> None:
        etcd.open().commit({"a": incompressible(size)})
        append(number, value)

    monkeypatch.setattr(former, "_append", paused)
    with pytest.raises(RendezvousDeposedError):
        former.commit({"a": incompressible(size) if size == 1 else incompressible(size + 1)})
    assert etcd.open().load() == {"a": incompressible(size)}


def test_commits_that_do_not_tell_their_writer_are_read(etcd: FaultyEtcd) -> None:
    body = compress(msgspec.msgpack.encode({"a": b"1"}))
    etcd.client.put(f"{etcd.prefix}/log/{1:016x}".encode(), msgspec.msgpack.encode((body, 0)))
    ledger = etcd.open()
    ledger.commit({"b": b"2"})
    assert etcd.open().load() == {"a": b"1", "b": b"2"}


def test_without_changes_it_finds_out_who_decides(etcd: FaultyEtcd) -> None:
    ledger = etcd.open()
    revision = etcd.client.range(b"k").header.revision
    ledger.commit({})
    assert etcd.client.range(b"k").header.revision == revision
    etcd.client.delete(seat_key(etcd.prefix))
    with pytest.raises(RendezvousDeposedError, match="nobody holds it"):
        ledger.commit({})


def test_a_large_commit_is_written_in_parts(etcd: FaultyEtcd) -> None:
    """etcd takes 1.5 MiB at once."""
    ledger = etcd.open()
    value = incompressible(3 * MIB + 1)
    etcd.transport.fates += ["lose reply", "lose request", "pass", "lose reply"]
    ledger.commit({"big": value, "small": b"x"})
    assert len(etcd.keys("part")) == 4
    assert etcd.open().load() == {"big": value, "small": b"x"}


def test_the_state_of_a_hundred_thousand_nodes_fits(etcd: FaultyEtcd) -> None:
    """docs/scaling.md: 100 bytes a node, compressed; so is the snapshot that holds all there is."""
    ledger = etcd.open()
    value = incompressible(10 * MIB)
    ledger.commit({"state": value})
    assert len(etcd.keys("part")) == 11
    ledger.commit({"state": value[:-1]})
    ledger.commit({"small": b"x"})
    assert etcd.open().load() == {"state": value[:-1], "small": b"x"}


def test_parts_without_their_commit_do_not_count(etcd: FaultyEtcd) -> None:
    """The writer died between the parts; the next one's commit has the same number."""
    ledger = etcd.open()
    ledger.commit({"a": b"1"})
    with etcd.transport.out_after("pass"), pytest.raises(RendezvousConnectionError):
        ledger.commit({"big": incompressible(3 * MIB)})
    present = etcd.open()
    assert present.load() == {"a": b"1"}
    present.commit({"big": incompressible(2 * MIB)})
    assert etcd.open().load() == {"a": b"1", "big": incompressible(2 * MIB)}


@pytest.fixture
def short_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "SNAPSHOT_COMMITS", 3)


@pytest.mark.usefixtures("short_log")
def test_a_snapshot_takes_the_place_of_the_log(etcd: FaultyEtcd) -> None:
    ledger = etcd.open()
    for number in range(10):
        ledger.commit({"a": b"%d" % number, str(number): incompressible(MIB // 2)})
    assert len(etcd.keys("log")) <= 3
    assert len({key.split("/")[1] for key in etcd.keys("snapshot")}) == 1
    loaded = etcd.open().load()
    assert loaded["a"] == b"9"
    assert len(loaded) == 11


def test_a_log_that_is_long_in_bytes_is_replaced_too(
    etcd: FaultyEtcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "SNAPSHOT_BYTES_MIN", 1000)
    ledger = etcd.open()
    for number in range(10):
        ledger.commit({"a": incompressible(300 + number)})
    assert len(etcd.keys("log")) < 6
    assert etcd.open().load() == {"a": incompressible(309)}


@pytest.mark.usefixtures("short_log")
@pytest.mark.parametrize("passed", range(8))
def test_a_snapshot_that_is_broken_off_costs_nothing(passed: int, etcd: FaultyEtcd) -> None:
    """The last commit before it lies in parts itself: each has keys of its own."""
    ledger = etcd.open()
    for number in range(3):
        ledger.commit({str(number): b"x"})
    # Three transactions are the commit's own: two parts, and what makes them count.
    with etcd.transport.out_after(*(3 + passed) * ("pass",)):
        ledger.commit({"big": incompressible(2 * MIB - 1000)})
    expected = {"0": b"x", "1": b"x", "2": b"x", "big": incompressible(2 * MIB - 1000)}
    assert etcd.open().load() == expected
    ledger = etcd.open()
    ledger.commit({"0": None})
    ledger.commit({"1": None})
    del expected["0"], expected["1"]
    assert etcd.open().load() == expected


@pytest.mark.usefixtures("short_log")
@pytest.mark.parametrize("position", range(3))
def test_an_older_snapshot_that_comes_late_does_not_count(position: int, etcd: FaultyEtcd) -> None:
    """A frozen member of etcd applies it when it is thawed, and its parts are gone by then."""
    ledger = etcd.open()
    for number in range(3):
        ledger.commit({str(number): b"x"})
    with etcd.transport.out_after(*(1 + position) * ("pass",), "hold"):
        ledger.commit({"3": b"x"})
    for number in range(4, 12):
        ledger.commit({str(number): b"x"})
    etcd.transport.release()
    assert len(etcd.open().load()) == 12


@pytest.mark.parametrize("is_torn", [False, True])
def test_what_is_read_while_another_one_writes_is_not_used(is_torn: bool, etcd: FaultyEtcd) -> None:
    """R17: it was frozen between taking the seat and reading, or in the middle of reading."""
    slow = etcd.seated()
    present = etcd.open()
    for number in range(3):
        present.commit({str(number): b"x"})
    if is_torn:
        etcd.client.delete(f"{etcd.prefix}/log/{1:016x}".encode())
    with pytest.raises(RendezvousDeposedError):
        slow.load()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("log/0000000000000001", b"\xc1", "'log/1' is not a coordinator's ledger"),
        ("log/0000000000000001", b"\x92\xc4\x01x\x00", "'log/1' is not a coordinator's ledger"),
        ("log/0000000000000002", b"\x92\xc4\x01x\x00", "Commit 1 is missing"),
        ("log/0000000000000001", b"\x92\xc4\x00\x01", "A part of part 1 is missing"),
        ("snapshot", b"\xc1", "'snapshot' is not a coordinator's ledger"),
        ("snapshot", b"\x92\x01\x01", "A part of snapshot 1 is missing"),
    ],
)
def test_what_is_not_a_ledger_is_told(
    key: str, value: bytes, message: str, etcd: FaultyEtcd
) -> None:
    etcd.client.put(f"{etcd.prefix}/{key}".encode(), value)
    with pytest.raises(RendezvousStateError, match=message):
        etcd.open()


@pytest.mark.parametrize("key", ["log/0000000000000001", "snapshot"])
def test_r15_what_would_become_too_large_is_refused(
    key: str, etcd: FaultyEtcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "CONTENT_BYTES_MAX", 1000)
    bomb = compress(msgspec.msgpack.encode({"a": bytes(1000)}))
    etcd.client.put(f"{etcd.prefix}/snapshot/{1:016x}/{0:04x}".encode(), bomb)
    value = (1, 1) if key == "snapshot" else (bomb, 0)
    etcd.client.put(f"{etcd.prefix}/{key}".encode(), msgspec.msgpack.encode(value))
    with pytest.raises(RendezvousStateError, match="larger than 1000 bytes when decompressed"):
        etcd.open()


def test_nothing_is_written_that_would_be_refused(
    etcd: FaultyEtcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs that outgrow a snapshot go on with their log."""
    monkeypatch.setattr(ledger_module, "CONTENT_BYTES_MAX", 1000)
    monkeypatch.setattr(ledger_module, "SNAPSHOT_COMMITS", 2)
    ledger = etcd.open()
    with pytest.raises(RendezvousLimitError, match="1000 may be"):
        ledger.commit({"a": bytes(1000)})
    for name in "abcd":
        ledger.commit({name: bytes(400)})
    assert etcd.keys("snapshot") == []
    assert etcd.open().load() == dict.fromkeys("abcd", bytes(400))


def test_a_commit_of_somebody_else_is_told(etcd: FaultyEtcd) -> None:
    ledger = etcd.open()
    etcd.client.put(f"{etcd.prefix}/log/{1:016x}".encode(), b"?")
    with pytest.raises(RendezvousStateError, match="did not write"):
        ledger.commit({"a": b"1"})


def test_whether_the_seat_is_held_is_the_seats_to_say(etcd: FaultyEtcd) -> None:
    held = True
    ledger = EtcdLedger(etcd.client, etcd.prefix, 1, lambda: held)
    assert ledger.is_held()
    held = False
    assert not ledger.is_held()
    ledger.close()


CHANGES = st.dictionaries(
    st.sampled_from("abcdef"),
    st.one_of(st.none(), st.binary(max_size=8), st.integers(0, 9).map(lambda n: bytes(200 * n))),
    min_size=1,
    max_size=4,
)
FATES = st.lists(
    st.sampled_from(["pass", "pass", "lose request", "lose reply", "hold"]), max_size=20
)
STEPS = st.lists(st.tuples(CHANGES, FATES, st.booleans(), st.booleans()), max_size=20)


@settings(max_examples=60)
@given(steps=STEPS)
def test_it_is_a_dictionary_whatever_is_lost(server: EtcdServer, steps: Any) -> None:
    """Commits with random fates, what was held delivered at random, another holder at random."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ledger_module, "PART_BYTES", 16)
        patched.setattr(ledger_module, "SNAPSHOT_COMMITS", 3)
        etcd = FaultyEtcd(server, next(PREFIXES))
        with etcd.client:
            play(etcd, steps)


def play(etcd: FaultyEtcd, steps: Any) -> None:
    ledger = etcd.open()
    model: dict[str, bytes] = {}
    for changes, fates, releases, moves in steps:
        etcd.transport.fates.extend(fates)
        ledger.commit(changes)
        etcd.transport.fates.clear()
        model |= changes
        model = {key: value for key, value in model.items() if value is not None}
        if releases:
            etcd.transport.release()
        if moves:
            ledger = etcd.open()
            assert ledger.load() == model
    etcd.transport.release()
    assert etcd.open().load() == model
