"""The line at the bottom of a terminal."""

from __future__ import annotations

import io

from quorate.terminal import LiveLine, WaitLine
from quorate.wait import Wait


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_one_line_that_is_rewritten_and_erased() -> None:
    terminal = Terminal()
    with LiveLine(terminal, 10) as progress:
        progress.show("first")
        progress.show("a longer second")
    assert terminal.getvalue() == "\r\x1b[Kfirst\r\x1b[Ka longer \r\x1b[K"


def test_nobody_else_commands_the_terminal() -> None:
    terminal = Terminal()
    LiveLine(terminal, 80).show("closed: \x1b[2J\n")
    assert terminal.getvalue() == "\r\x1b[K" + r"closed: \x1b[2J\n"


def test_what_is_no_terminal_gets_nothing() -> None:
    stream = io.StringIO()
    with LiveLine(stream, 80) as progress:
        progress.show("first")
    assert stream.getvalue() == ""


def test_a_terminal_that_is_gone_disturbs_nobody() -> None:
    class Gone(Terminal):
        def write(self, text: str) -> int:
            raise OSError("hung up")

    LiveLine(Gone(), 80).show("first")


def test_a_wait_is_shown_with_its_times_until_it_is_over() -> None:
    terminal = Terminal()
    line = WaitLine(LiveLine(terminal, 80))
    line.report(Wait("k", "waiting", 3.0))
    line.report(Wait("k", "waiting", 4.0, gives_up_in_s=6.0))
    line.done()
    assert terminal.getvalue().split("\r\x1b[K") == [
        "",
        "quorate: waiting, since 3 s",
        "quorate: waiting, since 4 s; gives up in 6 s",
        "",
    ]
