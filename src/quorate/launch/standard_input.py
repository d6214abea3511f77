"""The standard input of an agent, where a worker may have it."""

from __future__ import annotations

import os

__all__ = ["shared_input"]


def shared_input(number: int = 0) -> int | None:
    """Return the number of a file that a worker may read, `None` if it may not.

    Of a terminal only those in the foreground may read, and the system stops others that try. It
    does not stop a worker, which has a session of its own: one whose agent is in the background
    would take what is typed for somebody else.

    Args:
        number: That of the standard input.
    """
    try:
        if os.isatty(number) and os.tcgetpgrp(number) != os.getpgrp():
            return None
        os.fstat(number)
    except OSError:
        # It is closed, or the terminal of another session.
        return None
    return number
