from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quorate.launch.standard_input import shared_input

# Becomes the leader of a session on its terminal, and then an agent.
ON_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "quorate", "run", "--standalone", *sys.argv[1:]])
"""


def test_a_pipe_may_be_read() -> None:
    reading, writing = os.pipe()
    assert shared_input(reading) == reading
    os.close(reading)
    os.close(writing)
    assert shared_input(reading) is None


def test_a_terminal_of_another_session_may_not() -> None:
    ours, theirs = pty.openpty()
    assert shared_input(theirs) is None
    os.close(ours)
    os.close(theirs)


def test_a_terminal_may_be_read_from_the_foreground_only(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    monkeypatch.setattr(os, "tcgetpgrp", lambda number: os.getpgrp())
    assert shared_input(theirs) == theirs
    monkeypatch.setattr(os, "tcgetpgrp", lambda number: os.getpgrp() + 1)
    assert shared_input(theirs) is None
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize(
    ("workers", "read"), [("1", ["[0]:read hello"]), ("2", ["[0]:read", "[1]:read"])]
)
def test_one_worker_alone_reads_what_its_agent_is_given(workers: str, read: list[str]) -> None:
    command = [sys.executable, "-m", "quorate", "run", "--standalone", "--nproc-per-node", workers]
    ended = subprocess.run(
        [*command, "--", "sh", "-c", "echo read $(cat)"],
        input="hello\n",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert sorted(ended.stdout.splitlines()) == read, ended.stderr


def test_a_debugger_can_be_talked_to(until: Callable[..., Any], tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("secret = 6 * 7\nbreakpoint()\nprint('went on')\n")
    ours, theirs = pty.openpty()
    agent = subprocess.Popen(
        [sys.executable, "-c", ON_TERMINAL, str(program)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown = b""
    for said in (b"p secret + 1\n", b"c\n"):
        while not shown.endswith(b"(Pdb) "):
            shown += os.read(ours, 1 << 16)
        os.write(ours, said)
        shown += os.read(ours, 1 << 16)
    assert agent.wait(30) == 0, shown
    while b"went on" not in shown:
        shown += os.read(ours, 1 << 16)
    os.close(ours)
    assert b"43" in shown
