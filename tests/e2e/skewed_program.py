"""Run a Python program as on a machine whose wall clock is wrong.

skewed_program.py OFFSET_S FILE ARGUMENT...
skewed_program.py OFFSET_S -m MODULE ARGUMENT...
"""

from __future__ import annotations

import runpy
import sys
import time
from datetime import datetime, tzinfo

import quorate.clock


def skew(offset_s: float) -> None:
    """Let all that reads the wall clock in this process be wrong by so much."""
    right = time.time
    time.time = lambda: right() + offset_s

    class SkewedDatetime(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.fromtimestamp(time.time(), tz)

    quorate.clock.datetime = SkewedDatetime  # type: ignore[misc]


def main() -> None:
    skew(float(sys.argv[1]))
    if sys.argv[2] == "-m":
        sys.argv = sys.argv[3:]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = sys.argv[2:]
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
