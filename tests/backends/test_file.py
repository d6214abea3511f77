"""The file backend: the contract, real processes that die, locks that are held, damage."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from quorate.backends import file as file_module
from quorate.backends.base import RendezvousBackend
from quorate.backends.file import FileRendezvousBackend
from quorate.backends.lockfile import LockFile
from quorate.errors import (
    RendezvousConnectionError,
    RendezvousLimitError,
    RendezvousStateError,
)
from quorate.testing.backends import BackendTraits, RendezvousBackendSuite
from quorate.testing.clock import ManualClock

COUNT_UP = """
import sys
from pathlib import Path
from quorate.backends.file import FileRendezvousBackend
backend = FileRendezvousBackend(Path(sys.argv[1]))
state, token = backend.get_state()
while True:
    state, token, has_set = backend.set_state(b"%d" % (int(state) + 1), token)
    if has_set:
        print(state.decode(), flush=True)
"""


class TestFileBackend(RendezvousBackendSuite):
    traits = BackendTraits(durable=True, multi_host=True, detects_corruption=True)

    def open(self, tmp_path: Path) -> RendezvousBackend:
        return FileRendezvousBackend(tmp_path / "state")

    def corrupt(self, tmp_path: Path) -> None:
        (tmp_path / "state").write_bytes(b"corrupt")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state"


def test_name(path: Path) -> None:
    assert FileRendezvousBackend(path).name == "file"


def test_any_damaged_byte_is_detected(path: Path) -> None:
    backend = FileRendezvousBackend(path)
    backend.set_state(b"state")
    content = path.read_bytes()
    damaged = [content[:size] for size in range(len(content))] + [content + b"x"]
    for place in range(len(content)):
        copy = bytearray(content)
        copy[place] ^= 0x10
        damaged.append(bytes(copy))
    for copy in damaged:
        path.write_bytes(copy)
        with pytest.raises(RendezvousStateError, match="delete the file") as caught:
            backend.get_state()
        assert str(path) in str(caught.value)


def test_a_write_that_was_torn_anywhere_leaves_the_state_before_it(path: Path) -> None:
    """A loss of power: what it cut short has not got the name of the state yet."""
    backend = FileRendezvousBackend(path)
    backend.set_state(b"before")
    whole = path.read_bytes()
    for size in range(len(whole) + 1):
        path.with_name("state.tmp").write_bytes(whole[:size])
        current = FileRendezvousBackend(path).get_state()
        assert current is not None
        assert current[0] == b"before"
    written = backend.set_state(b"after", current[1])
    after = backend.get_state()
    assert after is not None
    assert written == (*after, True)
    assert not path.with_name("state.tmp").exists()


def test_a_missing_directory_is_told(tmp_path: Path) -> None:
    with pytest.raises(RendezvousConnectionError, match="Create or mount it"):
        FileRendezvousBackend(tmp_path / "absent" / "state")


def test_a_directory_that_went_away_is_not_taken_for_a_new_run(tmp_path: Path) -> None:
    folder = tmp_path / "mount"
    folder.mkdir()
    backend = FileRendezvousBackend(folder / "state")
    folder.rmdir()
    with pytest.raises(RendezvousConnectionError, match="Create or mount it"):
        backend.get_state()
    with pytest.raises(RendezvousConnectionError, match="Writing the state"):
        backend.set_state(b"x")


def test_a_file_that_cannot_be_read_is_told(path: Path) -> None:
    backend = FileRendezvousBackend(path)
    path.mkdir()
    with pytest.raises(RendezvousConnectionError, match="Reading the state"):
        backend.get_state()


def test_a_state_that_is_too_large_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_module, "STATE_BYTES_MAX", 10)
    backend = FileRendezvousBackend(path)
    with pytest.raises(RendezvousLimitError, match="at most 10 bytes"):
        backend.set_state(b"x" * 11)
    assert backend.get_state() is None
    assert backend.set_state(b"x" * 10) is not None
    assert backend.get_state() is not None


def test_a_file_that_is_too_large_is_not_read_whole(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = FileRendezvousBackend(path)
    backend.set_state(b"x" * 11)
    monkeypatch.setattr(file_module, "STATE_BYTES_MAX", 5)
    with pytest.raises(RendezvousStateError):
        backend.get_state()


def test_a_writer_waits_no_longer_than_told_and_names_the_lock(path: Path) -> None:
    backend = FileRendezvousBackend(path, timeout_s=7.0, clock=ManualClock())
    lock_path = path.with_name("state.lock")
    with (
        LockFile(lock_path, timeout_s=0),
        pytest.raises(RendezvousConnectionError, match="7 s long") as caught,
    ):
        backend.set_state(b"x")
    assert str(lock_path) in str(caught.value)
    assert backend.set_state(b"x") is not None


def test_a_write_is_durable_before_it_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[bool] = []
    monkeypatch.setattr(file_module, "sync_directory", lambda folder: named.append(path.exists()))
    FileRendezvousBackend(path).set_state(b"x")
    assert named == [True]


def test_readers_do_not_wait_for_writers(path: Path) -> None:
    backend = FileRendezvousBackend(path)
    backend.set_state(b"x")
    with LockFile(path.with_name("state.lock"), timeout_s=0):
        current = backend.get_state()
    assert current is not None
    assert current[0] == b"x"


def test_a_killed_writer_leaves_a_whole_state_and_no_lock(path: Path) -> None:
    backend = FileRendezvousBackend(path)
    backend.set_state(b"0")
    writer = subprocess.Popen([sys.executable, "-c", COUNT_UP, str(path)], stdout=subprocess.PIPE)
    with writer:
        assert writer.stdout is not None
        for _ in range(20):
            writer.stdout.readline()
        writer.kill()
        told = [int(line) for line in writer.stdout.read().split()]
    current = backend.get_state()
    assert current is not None
    assert int(current[0]) - max([20, *told]) in {0, 1}
    answer = backend.set_state(b"after", current[1])
    assert answer is not None
    assert answer[2]
