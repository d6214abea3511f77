"""An exclusive lock between processes, held on a file of its own."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path
from types import TracebackType

from quorate.clock import Clock, SystemClock
from quorate.errors import RendezvousConnectionError

__all__ = ["LockFile"]

# flock has no time limit of its own, so a bounded wait has to ask again and again.
RETRY_INTERVAL_S = 0.005
HOLDER_BYTES_MAX = 300


class LockFile:
    """One acquisition of an flock(2) lock; it ends with `release`, or with the process.

    The file is never deleted: two processes could then hold locks on two files of one name.

    Args:
        path: The lock file; it is created where it is missing, in a directory that exists.
        timeout_s: How long to wait for another holder, in seconds; 0 asks once.
        clock: Where the time of the wait comes from.
    """

    def __init__(self, path: Path, timeout_s: float, clock: Clock | None = None) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._clock = clock or SystemClock()
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock and leave a note of who holds it.

        Raises:
            RendezvousConnectionError: Somebody else held it for the whole wait; the message
                names the lock file and, where the note says so, the holder.
            OSError: The lock file cannot be opened, as where a symbolic link stands in its place.
        """
        # In a directory that others may write to, a link could stand here for any file of ours.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        try:
            self._wait_for(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        self._note_holder(descriptor)

    def release(self) -> None:
        """Give the lock back; a second call does nothing."""
        if self._descriptor is not None:
            # A child that was forked meanwhile holds the descriptor too: closing is not enough.
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> LockFile:
        """Take the lock, as `acquire` does."""
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the lock back."""
        self.release()

    def _wait_for(self, descriptor: int) -> None:
        deadline = self._clock.monotonic() + self._timeout_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if self._clock.monotonic() >= deadline:
                    raise self._held_error(descriptor) from None
            self._clock.sleep(RETRY_INTERVAL_S)

    def _held_error(self, descriptor: int) -> RendezvousConnectionError:
        note = os.pread(descriptor, HOLDER_BYTES_MAX, 0).decode("ascii", "replace").strip()
        holder = note if note.isprintable() and note else "another process"
        waited = f", {self._timeout_s:g} s long" if self._timeout_s else ""
        return RendezvousConnectionError(
            f"The lock file {self._path} is held by {holder}{waited}. "
            "End that process if it hangs, or use another path."
        )

    def _note_holder(self, descriptor: int) -> None:
        if os.fstat(descriptor).st_nlink > 1:
            # It is another file as well, by a hard link, and that one may hold something.
            return
        note = f"process {os.getpid()} on {socket.gethostname()}\n".encode("ascii", "replace")
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, note[:HOLDER_BYTES_MAX], 0)
        except OSError:
            # The note only helps a person; on a full disk the lock itself still holds.
            return
