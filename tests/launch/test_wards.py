from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quorate.launch.wards import Wards
from tests.launch.scripted import is_running

Until = Callable[..., Any]


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "600"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def test_groups_that_are_left_end_with_the_wards(process: subprocess.Popen[bytes]) -> None:
    with Wards(grace_s=1.0) as wards:
        wards.add(process.pid)
    assert process.wait(5) == -signal.SIGTERM


def test_groups_that_were_taken_out_go_on(process: subprocess.Popen[bytes]) -> None:
    with Wards(grace_s=1.0) as wards:
        wards.add(process.pid)
        wards.remove(process.pid)
    assert is_running(process.pid)


def test_another_warden_takes_over_when_one_is_killed(
    process: subprocess.Popen[bytes], until: Until, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    with Wards(grace_s=1.0) as wards:
        wards.add(process.pid)
        wards.add_directory(tmp_path / "data")
        first = wards.warden_pid
        os.kill(first, signal.SIGKILL)
        until(lambda: not is_running(first))
        wards.remove(2**22 + 1)
        assert wards.warden_pid != first
        assert is_running(wards.warden_pid)
    assert process.wait(5) == -signal.SIGTERM
    assert not (tmp_path / "data").exists()
