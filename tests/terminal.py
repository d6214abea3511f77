"""A terminal for tests, and the program that runs on it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from collections.abc import Sequence


class Terminal:
    """A pseudo-terminal: what is drawn on it, and by whom."""

    def __init__(self, command: Sequence[str]) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(command, stdout=theirs, stderr=theirs)
        os.close(theirs)
        self.drawn = b""

    def read(self) -> bool:
        """Read on; return whether there may be more to come."""
        try:
            self.drawn += os.read(self._ours, 1 << 16)
        except OSError:
            # Linux says so once nobody has the other side open.
            return False
        return True

    def end(self) -> int:
        """Press Ctrl-C, and return what the program exits with."""
        self.process.send_signal(signal.SIGINT)
        while self.read():
            pass
        os.close(self._ours)
        return self.process.wait(10)
