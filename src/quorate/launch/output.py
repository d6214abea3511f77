"""What the workers print: line by line, with the rank before each line, and kept in files."""

from __future__ import annotations

import collections
import contextlib
import os
import select
import selectors
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO

__all__ = ["PATIENCE_S", "LineBuffer", "WorkerOutput", "is_taking"]

# A line that is longer comes out in pieces, so that a worker cannot fill the agent's memory.
LINE_BYTES_MAX = 64 * 1024
READ_BYTES = 64 * 1024
LAST_LINES = 20

# A process that has escaped from its worker may print for ever: at the end no more than the
# largest pipe can hold is read of each.
DRAIN_BYTES_MAX = 1024 * 1024

# A terminal or a pipe that takes no output must not keep the agent from its work, nor from ending.
PATIENCE_S = 5.0


def is_taking(target: BinaryIO, timeout_s: float) -> bool:
    """Return whether a target takes some output now or soon; what is no file always does."""
    try:
        number = target.fileno()
    except (OSError, ValueError):
        return True
    poll = select.poll()
    poll.register(number, select.POLLOUT)
    return bool(poll.poll(timeout_s * 1000))


class LineBuffer:
    """Cuts bytes into lines of bounded length."""

    def __init__(self) -> None:
        self._partial = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that are complete by now, without their ends."""
        *complete, self._partial = (self._partial + data).split(b"\n")
        lines = [piece for line in complete for piece in _pieces(line)]
        while len(self._partial) > LINE_BYTES_MAX:
            lines.append(self._partial[:LINE_BYTES_MAX])
            self._partial = self._partial[LINE_BYTES_MAX:]
        return lines

    def rest(self) -> list[bytes]:
        """Return the last line, if it has no end."""
        rest, self._partial = self._partial, b""
        return [rest] if rest else []


@dataclass
class _Stream:
    rank: int
    pipe: IO[bytes]
    target: BinaryIO
    log: BinaryIO | None = None
    lines: LineBuffer = field(default_factory=LineBuffer)


class WorkerOutput:
    """One thread that passes on what some workers print.

    Call `add` for each worker, then `start`, and `close` once the workers have ended.

    Args:
        out: Where the lines of their standard outputs go.
        err: Where the lines of their standard errors go.
    """

    def __init__(self, out: BinaryIO, err: BinaryIO) -> None:
        self._out = out
        self._err = err
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
            for stream in streams:
                stream.log = file

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
            ready = [key.data for key, _ in self._selector.select()]
            for stream in filter(None, ready):
                self._read(stream)
            if None in ready:
                break
        for stream in self._streams:
            for _ in range(DRAIN_BYTES_MAX // READ_BYTES):
                if stream.pipe.closed or not self._read(stream):
                    break
            self._pass_on(stream, stream.lines.rest())

    def _read(self, stream: _Stream) -> bool:
        """Read once; return whether there may be more."""
        try:
            data = os.read(stream.pipe.fileno(), READ_BYTES)
        except BlockingIOError:
            return False
        if data:
            self._pass_on(stream, stream.lines.feed(data))
            return True
        self._pass_on(stream, stream.lines.rest())
        self._selector.unregister(stream.pipe)
        stream.pipe.close()
        return False

    def _pass_on(self, stream: _Stream, lines: list[bytes]) -> None:
        if not lines:
            return
        with self._lock:
            self._last[stream.rank].extend(lines)
        # Whoever read our output may be gone, or the disk full: the worker goes on all the same.
        with contextlib.suppress(OSError, ValueError):
            stream.target.write(b"".join(b"[%d]:%b\n" % (stream.rank, line) for line in lines))
            stream.target.flush()
        if stream.log is not None:
            with contextlib.suppress(OSError):
                stream.log.write(b"".join(line + b"\n" for line in lines))

    def _release(self) -> None:
        self._selector.close()
        os.close(self._closing)
        for stream in self._streams:
            stream.pipe.close()
        for log in self._logs:
            log.close()


def _pieces(line: bytes) -> list[bytes]:
    starts = range(0, max(len(line), 1), LINE_BYTES_MAX)
    return [line[start : start + LINE_BYTES_MAX] for start in starts]
