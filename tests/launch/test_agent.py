from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from quorate import logs
from quorate.api import RendezvousInfo
from quorate.errors import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousGracefulExitError,
    RendezvousReplacedError,
    RendezvousTimeoutError,
)
from quorate.launch.agent import Agent
from quorate.launch.health import HealthCheck
from quorate.launch.spec import WorkerSpec
from tests.launch.scripted import ScriptedHandler, a_round, is_running, pid_in

Until = Callable[..., Any]

ROOT = Path(__file__).parents[2]
LOOP = "while :; do sleep 0.02; done"


class Run:
    """An agent in this process: what is to happen, and what came of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._out, self._err = io.BytesIO(), io.BytesIO()
        self.handler = ScriptedHandler([])

    def __call__(
        self,
        rounds: Sequence[RendezvousInfo | Exception],
        script: str,
        environment: Mapping[str, str] = MappingProxyType({}),
        **changes: Any,
    ) -> int:
        self.handler._rounds = list(rounds)
        given: dict[str, Any] = {
            "workers": 1,
            "monitor_interval_s": 0.02,
            "loss_window_s": 0.05,
            "stop_grace_s": 10.0,
            **changes,
        }
        spec = WorkerSpec(
            command=("sh", "-c", f'cd "{self._folder}"; {script}'),
            run_id="run",
            environment={"PATH": os.environ["PATH"], **environment},
            **given,
        )
        return Agent(self.handler, spec, out=self._out, err=self._err).run()

    @property
    def out(self) -> str:
        return self._out.getvalue().decode()

    @property
    def err(self) -> str:
        return self._err.getvalue().decode()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    yield Run(tmp_path)
    # What an agent has noted stands on all later lines of its process.
    logs.note(run=None, round=None, node=None, rank=None)


def test_success_closes_the_run_once_everyone_has_finished(run: Run) -> None:
    assert run([a_round(0, workers=2)], 'echo "$RANK of $WORLD_SIZE"', workers=2) == 0
    assert sorted(run.out.splitlines()) == ["[0]:0 of 2", "[1]:1 of 2"]
    assert run.handler.calls == [
        "next",
        "close succeeded: all 1 node(s) have finished",
        "shutdown",
    ]


def test_a_node_that_has_finished_leaves_when_the_rest_regroups(run: Run) -> None:
    info = a_round(0, size=2)
    run.handler.waiting = lambda: int(info.store.check(["quorate/finished"]))
    assert run([info], "exit 0") == 0
    assert run.handler.calls == ["next", "leave its workers have finished"]


def test_a_node_that_has_waited_long_enough_closes_the_run(run: Run) -> None:
    assert run([a_round(0, size=2)], "exit 0", exit_barrier_s=0.1) == 0
    assert run.handler.calls[1].startswith("close succeeded on node 0")


def test_a_node_that_has_finished_does_not_wait_for_a_closed_run(run: Run) -> None:
    run.handler.closed = True
    assert run([a_round(0, size=2)], "exit 0") == 0
    assert run.handler.calls == ["next", "shutdown"]


def test_success_stays_success_when_nobody_can_be_told(run: Run) -> None:
    run.handler.leave_error = RendezvousConnectionError("gone")
    info = a_round(0, size=2)
    run.handler.waiting = lambda: int(info.store.check(["quorate/finished"]))
    assert run([info], "exit 0") == 0
    assert "could not leave in an orderly way: gone" in run.err


def test_failure_for_good_ends_with_the_workers_code_and_its_last_lines(run: Run) -> None:
    script = 'if [ "$RANK" = 1 ]; then echo before; echo why >&2; exit 7; fi; exec sleep 600'
    assert run([a_round(0, workers=2)], script, workers=2) == 7
    assert "quorate:   [1]:why\n" in run.err
    assert "first to fail on this node: rank 1 (local rank 1" in run.err
    assert run.handler.calls[1].startswith("close failed: rank 1 ")
    assert "shutdown" not in run.handler.calls


def test_a_handler_that_knows_of_failures_is_told_so(run: Run) -> None:
    told: list[str] = []

    def fail(reason: str) -> bool:
        told.append(reason)
        return True

    run.handler.fail = fail  # type: ignore[method-assign]
    assert run([a_round(0)], "kill -KILL $$") == 128 + signal.SIGKILL
    assert "was ended by SIGKILL" in told[0]
    assert run.handler.calls == ["next"]


def test_failures_are_restarted_within_the_budget(run: Run) -> None:
    script = 'echo "$TORCHELASTIC_RESTART_COUNT"; exit 3'
    assert run([a_round(number) for number in range(3)], script, max_restarts=2) == 3
    assert run.out == "[0]:0\n[0]:1\n[0]:2\n"
    assert run.handler.calls[:3] == ["next"] * 3
    assert "restart 2 of 2" in run.err


def test_a_membership_change_regroups_and_costs_no_restart(run: Run, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    run.handler.waiting = lambda: int(ready.exists() and run.handler.calls == ["next"])
    script = (
        f'[ "$QUORATE_ROUND" = 1 ] && exit; trap "echo stopped; exit" TERM; touch ready; {LOOP}'
    )
    assert run([a_round(0), a_round(1)], script, max_restarts=0) == 0
    assert run.out == "[0]:stopped\n"
    assert "the world changes, stopping the workers" in run.err


def test_a_failure_that_is_a_symptom_of_a_loss_costs_no_restart(run: Run) -> None:
    asked = []

    def the_loss_is_told_a_little_later() -> int:
        asked.append("failed" in run.err)
        return int(sum(asked) == 3)

    run.handler.waiting = the_loss_is_told_a_little_later
    script = 'exit "$((1 - QUORATE_ROUND))"'
    assert run([a_round(0, size=2), a_round(1)], script, loss_window_s=10) == 0
    assert "this failure does not count" in run.err


def test_others_that_are_merely_back_do_not_make_a_failure_a_symptom(run: Run) -> None:
    """They have failed as well: each counts its own, else nobody counts those of the rest."""
    run.handler.waiting = lambda: int("failed" in run.err and run.handler.calls == ["next"])
    run.handler.members_change = lambda: False  # type: ignore[method-assign]
    assert run([a_round(number, size=2) for number in range(2)], "exit 3", max_restarts=1) == 3
    assert run.handler.calls[:2] == ["next", "next"]
    assert "restart 1 of 1" in run.err
    assert "does not count" not in run.err


def test_r7_a_last_failure_beside_a_loss_is_a_symptom_too_and_the_node_joins_again(
    run: Run,
) -> None:
    run.handler.fail = lambda _: False  # type: ignore[method-assign]
    script = 'exit "$((1 - QUORATE_ROUND))"'
    assert run([a_round(0, size=2), a_round(1)], script) == 0
    assert run.handler.calls[:2] == ["next", "next"]
    assert "this failure does not count, joining again" in run.err


def test_a_node_that_cannot_start_workers_ends_though_others_are_lost(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "logs").write_text("not a folder")
    run.handler.fail = lambda _: False  # type: ignore[method-assign]
    assert run([a_round(0, size=2)], "exit 0", log_dir=tmp_path / "logs") == 126


def test_workers_go_on_while_nobody_can_be_asked(run: Run, tmp_path: Path) -> None:
    asked = []

    def unreachable() -> int:
        asked.append(1)
        (tmp_path / f"asked{len(asked)}").touch()
        raise RendezvousConnectionError("no answer")

    run.handler.waiting = unreachable
    assert run([a_round(0)], "until [ -e asked3 ]; do sleep 0.02; done") == 0
    assert run.err.count("no answer") == 1


def test_an_error_that_ends_the_node_stops_its_workers(
    run: Run, tmp_path: Path, until: Until
) -> None:
    def replaced() -> int:
        if pid_in(tmp_path / "worker"):
            raise RendezvousReplacedError("a newer one is here")
        return 0

    run.handler.waiting = replaced
    code = run([a_round(0)], "echo $$ > worker; exec sleep 600")
    assert code == RendezvousReplacedError.exit_code
    assert "quorate: a newer one is here" in run.err
    assert not is_running(pid_in(tmp_path / "worker"))


@pytest.mark.parametrize(
    ("error", "exit_code", "told"),
    [
        (RendezvousClosedError("closed", "succeeded: all"), 71, "succeeded: all; nothing was st"),
        (RendezvousClosedError("closed", "failed: rank 3"), 71, "is closed: failed: rank 3"),
        (RendezvousGracefulExitError("a spare"), 0, "not needed: a spare"),
        (RendezvousGracefulExitError("a\nb"), 0, r"not needed: a\nb"),
        (RendezvousClosedError("closed", "\x1b[2J\n"), 71, r"is closed: \x1b[2J\n; nothing"),
        (RendezvousTimeoutError("\x1b[H is missing"), 72, r": \x1b[H is missing"),
        (RendezvousTimeoutError("2 nodes missing"), 72, "2 nodes missing"),
    ],
)
def test_a_rendezvous_that_fails_ends_in_one_line(
    run: Run, error: Exception, exit_code: int, told: str
) -> None:
    assert run([error], "exit 0") == exit_code
    assert told in run.err
    assert run.err.count("\n") == 1


def test_a_workers_failure_is_a_better_reason_than_what_follows(run: Run) -> None:
    rounds = [a_round(0), RendezvousClosedError("closed", "succeeded: the others")]
    assert run(rounds, "exit 5", max_restarts=1) == 5
    assert "this node had failed before: rank 0" in run.err


def test_a_program_that_is_not_there_disturbs_nobody(run: Run) -> None:
    spec = WorkerSpec(command=("no-such-program",), workers=1, run_id="run")
    err = io.BytesIO()
    assert Agent(run.handler, spec, out=io.BytesIO(), err=err).run() == 127
    assert b"no program 'no-such-program'" in err.getvalue()
    assert run.handler.calls == []


def test_output_is_kept_and_named(run: Run, tmp_path: Path) -> None:
    assert run([a_round(4)], "echo kept; exit 1", log_dir=tmp_path / "logs") == 1
    log = tmp_path / "logs" / "run" / "e-4" / "0.log"
    assert log.read_text() == "kept\n"
    assert str(log) in run.err


RECORD = 'cd /; echo "{\\"message\\": \\"boom $RANK\\"}" >"$TORCHELASTIC_ERROR_FILE"; exit 5'


@pytest.mark.parametrize("log_dir", [None, "logs"])
def test_what_a_worker_has_recorded_is_said_and_handed_on(
    run: Run, tmp_path: Path, log_dir: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "own.json"
    given = {"environment": {"TORCHELASTIC_ERROR_FILE": str(own)}}
    script = f'[ "$RANK" = 0 ] && exec sleep 600; {RECORD}'
    log_path = Path(log_dir) if log_dir else None
    rounds = [a_round(0, workers=2), a_round(1, workers=2)]
    assert run(rounds, script, workers=2, max_restarts=1, log_dir=log_path, **given) == 5
    assert run.err.count("quorate: the error that it recorded: boom 1\n") == 1
    assert own.read_text() == '{"message": "boom 1"}\n'
    kept = [] if log_dir is None else [f"logs/run/e-{number}/1.error.json" for number in (0, 1)]
    assert sorted(str(path) for path in Path().rglob("*.error.json")) == kept


def test_an_error_that_cannot_be_handed_on_is_said(run: Run) -> None:
    environment = {"TORCHELASTIC_ERROR_FILE": "/dev/null/none"}
    assert run([a_round(0)], RECORD, environment=environment) == 5
    assert "could not be copied to $TORCHELASTIC_ERROR_FILE" in run.err


def test_of_a_failed_workers_last_lines_the_beginnings_are_said(run: Run) -> None:
    assert run([a_round(0)], "head -c 5000 /dev/zero | tr '\\0' x; exit 5") == 5
    told = [line for line in run.err.splitlines() if line.startswith("quorate:   [0]:")]
    assert told == ["quorate:   [0]:" + "x" * 1000 + " ..."]


def test_the_error_of_an_earlier_failure_is_said_when_the_run_ends(run: Run) -> None:
    rounds = [a_round(0), RendezvousClosedError("closed", "failed: rank 3")]
    assert run(rounds, RECORD, max_restarts=1) == 5
    assert "quorate: the error that it recorded: boom 0\n" in run.err


def test_logs_that_cannot_be_written_fail_the_run(run: Run, tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("not a folder")
    assert run([a_round(0)], "exit 0", log_dir=tmp_path / "logs") == 126
    assert "could not be started on node 0" in run.err
    assert len(run.handler.calls) == 2


# Whole agents, in processes of their own.

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    agents: list[subprocess.Popen[str]] = []

    def start_agent(*command: str, stop_grace_s: float = 10.0) -> subprocess.Popen[str]:
        program = [sys.executable, str(ROOT / "tests" / "launch" / "agent_program.py")]
        agent = subprocess.Popen(
            [*program, str(stop_grace_s), *command],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        agents.append(agent)
        return agent

    yield start_agent
    for agent in agents:
        agent.kill()
        agent.communicate()


def test_kill_9_of_the_agent_ends_workers_and_grandchildren(
    start: Start, until: Until, tmp_path: Path
) -> None:
    agent = start("sh", "-c", "sleep 600 & echo $! > grandchild; echo $$ > worker; wait")
    worker = until(lambda: pid_in(tmp_path / "worker"))
    grandchild = pid_in(tmp_path / "grandchild")
    agent.kill()
    until(lambda: not is_running(worker))
    until(lambda: not is_running(grandchild))


def test_a_signal_is_passed_on_and_the_worker_may_end_by_itself(
    start: Start, until: Until, tmp_path: Path
) -> None:
    agent = start("sh", "-c", f"trap 'echo saved; exit 0' TERM; touch ready; {LOOP}")
    until((tmp_path / "ready").exists)
    agent.terminate()
    output, _ = agent.communicate(timeout=10)
    assert agent.returncode == 128 + signal.SIGTERM
    assert "[0]:saved" in output
    assert output.index("saved") < output.index("leave received SIGTERM")


def test_a_worker_that_ignores_the_signal_is_killed_after_the_grace(
    start: Start, until: Until, tmp_path: Path
) -> None:
    script = f"trap '' TERM INT; echo $$ > worker; {LOOP}"
    agent = start("sh", "-c", script, stop_grace_s=0.1)
    worker = until(lambda: pid_in(tmp_path / "worker"))
    agent.send_signal(signal.SIGINT)
    output, _ = agent.communicate(timeout=10)
    assert agent.returncode == 128 + signal.SIGINT
    assert "leave received SIGINT" in output
    assert not is_running(worker)


def test_a_second_signal_kills_at_once(start: Start, until: Until, tmp_path: Path) -> None:
    script = f"trap 'touch told' TERM; echo $$ > worker; {LOOP}"
    agent = start("sh", "-c", script, stop_grace_s=600.0)
    worker = until(lambda: pid_in(tmp_path / "worker"))
    agent.terminate()
    until((tmp_path / "told").exists)
    agent.terminate()
    output, _ = agent.communicate(timeout=10)
    assert agent.returncode == 128 + signal.SIGTERM
    assert "ending without a word" in output
    assert not is_running(worker)


def test_a_signal_while_joining_leaves_the_run(start: Start) -> None:
    agent = start("-")
    assert agent.stdout is not None
    assert agent.stdout.readline() == "joining\n"
    agent.terminate()
    output, _ = agent.communicate(timeout=10)
    assert agent.returncode == 128 + signal.SIGTERM
    assert "leave received SIGTERM" in output


# Health


def test_the_health_is_checked_before_each_join(run: Run, tmp_path: Path) -> None:
    check = HealthCheck(command=("sh", "-c", f"echo . >>{tmp_path}/checks"))
    rounds = [a_round(0), a_round(1)]
    script = 'test "$TORCHELASTIC_RESTART_COUNT" = 1'
    assert run(rounds, script, max_restarts=1, health_check=check) == 0
    assert (tmp_path / "checks").read_text() == ".\n.\n"


def test_a_sick_node_exits_with_its_own_code(run: Run) -> None:
    check = HealthCheck(command=("sh", "-c", "echo no disk; exit 1"), give_up_after_s=0.0)
    assert run([], "exit 0", health_check=check) == 81
    assert run.handler.calls == []
    assert "not healthy" in run.err
    assert "no disk" in run.err
