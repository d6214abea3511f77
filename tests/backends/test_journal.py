"""The journal: whole commits or none, after any crash; damage, full disks and locks are told."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from quorate.backends import journal as journal_module
from quorate.backends.journal import FILE_HEADER, MARK_BYTES, RECORD_HEADER, Journal
from quorate.errors import (
    RendezvousConnectionError,
    RendezvousLimitError,
    RendezvousStateError,
)

COUNT_UP = """
import sys
from pathlib import Path
from quorate.backends.journal import Journal
journal = Journal(Path(sys.argv[1]))
number = 0
while True:
    number += 1
    journal.commit({"a": b"%d" % number, "b": b"%d" % number}, durable=number % 7 == 0)
    print(number, flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def contents(path: Path) -> dict[str, bytes]:
    with closing(Journal(path)) as journal:
        return journal.load()


@contextmanager
def file_bytes_max(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size`: the next write stops there, then fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_commits_are_loaded_again(path: Path) -> None:
    with closing(Journal(path)) as journal:
        assert journal.load() == {}
        journal.commit({"a": b"1", "b": b"\x00\xff", "é/ü": b""})
        journal.commit({"a": b"2", "b": None, "absent": None}, durable=False)
        expected = {"a": b"2", "é/ü": b""}
        assert journal.load() == expected
    with closing(Journal(path)) as journal:
        assert journal.load() == expected
        assert journal.dropped_bytes == 0
        journal.commit({"c": b"3"})
    assert contents(path) == {**expected, "c": b"3"}


def test_load_returns_a_copy(path: Path) -> None:
    with closing(Journal(path)) as journal:
        journal.commit({"a": b"1"})
        journal.load().clear()
        assert journal.load() == {"a": b"1"}


def test_the_directory_is_created_for_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "journal"
    assert contents(path) == {}
    assert path.parent.stat().st_mode & 0o077 == 0
    assert path.stat().st_mode & 0o077 == 0


def test_an_end_that_is_torn_anywhere_costs_the_last_commit_only(path: Path) -> None:
    with closing(Journal(path)) as journal:
        journal.commit({"a": b"1", "b": b"1"})
        kept = path.stat().st_size
        journal.commit({"a": b"2", "b": None, "c": b"x" * 40})
    whole = path.read_bytes()
    for size in range(kept, len(whole)):
        path.write_bytes(whole[:size])
        with closing(Journal(path)) as journal:
            assert journal.load() == {"a": b"1", "b": b"1"}
            assert journal.dropped_bytes == size - kept
            assert path.stat().st_size == kept
            journal.commit({"a": b"3"})
        assert contents(path) == {"a": b"3", "b": b"1"}
    path.write_bytes(whole)
    assert contents(path) == {"a": b"2", "c": b"x" * 40}


def test_an_end_that_is_garbled_anywhere_costs_the_last_commit_only(path: Path) -> None:
    """A loss of power: some blocks of the last write reached the disk, others did not."""
    with closing(Journal(path)) as journal:
        journal.commit({"a": b"1", "b": b"1"})
        kept = path.stat().st_size
        journal.commit({"a": b"2", "b": None, "c": b"x" * 40})
    whole = path.read_bytes()
    for place in range(kept, len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 0x10
        unwritten_end = whole[:place] + bytes(len(whole) - place)
        unwritten_start = whole[:kept] + bytes(place + 1 - kept) + whole[place + 1 :]
        for torn in (flipped, unwritten_end, unwritten_start):
            path.write_bytes(torn)
            assert contents(path) == {"a": b"1", "b": b"1"}
            assert path.stat().st_size == kept


def test_an_end_of_zeros_or_rubbish_is_cut_off(path: Path) -> None:
    with closing(Journal(path)) as journal:
        journal.commit({"a": b"1"})
    whole = path.read_bytes()
    mark = whole[FILE_HEADER.size :][:MARK_BYTES]
    for rubbish in (bytes(5000), b"rubbish", mark, mark * 100, mark + b"\xff" * 20):
        path.write_bytes(whole + rubbish)
        with closing(Journal(path)) as journal:
            assert journal.load() == {"a": b"1"}
            assert journal.dropped_bytes == len(rubbish)


def test_damage_before_the_end_is_told_and_nothing_is_cut_off(path: Path) -> None:
    with closing(Journal(path)) as journal:
        journal.commit({"a": b"1"})
        second = path.stat().st_size
        journal.commit({"b": b"2"})
        third = path.stat().st_size
        journal.commit({"c": b"3"})
    whole = path.read_bytes()
    for place in range(second, third):
        damaged = bytearray(whole)
        damaged[place] ^= 0x40
        path.write_bytes(damaged)
        with pytest.raises(RendezvousStateError, match=f"damaged at byte {second}, .*move it away"):
            Journal(path)
        assert path.read_bytes() == damaged
    path.write_bytes(whole)
    assert contents(path) == {"a": b"1", "b": b"2", "c": b"3"}


def test_any_pages_of_what_was_not_synced_may_be_missing(path: Path) -> None:
    """A loss of power: later pages reached the disk, with whole commits on them."""
    with closing(Journal(path)) as journal:
        journal.commit({"run": b"1"})
        kept = path.stat().st_size
        ends = [kept]
        for number in range(3):
            journal.commit({f"store/{number}": b"x" * 40}, durable=False)
            ends.append(path.stat().st_size)
        journal.commit({"run": b"2"})
    whole = path.read_bytes()
    commits = [{"run": b"1"}, *({f"store/{number}": b"x" * 40} for number in range(3))]
    for first in range(kept, ends[-1]):
        for page_bytes in (1, 16, 64):
            page = slice(first, min(first + page_bytes, ends[-1]))
            torn = bytearray(whole)
            torn[page] = bytes(b ^ 0x40 for b in torn[page])
            path.write_bytes(torn)
            survived = sum(end <= first for end in ends)
            expected: dict[str, bytes] = {}
            for commit in commits[:survived]:
                expected |= commit
            with closing(Journal(path)) as journal:
                assert journal.load() == expected
                assert journal.dropped_bytes == len(whole) - ends[survived - 1]


def test_damage_of_what_was_synced_is_told_by_a_commit_that_was_not(path: Path) -> None:
    with closing(Journal(path)) as journal:
        journal.commit({"run": b"1"})
        second = path.stat().st_size
        journal.commit({"run": b"2"})
        third = path.stat().st_size
        journal.commit({"store/1": b"x"}, durable=False)
        journal.commit({"store/2": b"x"}, durable=False)
    whole = path.read_bytes()
    for place in range(second, third):
        damaged = bytearray(whole)
        damaged[place] ^= 0x40
        # A gap in what was not synced hides nothing.
        damaged[third + RECORD_HEADER.size] ^= 0x40
        path.write_bytes(damaged)
        with pytest.raises(RendezvousStateError, match=f"damaged at byte {second}"):
            Journal(path)


def test_what_is_there_when_a_journal_is_opened_is_synced(path: Path) -> None:
    """The process that wrote it may have ended without."""
    with closing(Journal(path)) as journal:
        journal.commit({"a": b"1"}, durable=False)
    with closing(Journal(path)) as journal:
        journal.commit({"b": b"1"}, durable=False)
    damaged = bytearray(path.read_bytes())
    damaged[FILE_HEADER.size + RECORD_HEADER.size] ^= 0x40
    path.write_bytes(damaged)
    with pytest.raises(RendezvousStateError, match=f"damaged at byte {FILE_HEADER.size}"):
        Journal(path)


def test_a_rewritten_journal_vouches_for_itself(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "REWRITE_CHUNK_BYTES", 1)
    monkeypatch.setattr(journal_module, "REWRITE_BYTES_MIN", 200)
    with closing(Journal(path)) as journal:
        journal.commit({"a": b"1", "b": b"2"})
        inode = path.stat().st_ino
        while path.stat().st_ino == inode:
            journal.commit({"c": b"3" * 50}, durable=False)
    damaged = bytearray(path.read_bytes())
    damaged[FILE_HEADER.size + RECORD_HEADER.size] ^= 0x40
    path.write_bytes(damaged)
    with pytest.raises(RendezvousStateError, match=f"damaged at byte {FILE_HEADER.size}"):
        Journal(path)


def test_a_value_that_looks_like_records_is_not_taken_for_one(path: Path) -> None:
    with closing(Journal(path)) as journal:
        journal.commit({"a": b"1"})
        kept = path.stat().st_size
        other = path.with_name("other")
        with closing(Journal(other)) as model:
            model.commit({"hostile": b"1"})
        journal.commit({"b": other.read_bytes()[FILE_HEADER.size :] + b"end"})
    path.write_bytes(path.read_bytes()[:-1])
    with closing(Journal(path)) as journal:
        assert journal.load() == {"a": b"1"}
        assert path.stat().st_size == kept


@pytest.mark.parametrize("body", [b"\xa3abc", b"\x81\xa1\xff\xc0", b"\x81\xa1a" + b"\x91" * 5000])
def test_a_record_of_the_wrong_shape_is_told(body: bytes, path: Path) -> None:
    with closing(Journal(path)) as journal:
        journal.commit({"a": b"1"})
    whole = path.read_bytes()
    salt = FILE_HEADER.unpack_from(whole)[2]
    path.write_bytes(whole + journal_module.pack_record(body, salt, 0))
    with pytest.raises(RendezvousStateError, match=f"damaged at byte {len(whole)}"):
        Journal(path)


@pytest.mark.parametrize("place", range(FILE_HEADER.size))
def test_a_damaged_header_is_told(path: Path, place: int) -> None:
    with closing(Journal(path)) as journal:
        journal.commit({"a": b"1"})
    damaged = bytearray(path.read_bytes())
    damaged[place] ^= 0x40
    path.write_bytes(damaged)
    with pytest.raises(RendezvousStateError, match="move"):
        Journal(path)
    assert path.read_bytes() == damaged


def test_another_version_is_told(path: Path) -> None:
    assert contents(path) == {}
    changed = bytearray(path.read_bytes())
    struct.pack_into("<H", changed, 16, 1)
    path.write_bytes(changed)
    with pytest.raises(RendezvousStateError, match="version 1, and this is version 2"):
        Journal(path)


@pytest.mark.parametrize("content", [b"x", b"quorate", b"quorate journal\n", b"[section]\n" * 9])
def test_another_file_is_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(RendezvousStateError, match="is not a journal of quorate"):
        Journal(path)
    assert path.read_bytes() == content


def test_a_link_to_a_journal_is_not_followed(path: Path) -> None:
    """Another process may have that one open, under its own lock."""
    other = path.with_name("other")
    with closing(Journal(other)) as journal:
        journal.commit({"a": b"1"})
        path.symlink_to(other)
        with pytest.raises(RendezvousConnectionError, match="A link stands in its place"):
            Journal(path)


def test_an_empty_file_is_a_new_journal(path: Path) -> None:
    path.touch()
    assert contents(path) == {}


def test_a_path_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(RendezvousConnectionError, match="Opening the journal"):
        Journal(tmp_path / "folder")
    (tmp_path / "file").touch()
    with pytest.raises(RendezvousConnectionError, match="Opening the journal"):
        Journal(tmp_path / "file" / "journal")


def test_two_cannot_have_it_open(path: Path) -> None:
    journal = Journal(path)
    with pytest.raises(RendezvousConnectionError, match=f"held by process {os.getpid()} on"):
        Journal(path)
    journal.close()
    journal.close()
    assert contents(path) == {}


def test_a_journal_that_does_not_open_keeps_no_lock(path: Path) -> None:
    path.write_bytes(b"another file")
    for _ in range(2):
        with pytest.raises(RendezvousStateError):
            Journal(path)
    path.unlink()
    assert contents(path) == {}


def test_a_closed_journal_says_so(path: Path) -> None:
    journal = Journal(path)
    journal.close()
    with pytest.raises(RendezvousConnectionError, match="is closed: open it again"):
        journal.commit({"a": b"1"})


def test_a_killed_process_loses_no_commit(path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", COUNT_UP, str(path)], stdout=subprocess.PIPE)
    with writer:
        assert writer.stdout is not None
        for _ in range(50):
            writer.stdout.readline()
        writer.kill()
        told = max([50, *map(int, writer.stdout.read().split())])
    found = contents(path)
    assert found["a"] == found["b"]
    assert int(found["a"]) - told in {0, 1}


def test_a_full_disk_costs_the_commit_only(path: Path) -> None:
    with closing(Journal(path)) as journal:
        journal.commit({"a": b"1"})
        size = path.stat().st_size
        with (
            file_bytes_max(size + 100),
            pytest.raises(RendezvousConnectionError, match=r"Writing to the journal .* failed"),
        ):
            journal.commit({"a": b"2", "b": b"x" * 1000})
        assert path.stat().st_size == size
        assert journal.load() == {"a": b"1"}
        journal.commit({"c": b"3"})
    assert contents(path) == {"a": b"1", "c": b"3"}


def test_after_a_failed_sync_everything_is_written_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with closing(Journal(path)) as journal:
        journal.commit({"a": b"1"})
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fail)
            with pytest.raises(RendezvousConnectionError, match="Input/output error"):
                journal.commit({"a": b"2"})
            assert journal.load() == {"a": b"1"}
        inode = path.stat().st_ino
        journal.commit({"b": b"3"})
        assert path.stat().st_ino != inode
    assert contents(path) == {"a": b"1", "b": b"3"}


def test_what_cannot_be_taken_back_is_written_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int, size: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with closing(Journal(path)) as journal:
        journal.commit({"a": b"1"})
        with monkeypatch.context() as patch, file_bytes_max(path.stat().st_size + 100):
            patch.setattr(os, "ftruncate", fail)
            with pytest.raises(RendezvousConnectionError):
                journal.commit({"a": b"x" * 1000})
        journal.commit({"b": b"2"})
    assert contents(path) == {"a": b"1", "b": b"2"}


def test_a_durable_commit_is_synced_and_another_is_not(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real_sync = os.fdatasync

    def record(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        real_sync(descriptor)

    monkeypatch.setattr(os, "fdatasync", record)
    with closing(Journal(path)) as journal:
        journal.commit({"a": b"1"}, durable=False)
        assert synced == []
        journal.commit({"a": b"2"})
        assert synced == [path.stat().st_size]


def test_a_commit_that_is_too_large_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "RECORD_BYTES_MAX", 100)
    with closing(Journal(path)) as journal:
        with pytest.raises(RendezvousLimitError, match="at most 100 bytes"):
            journal.commit({"a": b"x" * 100})
        journal.commit({"a": b"x" * 50})
    assert contents(path) == {"a": b"x" * 50}


def test_a_long_log_of_little_is_rewritten(path: Path) -> None:
    value = os.urandom(30_000)
    with closing(Journal(path)) as journal:
        journal.commit({"kept": b"1"}, durable=False)
        for number in range(100):
            journal.commit({"a": value + b"%d" % number}, durable=False)
            assert path.stat().st_size <= journal_module.REWRITE_BYTES_MIN + 2 * len(value)
        assert path.stat().st_size < 2_000_000
        expected = {"kept": b"1", "a": value + b"99"}
        assert journal.load() == expected
    assert contents(path) == expected


def test_a_large_store_is_rewritten_in_pieces_and_not_too_often(path: Path) -> None:
    value = bytes(100_000)
    copy = path.with_name("copy")
    rewrites, inode = 0, 0
    with closing(Journal(path)) as journal:
        for number in range(100):
            journal.commit({f"key{number}": value}, durable=False)
            if path.stat().st_ino != inode:
                rewrites, inode = rewrites + 1, path.stat().st_ino
                shutil.copy(path, copy)
                assert contents(copy) == journal.load()
        expected = journal.load()
    assert rewrites == 3
    assert contents(path) == expected
    assert len(expected) == 100


def test_a_new_file_whose_name_may_not_be_durable_is_written_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(journal_module, "REWRITE_BYTES_MIN", 1000)
    with closing(Journal(path)) as journal:
        with monkeypatch.context() as patch:
            patch.setattr(journal_module, "sync_directory", fail)
            journal.commit({"a": bytes(1000)})
            with pytest.raises(RendezvousConnectionError, match="Input/output error"):
                journal.commit({"a": b"lost"})
        inode = path.stat().st_ino
        journal.commit({"b": b"2"})
        assert path.stat().st_ino != inode
    assert contents(path) == {"a": bytes(1000), "b": b"2"}


def test_a_rewrite_that_fails_costs_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "REWRITE_BYTES_MIN", 1000)
    with closing(Journal(path)) as journal:
        inode = path.stat().st_ino
        with monkeypatch.context() as patch:

            def fail(*arguments: object) -> int:
                raise OSError(errno.ENOSPC, "No space left on device")

            patch.setattr(journal_module, "replace_file", fail)
            for number in range(30):
                journal.commit({"a": b"%099d" % number}, durable=False)
        assert path.stat().st_ino == inode
        for number in range(60):
            journal.commit({"a": b"%099d" % number}, durable=False)
        assert path.stat().st_size < 2000
    assert contents(path) == {"a": b"%099d" % 59}


keys = st.sampled_from(["a", "b", "run/one", "é"])
commits = st.dictionaries(keys, st.none() | st.binary(max_size=60))


class JournalMachine(RuleBasedStateMachine):
    """A journal and a dict take the same commits, with crashes and failures in between."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "journal"
        self.minimum = journal_module.REWRITE_BYTES_MIN
        journal_module.REWRITE_BYTES_MIN = 300
        self.model: dict[str, bytes] = {}
        self.journal = Journal(self.path)

    def apply(self, changes: dict[str, bytes | None]) -> None:
        for key, value in changes.items():
            if value is None:
                self.model.pop(key, None)
            else:
                self.model[key] = value

    @rule(changes=commits, durable=st.booleans())
    def commit(self, changes: dict[str, bytes | None], durable: bool) -> None:
        self.journal.commit(changes, durable)
        self.apply(changes)

    @rule(changes=commits, room=st.integers(0, 40))
    def commit_on_a_full_disk(self, changes: dict[str, bytes | None], room: int) -> None:
        with file_bytes_max(self.path.stat().st_size + room):
            try:
                self.journal.commit(changes, durable=False)
            except RendezvousConnectionError:
                return
        self.apply(changes)

    @rule()
    def open_again(self) -> None:
        self.journal.close()
        self.journal = Journal(self.path)
        assert self.journal.dropped_bytes == 0

    @rule(changes=commits, data=st.data())
    def crash_in_a_commit(self, changes: dict[str, bytes | None], data: st.DataObject) -> None:
        """The process ended when only a part of the record was written."""
        self.journal.close()
        whole = self.path.read_bytes()
        record = journal_module.pack_record(
            journal_module.encode_body(changes), FILE_HEADER.unpack_from(whole)[2], synced=0
        )
        written = data.draw(st.integers(0, len(record)))
        self.path.write_bytes(whole + record[:written])
        self.journal = Journal(self.path)
        if written == len(record):
            self.apply(changes)
        else:
            assert self.journal.dropped_bytes == written

    @invariant()
    def holds_the_model(self) -> None:
        assert self.journal.load() == self.model

    @invariant()
    def stays_short(self) -> None:
        largest = FILE_HEADER.size + RECORD_HEADER.size + 4 * 80
        assert self.path.stat().st_size <= max(300, 4 * 4 * 80) + 2 * largest

    def teardown(self) -> None:
        self.journal.close()
        journal_module.REWRITE_BYTES_MIN = self.minimum
        self.folder.cleanup()


TestJournalMachine = JournalMachine.TestCase
TestJournalMachine.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
