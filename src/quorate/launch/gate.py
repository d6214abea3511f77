"""The gate: a small program that becomes another one as soon as its parent says so.

    python -I -S gate.py INPUT PROGRAM ARGUMENTS...

It waits for one byte on its standard input. Between the birth of a worker and the moment at which
the warden knows of it, the agent may be killed; a worker behind the gate then ends by itself,
since the byte never comes. The program's standard input is the file whose number INPUT is, or has
nothing in it if INPUT is `-`.
"""

from __future__ import annotations

import os
import signal
import sys

__all__ = ["main"]

NOT_FOUND, NOT_EXECUTABLE = 127, 126


def main(standard_input: str, *command: str) -> int:
    """Wait, then become `command`; return an exit code, as a shell would, if that fails."""
    if not os.read(0, 1):
        return 1
    number = os.open(os.devnull, os.O_RDONLY) if standard_input == "-" else int(standard_input)
    os.dup2(number, 0)
    os.close(number)
    # Python ignores these two, and a program inherits what its predecessor ignored.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"quorate: cannot start {command[0]!r}: {error.strerror}", file=sys.stderr)
        return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
