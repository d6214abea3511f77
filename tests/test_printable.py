from __future__ import annotations

import pytest

from quorate.printable import printable


@pytest.mark.parametrize("text", ["", "job17 is complete", "Ω-Lauf «drei»", r"C:\new", "it's"])
def test_what_can_be_printed_stays(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("x\nINFO all is well", r"x\nINFO all is well"),
        ("\x1b[2J\x1b[Hcomplete", r"\x1b[2J\x1b[Hcomplete"),
        ("\x9b8m\x7f\0", r"\x9b8m\x7f\x00"),
        ("over\rwritten", r"over\rwritten"),
        ("abc\u202e321", r"abc\u202e321"),
        ("a\u2028b", r"a\u2028b"),
        ("not UTF-8: \udcff", r"not UTF-8: \udcff"),
    ],
)
def test_what_commands_a_terminal_or_ends_a_line_is_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown
