from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quorate.clock import SystemClock
from quorate.launch.output import WorkerOutput
from quorate.launch.wards import Wards
from quorate.launch.workers import WorkerFailure, WorkerGroup, WorkerState, WorkerStatus
from tests.launch.scripted import is_running, pid_in

Until = Callable[..., Any]

LONG_S = 10.0


class Stage:
    """Runs shell scripts as workers 10, 11, ... in one folder."""

    def __init__(self, wards: Wards, folder: Path) -> None:
        self.out, self.err = io.BytesIO(), io.BytesIO()
        self.group = WorkerGroup(wards, WorkerOutput(self.out, self.err), SystemClock())
        self.folder = folder

    def run(self, *scripts: str) -> WorkerGroup:
        environments = {
            10 + number: {"PATH": os.environ["PATH"], "SCRIPT": script}
            for number, script in enumerate(scripts)
        }
        command = ("sh", "-c", f'cd "{self.folder}"; eval "$SCRIPT"')
        self.group.start(command, environments, logs={})
        return self.group

    def end(self) -> WorkerStatus:
        while (status := self.group.wait(LONG_S)).state is WorkerState.RUNNING:
            pass
        return status


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Wards(grace_s=0.0) as wards:
        stage = Stage(wards, tmp_path)
        yield stage
        stage.group.stop(grace_s=0.0)


def test_workers_that_exit_with_0_have_succeeded(stage: Stage) -> None:
    group = stage.run("echo one", "echo two >&2")
    assert stage.end() == WorkerStatus(WorkerState.SUCCEEDED)
    group.stop(LONG_S)
    assert stage.out.getvalue() == b"[10]:one\n"
    assert stage.err.getvalue() == b"[11]:two\n"


def test_the_first_failure_is_noticed_at_once_and_stays(stage: Stage) -> None:
    group = stage.run("exec sleep 600", "echo why; exit 7")
    failure = stage.end().failure
    assert failure is not None
    assert (failure.rank, failure.local_rank, failure.exit_code) == (11, 1, 7)
    group.stop(LONG_S)
    assert group.poll().failure is failure
    assert group.last_lines(11) == ["why"]


def test_a_worker_ended_by_a_signal_has_failed_with_its_number(stage: Stage) -> None:
    stage.run("kill -SEGV $$")
    failure = stage.end().failure
    assert failure is not None
    assert (failure.exit_code, failure.signal_name) == (128 + signal.SIGSEGV, "SIGSEGV")


def test_a_failure_reads_well() -> None:
    failure = WorkerFailure(3, 1, 99, 137, "SIGKILL")
    assert str(failure) == (
        "rank 3 (local rank 1, process 99) was ended by SIGKILL with exit code 137"
    )


def test_waiting_is_bounded(stage: Stage) -> None:
    group = stage.run("exec sleep 600")
    assert group.wait(0.01) == WorkerStatus(WorkerState.RUNNING)


def test_stop_ends_grandchildren_too(stage: Stage, until: Until, tmp_path: Path) -> None:
    group = stage.run("(trap '' TERM; sleep 600) & echo $! > grandchild; wait")
    grandchild = until(lambda: pid_in(tmp_path / "grandchild"))
    group.stop(grace_s=0.1)
    assert not is_running(grandchild)


def test_stop_ends_what_successful_workers_leave_behind(
    stage: Stage, until: Until, tmp_path: Path
) -> None:
    group = stage.run("sleep 600 & echo $! > grandchild")
    assert stage.end().state is WorkerState.SUCCEEDED
    grandchild = pid_in(tmp_path / "grandchild")
    assert is_running(grandchild)
    group.stop(LONG_S)
    assert not is_running(grandchild)


def test_workers_may_end_by_themselves_within_the_grace(
    stage: Stage, until: Until, tmp_path: Path
) -> None:
    loop = "touch ready; while :; do sleep 0.02; done"
    group = stage.run(f"trap 'echo saved; exit 0' INT; {loop}")
    until((tmp_path / "ready").exists)
    group.stop(LONG_S, signal.SIGINT)
    assert stage.out.getvalue() == b"[10]:saved\n"
    assert group.poll().state is WorkerState.SUCCEEDED


def test_a_signal_is_sent_to_the_workers_and_not_to_their_helpers(
    stage: Stage, until: Until, tmp_path: Path
) -> None:
    traps = "trap 'echo warned; exit 0' USR1; sleep 600 & echo $! > helper; touch ready; wait"
    group = stage.run(traps)
    until((tmp_path / "ready").exists)
    helper = pid_in(tmp_path / "helper")
    group.send(signal.SIGUSR1)
    assert stage.end().state is WorkerState.SUCCEEDED
    assert is_running(helper)
    group.send(signal.SIGUSR1)
    group.stop(LONG_S)
    group.send(signal.SIGUSR1)
    assert stage.out.getvalue() == b"[10]:warned\n"


def test_a_worker_that_may_be_sent_no_signal_keeps_none_from_the_others(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = stage.run("sleep 600", "sleep 600")
    tried: list[int] = []

    def refuse(pidfd: int, number: int) -> None:
        tried.append(pidfd)
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patched:
        patched.setattr(signal, "pidfd_send_signal", refuse)
        group.send(signal.SIGUSR1)
    assert len(tried) == 2
    assert group.poll().state is WorkerState.RUNNING


def test_workers_that_ignore_sigterm_are_killed_after_the_grace(
    stage: Stage, until: Until, tmp_path: Path
) -> None:
    group = stage.run("trap '' TERM; touch ready; while :; do sleep 0.02; done")
    until((tmp_path / "ready").exists)
    group.stop(grace_s=0.1)
    failure = group.poll().failure
    assert failure is not None
    assert failure.signal_name == "SIGKILL"


def test_stop_is_safe_when_everyone_is_gone_and_again(stage: Stage) -> None:
    group = stage.run("exit 0")
    stage.end()
    group.stop(LONG_S)
    group.stop(LONG_S)
    group.kill()


def test_stop_does_not_wait_for_a_process_that_has_escaped(
    stage: Stage, until: Until, tmp_path: Path
) -> None:
    group = stage.run("setsid sleep 600 & echo $! > escaped")
    stage.end()
    escaped = pid_in(tmp_path / "escaped")
    until(lambda: os.getsid(escaped) == escaped)
    group.stop(LONG_S)
    assert is_running(escaped)
    os.kill(escaped, signal.SIGKILL)


def test_a_group_that_could_not_start_whole_is_ended(tmp_path: Path) -> None:
    with Wards(grace_s=0.0) as wards:
        group = WorkerGroup(wards, WorkerOutput(io.BytesIO(), io.BytesIO()), SystemClock())
        environment = {"PATH": os.environ["PATH"]}
        (tmp_path / "0").write_text("not a folder")
        with pytest.raises(OSError, match="0"):
            group.start(
                ("sleep", "600"),
                {0: environment, 1: environment},
                {1: tmp_path / "0" / "1.log"},
            )
        group.stop(LONG_S)
        assert group.poll().state is WorkerState.FAILED
