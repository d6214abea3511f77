"""Lines are written by a thread of their own; what does not fit is lost, and counted."""

from __future__ import annotations

import contextlib
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


def test_a_file_that_can_never_be_written_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="absent"):
        LineWriter(tmp_path / "absent" / "lines")
