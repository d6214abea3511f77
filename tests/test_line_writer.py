"""Lines are written by a thread of their own; what does not fit is lost, and counted."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quorate import line_writer
from quorate.line_writer import LineWriter

Until = Callable[..., Any]


@pytest.fixture
def make() -> Iterator[Callable[..., LineWriter]]:
    with contextlib.ExitStack() as closing:

        def make_one(*args: Any, **options: Any) -> LineWriter:
            writer = LineWriter(*args, **options)
            closing.callback(writer.close)
            return writer

        yield make_one


class Stuck:
    """A pipe whose reader has stopped: the standard output of one test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.end, full = os.pipe()
        os.set_blocking(full, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(full, b"\n" * 4096)
        os.set_blocking(full, True)
        self._full = full
        monkeypatch.setattr(line_writer, "STANDARD_OUTPUT", full)

    def read(self) -> bytes:
        return os.read(self.end, 1 << 20).lstrip(b"\n")

    def close(self) -> None:
        os.close(self.end)
        os.close(self._full)


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stuck]:
    pipe = Stuck(monkeypatch)
    yield pipe
    pipe.close()


def test_lines_are_there_when_it_has_ended(make: Callable[..., LineWriter], tmp_path: Path) -> None:
    path = tmp_path / "lines"
    writer = make(path)
    for number in range(1000):
        writer.write(b"%d\n" % number)
    writer.close()
    assert path.read_bytes().split() == [b"%d" % number for number in range(1000)]


def test_a_file_may_be_moved_away(
    make: Callable[..., LineWriter], tmp_path: Path, until: Until
) -> None:
    path = tmp_path / "lines"
    writer = make(path)
    writer.write(b"one\n")
    until(lambda: path.read_bytes() == b"one\n")
    path.rename(tmp_path / "lines.1")
    writer.write(b"two\n")
    until(lambda: path.exists() and path.read_bytes() == b"two\n")
    assert (tmp_path / "lines.1").read_bytes() == b"one\n"


def test_nobody_waits_for_a_reader_and_what_does_not_fit_is_counted(
    make: Callable[..., LineWriter], stuck: Stuck, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    writer = make(None, waiting_bytes_max=8)
    for line in (b"one\n", b"two\n", b"three\n", b"four\n"):
        writer.write(line)
    assert [record.message for record in caplog.records] == [
        "the standard output: lines are lost, since it takes them more slowly than they come, or "
        "not at all"
    ]
    written = b""
    while written.count(b"\n") < 2:
        written += stuck.read()
    assert written == b"one\ntwo\n"
    until(lambda: len(caplog.records) == 2)
    assert caplog.records[1].message == "the standard output: takes lines again; lost were 2"
    until(lambda: not writer._waiting_bytes)
    writer.write(b"five\n")
    assert stuck.read() == b"five\n"


def test_the_end_does_not_wait_for_ever(
    make: Callable[..., LineWriter], stuck: Stuck, caplog: pytest.LogCaptureFixture
) -> None:
    writer = make(None)
    writer.write(b"one\n")
    writer.close(timeout_s=0.01)
    assert "it took nothing for 0.01 s at the end" in caplog.text
    stuck.read()


def test_a_file_that_cannot_be_written_for_a_while(
    make: Callable[..., LineWriter], tmp_path: Path, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "lines"
    writer = make(path)
    path.unlink()
    folder.rmdir()
    writer.write(b"one\n")
    until(lambda: "it cannot be written (No such file or directory)" in caplog.text)
    folder.mkdir()
    writer.write(b"two\n")
    until(lambda: "takes lines again; lost were 1" in caplog.text)
    assert path.read_bytes() == b"two\n"


class FullDisk:
    """Takes so many bytes more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free_bytes: int) -> None:
        self.free_bytes = free_bytes
        self._write = os.write
        monkeypatch.setattr(line_writer.os, "write", self.write)

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        if not self.free_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        part = bytes(data)[: self.free_bytes]
        self.free_bytes -= len(part)
        return self._write(descriptor, part)


def test_a_line_that_was_broken_off_costs_no_other_one(
    make: Callable[..., LineWriter],
    tmp_path: Path,
    until: Until,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "lines"
    writer = make(path)
    disk = FullDisk(monkeypatch, 10)
    for line in (b"one\n", b"two\n", b"three\n"):
        writer.write(line)
        until(lambda: not writer._waiting_bytes)
    assert path.read_bytes() == b"one\ntwo\nth"
    assert "No space left" in caplog.text
    writer.write(b"four\n")
    until(lambda: not writer._waiting_bytes)
    disk.free_bytes = 1000
    writer.write(b"five\n")
    until(lambda: "takes lines again; lost were 2" in caplog.text)
    writer.write(b"six\n")
    until(lambda: path.read_bytes() == b"one\ntwo\nth\nfive\nsix\n")


def test_of_lines_that_are_written_together_the_whole_ones_are_not_lost(
    make: Callable[..., LineWriter],
    tmp_path: Path,
    until: Until,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "lines"
    writer = make(path)
    disk = FullDisk(monkeypatch, 9)
    monkeypatch.setattr(writer, "_take", iter([[b"one\n", b"two\n", b"three\n"], []]).__next__)
    writer._run()
    monkeypatch.undo()
    assert disk.free_bytes == 0
    # A file that has taken the place of the one with half a line begins with a whole one.
    path.rename(tmp_path / "lines.1")
    writer.write(b"four\n")
    until(lambda: "takes lines again; lost were 1" in caplog.text)
    assert path.read_bytes() == b"four\n"


# Where there are threads, Python is afraid of forks.
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_writes_its_own_lines(
    make: Callable[..., LineWriter], tmp_path: Path, until: Until
) -> None:
    path = tmp_path / "lines"
    writer = make(path)
    with writer._changed:
        # Nobody lets it go in the child.
        writer._lines.append(b"of the parent\n")
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                writer.write(b"of the child\n")
                writer.close()
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert path.read_bytes() == b"of the child\n"
    writer.write(b"last\n")
    until(lambda: path.read_bytes() == b"of the child\nof the parent\nlast\n")


def test_a_file_that_can_never_be_written_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="absent"):
        LineWriter(tmp_path / "absent" / "lines")


def test_what_is_written_without_an_end_stays_so(make: Callable[..., LineWriter]) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    writer = make(None, descriptor=writing)
    for text in (b"\rone", b"\rtwo"):
        writer.write(text)
        assert os.read(reading, 100) == text
    writer.write(b"x" * (1 << 20))
    # The pipe is full for a moment, and its writer told not to wait.
    assert sum(len(os.read(reading, 1 << 16)) for _ in range(16)) > 0
    while writer._waiting_bytes:
        os.set_blocking(reading, False)
        with contextlib.suppress(BlockingIOError):
            os.read(reading, 1 << 20)
    assert not writer._lost
    writer.close()
    os.close(reading)
    os.close(writing)
