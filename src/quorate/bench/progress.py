"""One line that says what is being measured, for a person at a terminal; otherwise nothing."""

from __future__ import annotations

from types import TracebackType
from typing import Self, TextIO

__all__ = ["Progress"]

_ERASE_LINE = "\r\x1b[K"


class Progress:
    """The last line of a terminal, which is rewritten.

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
        if self._is_shown:
            self._stream.write(_ERASE_LINE + text[: self._columns - 1])
            self._stream.flush()
