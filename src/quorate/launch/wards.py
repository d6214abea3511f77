"""Process groups that end with this process, however it ends, and directories that go with it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from quorate.launch import warden

__all__ = ["Wards"]

# What the warden may take beyond the grace to end by itself.
CLOSE_MARGIN_S = 5.0


class Wards:
    """Process groups in the care of a warden, see `quorate.launch.warden`.

    The warden is a process of its own, started at once. Call `close` when no group is left that
    must be ended; those that are left then are ended, and after them the directories removed.

    Args:
        grace_s: How long the groups have between SIGTERM and SIGKILL, in seconds.
    """

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._groups: set[int] = set()
        self._directories: list[Path] = []
        self._warden = self._start()

    def __enter__(self) -> Self:
        """Return the wards themselves; `close` is called at the end."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Call `close`."""
        self.close()

    @property
    def warden_pid(self) -> int:
        """The process id of the warden."""
        return self._warden.pid

    def add(self, group: int) -> None:
        """Put a process group in care; call it before the group can do anything."""
        self._groups.add(group)
        self._tell(f"+{group}")

    def remove(self, group: int) -> None:
        """Take a group out of care; call it while its id cannot have been given away yet."""
        self._groups.discard(group)
        self._tell(f"-{group}")

    def add_directory(self, path: Path) -> None:
        """Let a directory be removed once the groups have ended.

        Args:
            path: Its absolute path, without a line break.
        """
        self._directories.append(path)
        self._tell(str(path))

    def close(self) -> None:
        """End the groups that are left, remove the directories, and end the warden."""
        self._release(self._warden, CLOSE_MARGIN_S + self._grace_s)

    def _tell(self, line: str) -> None:
        try:
            self._write(line)
        except BrokenPipeError:
            # Somebody has killed the warden: another one takes over.
            self._release(self._warden, CLOSE_MARGIN_S)
            self._warden = self._start()
            for group in sorted(self._groups):
                self._write(f"+{group}")
            for directory in self._directories:
                self._write(str(directory))

    def _write(self, line: str) -> None:
        assert self._warden.stdin is not None
        self._warden.stdin.write(os.fsencode(line) + b"\n")

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(warden.__file__)), str(self._grace_s)],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )

    @staticmethod
    def _release(process: subprocess.Popen[bytes], timeout_s: float) -> None:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
