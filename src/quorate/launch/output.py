"""What the workers print: line by line, with the rank before each line, and kept in files.

A carriage return ends a line too, and what has no end is passed on after a while, so that progress
bars and prompts are seen. A line that another one has interrupted begins again with its rank.
"""

from __future__ import annotations

import collections
import contextlib
import os
import selectors
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO

from quorate.clock import Clock, SystemClock

__all__ = ["LineBuffer", "WorkerOutput"]

# A line that is longer comes out in pieces, so that a worker cannot fill the agent's memory.
LINE_BYTES_MAX = 64 * 1024
READ_BYTES = 64 * 1024
LAST_LINES = 20

# A process that has escaped from its worker may print for ever: at the end no more than the
# largest pipe can hold is read of each.
DRAIN_BYTES_MAX = 1024 * 1024

# A terminal or a pipe that takes no output must not keep the agent from its work, nor from ending.
PATIENCE_S = 5.0

# For how long the end of a line is waited for, from its beginning: who writes dots pauses for less.
SILENCE_S = 0.5

ENDS = b"\r\n"


class LineBuffer:
    """Cuts bytes into lines with their ends, and long or slow ones into pieces.

    What ends neither with a line feed nor with a carriage return goes on in the next piece.
    """

    def __init__(self) -> None:
        self._partial = b""
        self._begun_at_s = 0.0

    def feed(self, data: bytes, now_s: float) -> list[bytes]:
        """Return what can be passed on by now.

        Args:
            data: What was written.
            now_s: The time, in seconds.
        """
        before, lines = self._partial, (self._partial + data).splitlines(keepends=True)
        # A carriage return at the end of what was read may be half of an end.
        begun = b"" if not lines or lines[-1].endswith(b"\n") else lines.pop()
        *long, self._partial = _pieces(begun)
        if lines or long or not before:
            self._begun_at_s = now_s
        return [piece for line in lines for piece in _pieces(line)] + long

    @property
    def due_s(self) -> float | None:
        """When `overdue` has something to return, unless the line ends before."""
        return self._begun_at_s + SILENCE_S if self._partial else None

    def overdue(self, now_s: float) -> list[bytes]:
        """Return the line that was begun, if its end has been missing for a while."""
        return self.rest() if self.due_s is not None and now_s >= self.due_s else []

    def rest(self) -> list[bytes]:
        """Return the line that was begun."""
        rest, self._partial = self._partial, b""
        return [rest] if rest else []


class _Target:
    """Where lines go, and whose line it is that has not ended there.

    Args:
        file: Takes them.
        with_rank: Whether each line has its worker's rank before it.
    """

    def __init__(self, file: BinaryIO, with_rank: bool = True) -> None:
        self._file = file
        self._with_rank = with_rank
        self._open: _Stream | None = None

    def write(self, stream: _Stream, pieces: list[bytes]) -> None:
        """Write pieces; a line of another stream that has not ended is ended.

        Raises:
            OSError: It cannot be written.
            ValueError: It was closed.
        """
        parts = []
        for piece in pieces:
            if self._open is not stream:
                parts.append(b"\n" if self._open is not None else b"")
                parts.append(b"[%d]:" % stream.rank if self._with_rank else b"")
            parts.append(piece)
            self._open = None if piece[-1:] in ENDS else stream
        self._file.write(b"".join(parts))
        self._file.flush()

    def leads_to(self, file: BinaryIO) -> bool:
        """Return whether a file is the same one, as a terminal is for both outputs."""
        try:
            return os.path.sameopenfile(self._file.fileno(), file.fileno())
        except (OSError, ValueError):
            return self._file is file


@dataclass(eq=False)
class _Stream:
    rank: int
    pipe: IO[bytes]
    target: _Target
    log: _Target | None = None
    lines: LineBuffer = field(default_factory=LineBuffer)
    begun: bytes = b""

    def finished(self, pieces: list[bytes]) -> list[bytes]:
        """Return the lines that have ended; what a carriage return ends is written over."""
        lines = []
        for piece in pieces:
            self.begun = (self.begun + piece)[-LINE_BYTES_MAX:]
            if piece.endswith(b"\n"):
                lines.append(self.begun.rstrip(ENDS))
            if piece[-1:] in ENDS:
                self.begun = b""
        return lines


class WorkerOutput:
    """One thread that passes on what some workers print.

    Call `add` for each worker, then `start`, and `close` once the workers have ended.

    Args:
        out: Where the lines of their standard outputs go.
        err: Where the lines of their standard errors go.
        clock: Measures how long lines wait for their ends.
    """

    def __init__(self, out: BinaryIO, err: BinaryIO, clock: Clock | None = None) -> None:
        self._out = _Target(out)
        self._err = self._out if self._out.leads_to(err) else _Target(err)
        self._clock = clock or SystemClock()
        self._streams: list[_Stream] = []
        self._logs: list[BinaryIO] = []
        self._last: dict[int, collections.deque[bytes]] = {}
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._closing, self._close = os.pipe()
        self._thread = threading.Thread(target=self._run, name="worker-output", daemon=True)

    def add(self, rank: int, out: IO[bytes], err: IO[bytes], log: Path | None) -> None:
        """Read two pipes of a worker.

        Args:
            rank: The worker's rank.
            out: Its standard output.
            err: Its standard error.
            log: The file to which both are appended as well, without the rank.

        Raises:
            OSError: The file cannot be written.
        """
        self._last[rank] = collections.deque(maxlen=LAST_LINES)
        streams = [_Stream(rank, out, self._out), _Stream(rank, err, self._err)]
        for stream in streams:
            os.set_blocking(stream.pipe.fileno(), False)
            self._streams.append(stream)
            self._selector.register(stream.pipe, selectors.EVENT_READ, stream)
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            file = log.open("ab", buffering=0)
            self._logs.append(file)
            target = _Target(file, with_rank=False)
            for stream in streams:
                stream.log = target

    def start(self) -> None:
        """Begin to read."""
        self._selector.register(self._closing, selectors.EVENT_READ)
        self._thread.start()

    def last_lines(self, rank: int) -> list[str]:
        """Return the last lines that a worker has printed; all are there after `close`."""
        with self._lock:
            return [line.decode(errors="replace") for line in self._last.get(rank, ())]

    def close(self) -> None:
        """Pass on what the workers have left in the pipes, and end the thread."""
        os.close(self._close)
        if self._thread.ident is not None:
            self._thread.join(PATIENCE_S)
        if not self._thread.is_alive():
            self._release()

    def _run(self) -> None:
        while True:
            ready = [key.data for key, _ in self._selector.select(self._patience_s())]
            for stream in filter(None, ready):
                self._read(stream)
            for stream in self._streams:
                self._pass_on(stream, stream.lines.overdue(self._clock.monotonic()))
            if None in ready:
                break
        for stream in self._streams:
            for _ in range(DRAIN_BYTES_MAX // READ_BYTES):
                if stream.pipe.closed or not self._read(stream):
                    break
            self._end(stream)

    def _patience_s(self) -> float | None:
        """Return until when a line is waited for whose end is missing, from now."""
        due = [stream.lines.due_s for stream in self._streams]
        first_s = min((due_s for due_s in due if due_s is not None), default=None)
        return None if first_s is None else max(0.0, first_s - self._clock.monotonic())

    def _read(self, stream: _Stream) -> bool:
        """Read once; return whether there may be more."""
        try:
            data = os.read(stream.pipe.fileno(), READ_BYTES)
        except BlockingIOError:
            return False
        if data:
            self._pass_on(stream, stream.lines.feed(data, self._clock.monotonic()))
            return True
        self._end(stream)
        self._selector.unregister(stream.pipe)
        stream.pipe.close()
        return False

    def _end(self, stream: _Stream) -> None:
        """Pass on what a stream has left, and end its last line."""
        self._pass_on(stream, stream.lines.rest())
        if stream.begun:
            self._pass_on(stream, [b"\n"])

    def _pass_on(self, stream: _Stream, pieces: list[bytes]) -> None:
        if not pieces:
            return
        with self._lock:
            self._last[stream.rank].extend(stream.finished(pieces))
        for target in filter(None, (stream.target, stream.log)):
            # Whoever read our output may be gone, or the disk full: the worker goes on.
            with contextlib.suppress(OSError, ValueError):
                target.write(stream, pieces)

    def _release(self) -> None:
        self._selector.close()
        os.close(self._closing)
        for stream in self._streams:
            stream.pipe.close()
        for log in self._logs:
            log.close()


def _pieces(line: bytes) -> list[bytes]:
    """Cut a line that is too long; its end stays whole."""
    if len(line) <= LINE_BYTES_MAX:
        return [line]
    text = line.rstrip(ENDS)
    pieces = [text[start : start + LINE_BYTES_MAX] for start in range(0, len(text), LINE_BYTES_MAX)]
    return [*pieces[:-1], pieces[-1] + line[len(text) :]]
