from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from quorate.launch import gate


def through_the_gate(
    *command: str, opened: bool = True, given: str = "-", passed: Sequence[int] = ()
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-S", gate.__file__, given, *command],
        input="\n" if opened else "",
        pass_fds=passed,
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )


def test_becomes_the_program_once_it_is_let_through() -> None:
    done = through_the_gate("sh", "-c", 'echo "$1"; cat; exit 3', "sh", "a b")
    assert (done.returncode, done.stdout) == (3, "a b\n")


def test_the_program_reads_what_it_is_given_and_nothing_else_is_open() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as file:
        file.write("hello\n")
    done = through_the_gate("sh", "-c", "cat; ls /proc/$$/fd", given=str(reading), passed=[reading])
    os.close(reading)
    assert done.stdout.splitlines() == ["hello", "0", "1", "2"]


def test_ends_if_its_parent_ends_before() -> None:
    done = through_the_gate("echo", "no", opened=False)
    assert (done.returncode, done.stdout) == (1, "")


def test_the_program_does_not_inherit_what_python_ignores() -> None:
    done = through_the_gate("sh", "-c", "grep SigIgn /proc/self/status")
    ignored = int(done.stdout.split()[1], 16)
    # Others may be ignored already by what started the tests: make ignores two of its own.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        assert not ignored & 1 << (number - 1)


def test_a_program_that_is_not_there_is_named() -> None:
    done = through_the_gate("no-such-program")
    assert done.returncode == 127
    assert "cannot start 'no-such-program'" in done.stderr
    assert through_the_gate("/").returncode == 126
