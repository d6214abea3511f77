from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from quorate.launch.output import (
    LAST_LINES,
    LINE_BYTES_MAX,
    LineBuffer,
    WorkerOutput,
    is_taking,
)

Until = Callable[..., Any]


def a_pipe() -> tuple[IO[bytes], IO[bytes]]:
    reading, writing = os.pipe()
    return os.fdopen(reading, "rb", 0), os.fdopen(writing, "wb", 0)


class Worker:
    """The writing ends of a worker's pipes."""

    def __init__(self, output: WorkerOutput, rank: int, log: Path | None = None) -> None:
        out, self.out = a_pipe()
        err, self.err = a_pipe()
        output.add(rank, out, err, log)

    def end(self) -> None:
        self.out.close()
        self.err.close()


def test_lines_come_out_whole_with_their_rank(until: Until) -> None:
    out, err = io.BytesIO(), io.BytesIO()
    output = WorkerOutput(out, err)
    one, two = Worker(output, 1), Worker(output, 2)
    output.start()
    one.out.write(b"hel")
    two.out.write(b"other\n")
    until(lambda: out.getvalue() == b"[2]:other\n")
    one.out.write(b"lo\n\nlast")
    one.err.write(b"oh\n")
    until(lambda: err.getvalue() == b"[1]:oh\n")
    one.end()
    two.end()
    output.close()
    assert out.getvalue() == b"[2]:other\n[1]:hello\n[1]:\n[1]:last\n"


def test_what_is_in_the_pipes_at_the_end_comes_out_though_they_stay_open() -> None:
    out = io.BytesIO()
    output = WorkerOutput(out, io.BytesIO())
    worker = Worker(output, 0)
    output.start()
    worker.out.write(b"x" * 30_000 + b"\nlast")
    output.close()
    assert out.getvalue() == b"[0]:" + b"x" * 30_000 + b"\n[0]:last\n"
    worker.end()


def test_a_line_without_end_comes_out_in_pieces() -> None:
    lines = LineBuffer()
    assert lines.feed(b"a" * LINE_BYTES_MAX) == []
    assert lines.feed(b"b") == [b"a" * LINE_BYTES_MAX]
    assert lines.rest() == [b"b"]
    assert lines.rest() == []
    long = lines.feed(b"c" * (2 * LINE_BYTES_MAX + 1) + b"\n")
    assert [len(piece) for piece in long] == [LINE_BYTES_MAX, LINE_BYTES_MAX, 1]


def test_the_last_lines_are_remembered_by_rank() -> None:
    output = WorkerOutput(io.BytesIO(), io.BytesIO())
    worker, silent = Worker(output, 3), Worker(output, 4)
    output.start()
    worker.err.write(b"".join(b"line %d\n" % number for number in range(LAST_LINES + 5)) + b"\xff")
    worker.end()
    silent.end()
    output.close()
    last = output.last_lines(3)
    assert len(last) == LAST_LINES
    assert last[-2:] == [f"line {LAST_LINES + 4}", "\N{REPLACEMENT CHARACTER}"]
    assert output.last_lines(4) == []


def test_output_is_kept_in_a_file_without_the_rank(tmp_path: Path) -> None:
    output = WorkerOutput(io.BytesIO(), io.BytesIO())
    log = tmp_path / "0" / "5.log"
    worker = Worker(output, 5, log)
    output.start()
    worker.out.write(b"kept")
    worker.end()
    output.close()
    assert log.read_bytes() == b"kept\n"


def test_workers_go_on_when_nobody_takes_their_output(tmp_path: Path) -> None:
    class Gone(io.BytesIO):
        def write(self, data: Any) -> int:
            raise BrokenPipeError

    output = WorkerOutput(Gone(), io.BytesIO())
    worker = Worker(output, 0)
    output.start()
    worker.out.write(b"one\n")
    worker.out.write(b"two\n")
    worker.end()
    output.close()
    assert output.last_lines(0) == ["one", "two"]


def test_a_log_that_cannot_be_written_is_told_and_leaves_nothing_open(tmp_path: Path) -> None:
    output = WorkerOutput(io.BytesIO(), io.BytesIO())
    (tmp_path / "0").write_text("not a folder")
    out, out_end = a_pipe()
    err, err_end = a_pipe()
    with pytest.raises(OSError, match="0"):
        output.add(0, out, err, tmp_path / "0" / "0.log")
    output.close()
    assert out.closed
    assert err.closed
    out_end.close()
    err_end.close()


def test_a_full_pipe_is_not_taking_until_it_is_read() -> None:
    reading, writing = a_pipe()
    with reading, writing:
        assert is_taking(writing, 0.0)  # type: ignore[arg-type]
        os.set_blocking(writing.fileno(), False)
        while writing.write(b"x" * 65536):
            continue
        assert not is_taking(writing, 0.0)  # type: ignore[arg-type]
        reading.read(65536)
        assert is_taking(writing, 0.0)  # type: ignore[arg-type]
    assert is_taking(io.BytesIO(), 0.0)
