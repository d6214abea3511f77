"""The standard error of a process that must not wait for whoever reads it."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, TextIO

from quorate.line_writer import LineWriter

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["let_nobody_wait"]

# Some 8,000 lines of usual length.
WAITING_BYTES_MAX = 1024 * 1024


class _Unwaited(io.RawIOBase):
    """Hands what is written to a writer, which does the waiting.

    Args:
        stream: The standard error as it was, a file.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        # Kept, since a stream that nobody has any more closes its file.
        self._stream = stream
        self._writer = LineWriter(None, WAITING_BYTES_MAX, stream.fileno())

    def writable(self) -> bool:
        """See `io.IOBase`."""
        return True

    def fileno(self) -> int:
        """See `io.IOBase`."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """See `io.IOBase`."""
        return self._stream.isatty()

    def write(self, data: ReadableBuffer) -> int:
        """Have all of it written, or lost: see `LineWriter`."""
        self._writer.write(bytes(data))
        return memoryview(data).nbytes


def let_nobody_wait() -> None:
    """Have all that goes to `sys.stderr` written by a thread of its own, in its order.

    That is the log, the last words of a command, warnings and tracebacks. What is no file, as in
    a test, is left as it is.
    """
    stream = sys.stderr
    try:
        raw = _Unwaited(stream)
    except (OSError, ValueError):
        return
    # It keeps nothing back: another thread's line would stand in the middle of one of ours.
    sys.stderr = io.TextIOWrapper(
        raw,
        encoding=stream.encoding,
        errors=stream.errors,
        write_through=True,
    )
