"""Lines for a file, written by a thread of their own: nobody waits for a disk or a reader."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import select
import threading
import weakref
from pathlib import Path

__all__ = ["LineWriter"]

logger = logging.getLogger(__name__)

STANDARD_OUTPUT = 1

# Some 40,000 events of usual length: as many as a run of 10,000 nodes makes in some minutes.
WAITING_BYTES_MAX = 16 * 1024 * 1024

# A process that ends does not wait longer for who does not read.
CLOSE_TIMEOUT_S = 2.0


_writers: weakref.WeakSet[LineWriter] = weakref.WeakSet()


def _begin_anew_in_child() -> None:
    """After a fork: the threads are the parent's, and so are the lines that wait for them."""
    for writer in list(_writers):
        writer.forget()


os.register_at_fork(after_in_child=_begin_anew_in_child)


class LineWriter:
    """Appends lines to a file, or to the standard output or error.

    What does not fit while the file takes nothing is lost, and said to be in the log. At the end
    of the process what waits is written. The file may be moved away at any time: lines that come
    later go to a new one. A forked child writes its own.

    Args:
        path: The file; `None` for one that is open.
        waiting_bytes_max: How much may wait.
        descriptor: The number of the one that is open; `None` for the standard output.

    Raises:
        OSError: The file cannot be written to.
    """

    def __init__(
        self,
        path: Path | None,
        waiting_bytes_max: int = WAITING_BYTES_MAX,
        descriptor: int | None = None,
    ) -> None:
        if path is not None:
            path.open("ab").close()
        self._path = path
        self._waiting_bytes_max = waiting_bytes_max
        self._descriptor = descriptor if descriptor is not None else STANDARD_OUTPUT
        self._is_closed = False
        # The file whose last line is incomplete: the disk was full in the middle of it.
        self._torn: tuple[int, int] | None = None
        # How many lines of the last write are whole.
        self._whole = 0
        self.forget()
        self._start()
        _writers.add(self)
        atexit.register(self.close)

    def write(self, line: bytes) -> None:
        """Have a line written, its end included; it never waits."""
        with self._changed:
            takes = not self._is_closed
            takes = takes and self._waiting_bytes + len(line) <= self._waiting_bytes_max
            # A forked child may have too many threads for another one.
            with contextlib.suppress(RuntimeError):
                self._start()
            takes = takes and self._thread is not None
            if takes:
                self._lines.append(line)
                self._waiting_bytes += len(line)
                self._changed.notify()
        if not takes:
            self._lose(1, "it takes them more slowly than they come, or not at all")

    def forget(self) -> None:
        """Begin as if nothing had been written yet, and without a thread: in a forked child."""
        self._changed = threading.Condition()
        self._lines: list[bytes] = []
        self._waiting_bytes = 0
        self._lost = 0
        self._thread: threading.Thread | None = None

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Write what waits, and end; what comes later is lost.

        Args:
            timeout_s: How long that may take, in seconds; what is not written by then is lost.
        """
        atexit.unregister(self.close)
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self._thread is None:
            return
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._lose(1, f"it took nothing for {timeout_s:g} s at the end")

    def _start(self) -> None:
        if self._thread is None:
            # A daemon: a write that does not return must not keep the process from ending.
            thread = threading.Thread(target=self._run, name="line-writer", daemon=True)
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        while lines := self._take():
            data = b"".join(lines)
            try:
                self._whole = 0
                self._append(data)
            except OSError as error:
                self._lose(len(lines) - self._whole, f"it cannot be written ({error.strerror})")
            else:
                self._tell_lost()
            with self._changed:
                self._waiting_bytes -= len(data)

    def _take(self) -> list[bytes]:
        """Return all lines that wait, as soon as there are any; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._is_closed)
            lines, self._lines = self._lines, []
            return lines

    def _append(self, data: bytes) -> None:
        if self._path is None:
            self._write_all(self._descriptor, data)
            return
        # Opened each time, so that the file may be moved away meanwhile.
        with self._path.open("ab", buffering=0) as file:
            self._write_all(file.fileno(), data)

    def _write_all(self, descriptor: int, data: bytes) -> None:
        """Write without a buffer of Python's, which would be flushed, and waited for, at the end.

        What comes after a line that was broken off begins a line of its own.
        """
        status = os.fstat(descriptor)
        file = (status.st_dev, status.st_ino)
        if self._torn == file:
            os.write(descriptor, b"\n")
        self._torn = None
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[_write(descriptor, rest) :]
        finally:
            written = data[: len(data) - len(rest)]
            self._whole = written.count(b"\n")
            # What was written to its end is as whoever has it written wants it, as a live line is.
            if rest and written and not written.endswith(b"\n"):
                self._torn = file

    def _lose(self, count: int, why: str) -> None:
        with self._changed:
            is_news = not self._lost
            self._lost += count
        if is_news:
            logger.warning("%s: lines are lost, since %s", self._name, why)

    def _tell_lost(self) -> None:
        with self._changed:
            lost, self._lost = self._lost, 0
        if lost:
            logger.warning("%s: takes lines again; lost were %d", self._name, lost)

    @property
    def _name(self) -> str:
        if self._path is not None:
            return str(self._path)
        return (
            "the standard output" if self._descriptor == STANDARD_OUTPUT else "the standard error"
        )


def _write(descriptor: int, data: memoryview) -> int:
    """Write once something fits, also where another program has asked that nobody waits for it."""
    while True:
        try:
            return os.write(descriptor, data)
        except BlockingIOError:
            select.select([], [descriptor], [])
