from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import pytest

from quorate.launch.output import (
    LAST_LINES,
    LINE_BYTES_MAX,
    SILENCE_S,
    LineBuffer,
    WorkerOutput,
)
from quorate.testing import ManualClock

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
    output = WorkerOutput(out, err, ManualClock())
    one, two = Worker(output, 1), Worker(output, 2)
    output.start()
    two.out.write(b"other\n")
    until(lambda: out.getvalue() == b"[2]:other\n")
    one.out.write(b"hel")
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
    assert lines.feed(b"a" * LINE_BYTES_MAX, 0.0) == []
    assert lines.feed(b"b", 0.0) == [b"a" * LINE_BYTES_MAX]
    assert lines.rest() == [b"b"]
    assert lines.rest() == []
    for end in (b"\n", b"\r\n"):
        *long, last = lines.feed(b"c" * (2 * LINE_BYTES_MAX) + end, 0.0)
        assert (long, last) == ([b"c" * LINE_BYTES_MAX], b"c" * LINE_BYTES_MAX + end)


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ((b"one\rtwo\n",), [b"one\r", b"two\n"]),
        ((b"one\r\n\n",), [b"one\r\n", b"\n"]),
        ((b"one\r", b"\ntwo\n"), [b"one\r\n", b"two\n"]),
        ((b"one\r", b"two"), [b"one\r", b"two"]),
        ((b"\r\r", b"\r"), [b"\r", b"\r", b"\r"]),
        ((b"one\x0b\x0c\x1c\x85two",), [b"one\x0b\x0c\x1c\x85two"]),
    ],
)
def test_a_carriage_return_is_an_end_too(written: Sequence[bytes], told: list[bytes]) -> None:
    lines = LineBuffer()
    assert [piece for data in written for piece in lines.feed(data, 0.0)] + lines.rest() == told


def test_a_line_that_was_begun_is_overdue_after_a_while() -> None:
    lines = LineBuffer()
    assert lines.due_s is None
    lines.feed(b"one", 10.0)
    assert lines.overdue(10.0 + SILENCE_S / 2) == []
    lines.feed(b" and two", 10.0 + SILENCE_S / 2)
    assert lines.due_s == 10.0 + SILENCE_S
    assert lines.overdue(10.0 + SILENCE_S) == [b"one and two"]
    assert lines.overdue(12.0) == []
    assert lines.due_s is None
    lines.feed(b"three", 20.0)
    assert lines.feed(b"\nfour", 20.1) == [b"three\n"]
    assert lines.due_s == 20.1 + SILENCE_S


def test_dots_are_seen_while_they_keep_coming() -> None:
    lines, seen = LineBuffer(), b""
    for second in range(20):
        seen += b"".join(lines.overdue(second * SILENCE_S / 2))
        lines.feed(b".", second * SILENCE_S / 2)
    assert len(seen) >= 18


def test_a_prompt_is_seen_and_goes_on_where_nobody_has_interrupted_it(
    until: Until, tmp_path: Path
) -> None:
    out, clock = io.BytesIO(), ManualClock()
    output = WorkerOutput(out, io.BytesIO(), clock)
    one, two = Worker(output, 1, tmp_path / "1.log"), Worker(output, 2)
    output.start()

    def seen(expected: bytes) -> bool:
        clock.advance(SILENCE_S)
        return out.getvalue() == expected

    one.out.write(b"Sure? ")
    until(lambda: seen(b"[1]:Sure? "))
    one.out.write(b"yes\nMore? ")
    until(lambda: seen(b"[1]:Sure? yes\n[1]:More? "))
    two.out.write(b"hello\n")
    until(lambda: seen(b"[1]:Sure? yes\n[1]:More? \n[2]:hello\n"))
    one.err.write(b"oh\n")
    until(lambda: b"oh" in (tmp_path / "1.log").read_bytes())
    one.out.write(b"no")
    one.end()
    two.end()
    output.close()
    assert out.getvalue() == b"[1]:Sure? yes\n[1]:More? \n[2]:hello\n[1]:no\n"
    assert (tmp_path / "1.log").read_bytes() == b"Sure? yes\nMore? \noh\nno\n"
    assert output.last_lines(1) == ["Sure? yes", "oh", "More? no"]


def test_a_progress_bar_is_drawn_over_itself_and_remembered_once() -> None:
    out = io.BytesIO()
    output = WorkerOutput(out, io.BytesIO())
    worker = Worker(output, 0)
    output.start()
    worker.out.write(b"\r 10 %\r 20 %\r 30 %\n")
    worker.end()
    output.close()
    assert out.getvalue() == b"[0]:\r[0]: 10 %\r[0]: 20 %\r[0]: 30 %\n"
    assert output.last_lines(0) == [" 30 %"]


def test_outputs_that_lead_to_one_terminal_do_not_run_into_each_other(
    until: Until, tmp_path: Path
) -> None:
    path, clock = tmp_path / "terminal", ManualClock()

    def seen(expected: str) -> bool:
        clock.advance(SILENCE_S)
        return path.read_text() == expected

    with path.open("ab", 0) as out, path.open("ab", 0) as err:
        output = WorkerOutput(out, err, clock)
        worker = Worker(output, 0)
        output.start()
        worker.err.write(b"half a bar")
        until(lambda: seen("[0]:half a bar"))
        worker.out.write(b"loss\n")
        until(lambda: seen("[0]:half a bar\n[0]:loss\n"))
        worker.end()
        output.close()


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
