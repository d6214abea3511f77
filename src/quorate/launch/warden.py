"""The warden: a small program that ends process groups when its parent is gone.

    python -I -S warden.py GRACE_S

It reads its standard input, a pipe from its parent: a line `+123` puts process group 123 in its
care, `-123` takes it out again, `/path` names a directory. When the pipe is closed, which happens
however the parent ends, kill -9 included, the groups that are left get SIGTERM, and SIGKILL after
GRACE_S seconds; then the directories are removed, and it ends. `quorate.launch.wards` is the
parent's side.

It uses nothing but the standard library and reads the machine's clock itself, since it runs on
its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Collection, Iterable, Mapping

__all__ = ["NOT_FOR_US", "end_groups", "live_members", "main", "process_start", "signal_group"]

POLL_INTERVAL_S = 0.05

# Terminals and batch systems send these to all processes of a job; the parent's end is what counts.
NOT_FOR_US = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)

# In proc_pid_stat(5), counted from the field after the name.
STATE, GROUP, START = 0, 2, 19


def process_start(pid: int) -> int | None:
    """Return when a process was started, in ticks since the machine's start, or None."""
    fields = _stat(pid)
    return int(fields[START]) if fields else None


def live_members(groups: Collection[int]) -> set[int]:
    """Return the processes of some groups that still run; ended ones not yet reaped do not."""
    members = set()
    for name in os.listdir("/proc"):
        fields = _stat(int(name)) if name.isdecimal() else []
        if fields and int(fields[GROUP]) in groups and fields[STATE] not in (b"Z", b"X"):
            members.add(int(name))
    return members


def signal_group(group: int, number: int) -> None:
    """Send a signal to every process of a group, if there are any left."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def end_groups(groups: Mapping[int, int | None], grace_s: float) -> None:
    """End process groups: SIGTERM, and SIGKILL after a while.

    Args:
        groups: Ids of groups, each with the start of its leader, see `process_start`.
        grace_s: How long they have between the two, in seconds.
    """
    for group in _unchanged(groups):
        signal_group(group, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while live_members(_unchanged(groups)) and time.monotonic() < deadline:
        time.sleep(POLL_INTERVAL_S)
    for group in _unchanged(groups):
        signal_group(group, signal.SIGKILL)


def main(arguments: list[str], lines: Iterable[bytes]) -> None:
    """Take groups into care as the lines say; at their end, end and remove what is left."""
    for number in NOT_FOR_US:
        signal.signal(number, signal.SIG_IGN)
    groups: dict[int, int | None] = {}
    directories = []
    for line in lines:
        if line.startswith(b"/"):
            directories.append(line.rstrip(b"\n"))
            continue
        group = int(line[1:])
        if line.startswith(b"+"):
            groups[group] = process_start(group)
        else:
            groups.pop(group, None)
    end_groups(groups, grace_s=float(arguments[0]))
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


def _unchanged(groups: Mapping[int, int | None]) -> set[int]:
    """Return the groups whose id has not gone to another process meanwhile.

    While any member lives the kernel does not give the leader's id away, so that a leader with
    another start means that the group has ended.
    """
    return {group for group, start in groups.items() if process_start(group) in (None, start)}


def _stat(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except OSError:
        return []


if __name__ == "__main__":
    main(sys.argv[1:], sys.stdin.buffer)
