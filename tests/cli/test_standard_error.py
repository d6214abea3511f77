"""Who says something to a standard error that nobody reads does not wait, and loses nothing."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from quorate.cli.standard_error import let_nobody_wait


@contextlib.contextmanager
def full_pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Let the standard error be a full pipe; give its reading end."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"\n" * 4096)
    os.set_blocking(writing, True)
    with os.fdopen(writing, "w", encoding="ascii", errors="backslashreplace") as file:
        monkeypatch.setattr(sys, "stderr", file)
        let_nobody_wait()
        yield reading
        os.set_blocking(reading, False)
        with contextlib.suppress(BlockingIOError):
            while os.read(reading, 1 << 20):
                pass
        unwaited: Any = sys.stderr.buffer
        unwaited._writer.close()
    os.close(reading)


def test_all_is_written_in_its_order_once_somebody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    with full_pipe(monkeypatch) as end:
        print("one \u00fc", file=sys.stderr)
        handler = logging.StreamHandler(sys.stderr)
        handler.emit(logging.makeLogRecord({"msg": "two"}))
        sys.stderr.buffer.write(b"three\n")
        sys.stderr.buffer.flush()
        told = b""
        while told.count(b"\n") < 3:
            told += os.read(end, 1 << 20).lstrip(b"\n")
    assert told == b"one \\xfc\ntwo\nthree\n"


def test_it_is_the_same_file(monkeypatch: pytest.MonkeyPatch) -> None:
    with full_pipe(monkeypatch):
        unwaited: Any = sys.stderr.buffer
        assert sys.stderr.fileno() == unwaited._stream.fileno()
        assert not sys.stderr.isatty()


def test_what_is_no_file_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    monkeypatch.setattr(sys, "stderr", text)
    let_nobody_wait()
    assert sys.stderr is text
