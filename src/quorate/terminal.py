"""The last line of a terminal, which is rewritten; for a person who waits, otherwise nothing."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Self, TextIO

from quorate.printable import printable
from quorate.wait import Wait

__all__ = ["ERASE_LINE", "LiveLine", "WaitLine"]

ERASE_LINE = "\r\x1b[K"


class LiveLine:
    """A line that is rewritten in place. Whoever else writes there begins with `ERASE_LINE`.

    Args:
        stream: Where it is shown, if that is a terminal.
        columns: How wide the terminal is.
    """

    def __init__(self, stream: TextIO, columns: int) -> None:
        self._stream = stream
        self._columns = columns
        self._is_shown = stream.isatty()

    def __enter__(self) -> Self:
        """Return the line itself; it is erased at the end."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Erase the line."""
        self.show("")

    def show(self, text: str) -> None:
        """Show this in place of what was there."""
        # The terminal may be gone; what goes on behind the line is not its business.
        with contextlib.suppress(OSError):
            if self._is_shown:
                self._stream.write(ERASE_LINE + printable(text)[: self._columns - 1])
                self._stream.flush()


class WaitLine:
    """Says on a live line what a node waits for, see `quorate.wait.WaitReporter` (R16)."""

    def __init__(self, line: LiveLine) -> None:
        self._line = line

    def report(self, wait: Wait) -> None:
        """Show it, with its times as they are now."""
        self._line.show(f"quorate: {wait}")

    def done(self) -> None:
        """Erase the line."""
        self._line.show("")
