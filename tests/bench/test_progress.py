"""The line at the bottom of a terminal."""

from __future__ import annotations

import io

from quorate.bench.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_one_line_that_is_rewritten_and_erased() -> None:
    terminal = Terminal()
    with Progress(terminal, 10) as progress:
        progress.show("first")
        progress.show("a longer second")
    assert terminal.getvalue() == "\r\x1b[Kfirst\r\x1b[Ka longer \r\x1b[K"


def test_what_is_no_terminal_gets_nothing() -> None:
    stream = io.StringIO()
    with Progress(stream, 80) as progress:
        progress.show("first")
    assert stream.getvalue() == ""
