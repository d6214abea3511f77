from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quorate.launch import warden
from quorate.launch.warden import NOT_FOR_US, end_groups, live_members, process_start
from tests.launch.scripted import is_running, pid_in

Until = Callable[..., Any]
Spawn = Callable[[str], subprocess.Popen[bytes]]


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Spawn]:
    """Start a shell script in a group of its own."""
    started: list[subprocess.Popen[bytes]] = []

    def start(script: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(["sh", "-c", script], start_new_session=True, cwd=tmp_path)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def a_warden() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", warden.__file__, "0.2"],
        stdin=subprocess.PIPE,
        start_new_session=True,
        bufsize=0,
    )
    yield process
    process.kill()
    process.wait()
    assert process.stdin is not None
    process.stdin.close()


def tell(process: subprocess.Popen[bytes], *lines: str) -> None:
    assert process.stdin is not None
    process.stdin.write("".join(f"{line}\n" for line in lines).encode())


def hang_up(process: subprocess.Popen[bytes]) -> int:
    assert process.stdin is not None
    process.stdin.close()
    return process.wait(10)


def test_ends_the_groups_that_are_left_when_its_input_ends(
    a_warden: subprocess.Popen[bytes], spawn: Spawn
) -> None:
    left, taken_out = spawn("exec sleep 600"), spawn("exec sleep 600")
    tell(a_warden, f"+{left.pid}", f"+{taken_out.pid}", f"-{taken_out.pid}")
    assert hang_up(a_warden) == 0
    assert left.wait(5) == -signal.SIGTERM
    assert is_running(taken_out.pid)


def test_ends_grandchildren_whose_parent_has_ended(
    a_warden: subprocess.Popen[bytes], spawn: Spawn, tmp_path: Path, until: Until
) -> None:
    leader = spawn("sleep 600 & echo $! > grandchild")
    grandchild = until(lambda: pid_in(tmp_path / "grandchild"))
    tell(a_warden, f"+{leader.pid}")
    leader.wait()
    hang_up(a_warden)
    until(lambda: not is_running(grandchild))


def test_kills_what_ignores_sigterm(
    a_warden: subprocess.Popen[bytes], spawn: Spawn, tmp_path: Path, until: Until
) -> None:
    stubborn = spawn("trap '' TERM; touch ready; while :; do sleep 0.05; done")
    until((tmp_path / "ready").exists)
    tell(a_warden, f"+{stubborn.pid}")
    hang_up(a_warden)
    assert stubborn.wait(5) == -signal.SIGKILL


def test_is_not_ended_by_signals_that_are_for_others(
    a_warden: subprocess.Popen[bytes], spawn: Spawn, until: Until
) -> None:
    ward = spawn("exec sleep 600")
    status = Path(f"/proc/{a_warden.pid}/status")
    ignored = sum(1 << number - 1 for number in NOT_FOR_US)

    def ignores_them() -> bool:
        line = next(line for line in status.read_text().splitlines() if "SigIgn" in line)
        return int(line.split()[1], 16) & ignored == ignored

    until(ignores_them)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        os.kill(a_warden.pid, number)
    tell(a_warden, f"+{ward.pid}")
    hang_up(a_warden)
    assert ward.wait(5) == -signal.SIGTERM


def test_a_group_whose_id_was_given_away_is_left_alone(spawn: Spawn) -> None:
    stranger = spawn("exec sleep 600")
    start = process_start(stranger.pid)
    assert start is not None
    end_groups({stranger.pid: start - 1}, grace_s=0)
    assert is_running(stranger.pid)
    end_groups({stranger.pid: start}, grace_s=0)
    stranger.wait(5)


def test_an_ended_process_that_was_not_reaped_is_no_live_member(spawn: Spawn, until: Until) -> None:
    process = spawn("exec sleep 600")
    assert live_members({process.pid}) == {process.pid}
    process.kill()
    until(lambda: not live_members({process.pid}))
    assert process_start(process.pid) is not None
    process.wait()
    assert process_start(process.pid) is None


def test_removes_directories_after_the_groups_have_ended(
    a_warden: subprocess.Popen[bytes], spawn: Spawn, tmp_path: Path, until: Until
) -> None:
    data = tmp_path / "data"
    (data / "deep").mkdir(parents=True)
    writer = spawn("trap '' TERM; touch ready; while :; do date > data/deep/now; done")
    until((tmp_path / "ready").exists)
    tell(a_warden, f"+{writer.pid}", str(data))
    assert hang_up(a_warden) == 0
    assert writer.wait(5) == -signal.SIGKILL
    assert not data.exists()
