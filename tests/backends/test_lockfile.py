"""The lock file: exclusion between real processes, a bounded wait, a message that helps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from quorate.backends.lockfile import LockFile
from quorate.errors import RendezvousConnectionError
from quorate.testing.clock import ManualClock

HOLD = """
import sys
from pathlib import Path
from quorate.backends.lockfile import LockFile
LockFile(Path(sys.argv[1]), timeout_s=0).acquire()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


def test_a_lock_excludes_until_it_is_released(path: Path) -> None:
    first, second = LockFile(path, timeout_s=0), LockFile(path, timeout_s=0)
    first.acquire()
    with pytest.raises(RendezvousConnectionError):
        second.acquire()
    first.release()
    first.release()
    second.acquire()
    second.release()


def test_a_descriptor_that_a_fork_copied_does_not_keep_the_lock(path: Path) -> None:
    lock = LockFile(path, timeout_s=0)
    lock.acquire()
    assert lock._descriptor is not None
    copy = os.dup(lock._descriptor)
    lock.release()
    with LockFile(path, timeout_s=0):
        os.close(copy)


def test_it_ends_with_its_block(path: Path) -> None:
    with pytest.raises(KeyError), LockFile(path, timeout_s=0):
        raise KeyError
    with LockFile(path, timeout_s=0):
        pass


def test_another_process_is_named_and_its_death_frees_the_lock(path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(RendezvousConnectionError) as caught:
            LockFile(path, timeout_s=0).acquire()
        holder.kill()
    assert str(path) in str(caught.value)
    assert f"process {holder.pid} on " in str(caught.value)
    with LockFile(path, timeout_s=0):
        pass


def test_the_wait_is_bounded(path: Path) -> None:
    clock = ManualClock()
    start_s = clock.monotonic()
    with (
        LockFile(path, timeout_s=0),
        pytest.raises(RendezvousConnectionError, match=r"held by process \d+ on .*, 3 s long"),
    ):
        LockFile(path, timeout_s=3.0, clock=clock).acquire()
    assert 3.0 <= clock.monotonic() - start_s < 3.1


def test_a_lock_that_is_freed_during_the_wait_is_taken(path: Path) -> None:
    holder = LockFile(path, timeout_s=0)
    holder.acquire()

    class ReleasingClock(ManualClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            holder.release()

    with LockFile(path, timeout_s=3.0, clock=ReleasingClock()):
        pass


@pytest.mark.parametrize("note", [b"", b"\x00\x1b[31m", b"\xff" * 5000])
def test_a_strange_note_is_not_shown(path: Path, note: bytes) -> None:
    with LockFile(path, timeout_s=0):
        path.write_bytes(note)
        with pytest.raises(RendezvousConnectionError) as caught:
            LockFile(path, timeout_s=0).acquire()
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_refused_lock_leaves_no_descriptor_open(path: Path) -> None:
    with LockFile(path, timeout_s=0):
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(3):
            with pytest.raises(RendezvousConnectionError):
                LockFile(path, timeout_s=0).acquire()
        assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_file_to_which_a_link_leads_is_left_alone(path: Path, tmp_path: Path) -> None:
    """Somebody else may have put the link there."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path.symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        LockFile(path, timeout_s=0).acquire()
    path.unlink()
    path.hardlink_to(victim)
    with LockFile(path, timeout_s=0):
        assert victim.read_text() == "precious"
