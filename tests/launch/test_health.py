"""A sick node stays out, says why, and tries again; with real commands and a clock by hand."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quorate.clock import SystemClock
from quorate.errors import (
    RendezvousConnectionError,
    RendezvousEvictedError,
    RendezvousSettingsError,
    RendezvousUnhealthyError,
)
from quorate.launch.health import (
    HealthCheck,
    Infirmary,
    parse_health_check,
    take_health_check,
)
from quorate.launch.wards import Wards
from quorate.testing import ManualClock
from tests.launch.scripted import ScriptedHandler, is_running, pid_in

LOOP = "while :; do sleep 0.02; done"


@pytest.fixture
def wards() -> Iterator[Wards]:
    with Wards(0.0) as made:
        yield made


def shell(script: str, **changes: Any) -> HealthCheck:
    return HealthCheck(command=("sh", "-c", script), **changes)


class TestHealthCheck:
    @pytest.mark.parametrize(
        ("script", "problem"),
        [
            ("exit 0", ""),
            ("echo fine; echo really >&2", ""),
            ("exit 3", "the health check ended with exit code 3"),
            ("kill -SEGV $$", "the health check ended with SIGSEGV"),
            (
                "echo looking; echo 'GPU 2 fell off the bus' >&2; echo; exit 1",
                "the health check ended with exit code 1: GPU 2 fell off the bus",
            ),
        ],
    )
    def test_zero_is_healthy_and_the_last_line_says_why_not(
        self, wards: Wards, script: str, problem: str
    ) -> None:
        assert shell(script).problem(wards, SystemClock()) == problem

    def test_one_that_takes_too_long_is_ended_with_all_its_processes(
        self, wards: Wards, tmp_path: Path
    ) -> None:
        script = f"cd {tmp_path}; ({LOOP}) & echo $! >child; echo $$ >own; echo halfway; {LOOP}"
        problem = shell(script, timeout_s=0.5).problem(wards, SystemClock())
        assert problem == "the health check did not end within 0.5 s: halfway"
        for name in ("child", "own"):
            assert pid_in(tmp_path / name) > 0
            assert not is_running(pid_in(tmp_path / name))

    def test_what_a_healthy_one_leaves_behind_is_ended(self, wards: Wards, tmp_path: Path) -> None:
        assert not shell(f"cd {tmp_path}; ({LOOP}) & echo $! >child").problem(wards, SystemClock())
        assert pid_in(tmp_path / "child") > 0
        assert not is_running(pid_in(tmp_path / "child"))

    def test_it_is_in_care_of_the_warden(self, wards: Wards, tmp_path: Path) -> None:
        """R7: an agent that is killed leaves no check behind."""
        added: list[int] = []
        wards.add = added.append  # type: ignore[method-assign]
        shell(f"echo $$ >{tmp_path}/own").problem(wards, SystemClock())
        assert added == [pid_in(tmp_path / "own")]

    def test_a_long_last_line_is_cut(self, wards: Wards) -> None:
        problem = shell("printf %01000d 7; exit 1").problem(wards, SystemClock())
        assert 200 < len(problem) < 260

    def test_a_program_that_is_not_there_is_a_wrong_setting(self) -> None:
        with pytest.raises(RendezvousSettingsError, match="no program 'no-such-check'"):
            HealthCheck(command=("no-such-check",))

    @pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("nan"), float("inf"), 1e8])
    def test_a_timeout_is_a_positive_number_and_none_of_years(self, timeout_s: float) -> None:
        with pytest.raises(RendezvousSettingsError, match="must be a positive number"):
            shell("exit 0", timeout_s=timeout_s)


class TestConfiguration:
    def test_words_are_read_as_by_a_shell(self) -> None:
        assert parse_health_check("check 'two words' $HOME;") == ("check", "two words", "$HOME;")

    @pytest.mark.parametrize("text", ["", "  ", "check 'no end"])
    def test_what_is_no_command_is_refused(self, text: str) -> None:
        with pytest.raises(RendezvousSettingsError, match="health check"):
            parse_health_check(text)

    def test_the_keys_are_taken_out(self) -> None:
        config = {"health_check": "true", "health_check_timeout": "7", "node_id": "a"}
        check = take_health_check(config, 60.0)
        assert config == {"node_id": "a"}
        assert check is not None
        assert (check.command, check.timeout_s, check.give_up_after_s) == (("true",), 7.0, 60.0)
        assert check.environment == os.environ

    def test_without_a_command_there_is_none(self) -> None:
        assert take_health_check({"node_id": "a"}, 60.0) is None

    @pytest.mark.parametrize("given", ["soon", [], 10**400])
    def test_a_timeout_that_is_none_is_named(self, given: Any) -> None:
        with pytest.raises(RendezvousSettingsError, match="'health_check_timeout' is "):
            take_health_check({"health_check": "true", "health_check_timeout": given}, 60.0)

    def test_a_timeout_that_is_not_given_is_that_of_the_table(self) -> None:
        check = take_health_check({"health_check": "true", "health_check_timeout": None}, 60.0)
        assert check is not None
        assert check.timeout_s == 30.0


class Patient(ScriptedHandler):
    """Writes down for what reasons its node stays out."""

    def __init__(self) -> None:
        super().__init__([])
        self.reasons: list[str] = []
        self.why_closed = ""
        self.error: Exception | None = None

    @property
    def closed_reason(self) -> str:
        return self.why_closed

    def step_aside(self, reason: str) -> None:
        self.reasons.append(reason)
        if self.error is not None:
            raise self.error


class Ward:
    """An infirmary whose check fails a number of times."""

    def __init__(self, folder: Path, wards: Wards, sick: int, give_up_after_s: float) -> None:
        self.clock = ManualClock()
        self.handler = Patient()
        self.said: list[str] = []
        self._wards = wards
        count = shlex.quote(str(folder / "count"))
        program = f"import sys; f = open({count!r}, 'a'); f.write('x'); f.close()"
        program += f"; n = len(open({count!r}).read()); print('try', n); sys.exit(n <= {sick})"
        command = (sys.executable, "-I", "-S", "-c", program)
        check = HealthCheck(command=command, give_up_after_s=give_up_after_s)
        self._infirmary = Infirmary(check, self.handler, self.said.append, self.clock)

    def visit(self) -> None:
        self._infirmary.await_health(self._wards)


def test_a_healthy_node_joins_without_a_word(tmp_path: Path, wards: Wards) -> None:
    ward = Ward(tmp_path, wards, 0, 60.0)
    ward.visit()
    assert (ward.said, ward.handler.reasons) == ([], [])


def test_a_sick_node_stays_out_with_the_reason_until_it_is_healthy(
    tmp_path: Path, wards: Wards
) -> None:
    ward = Ward(tmp_path, wards, 3, 600.0)
    before = ward.clock.monotonic()
    ward.visit()
    problem = "unhealthy: the health check ended with exit code 1: try"
    assert ward.handler.reasons == [f"{problem} {number}" for number in (1, 2, 3)]
    assert ward.said == [
        f"{problem} 1; the next check is in 5 s",
        f"{problem} 2; the next check is in 10 s",
        f"{problem} 3; the next check is in 20 s",
        "healthy again: joining",
    ]
    assert 35.0 <= ward.clock.monotonic() - before < 36.0


def test_a_node_that_stays_sick_gives_up_in_time(tmp_path: Path, wards: Wards) -> None:
    ward = Ward(tmp_path, wards, 100, 12.0)
    with pytest.raises(RendezvousUnhealthyError, match=r"within 12 s \(3 checks\): .*: try 3\."):
        ward.visit()
    assert len(ward.handler.reasons) == 3


def test_a_run_that_is_closed_is_not_waited_for(tmp_path: Path, wards: Wards) -> None:
    ward = Ward(tmp_path, wards, 100, 600.0)
    ward.handler.why_closed = "succeeded"
    ward.visit()
    assert len(ward.said) == 1


def test_that_nobody_can_be_told_is_no_reason_to_end(tmp_path: Path, wards: Wards) -> None:
    ward = Ward(tmp_path, wards, 1, 600.0)
    ward.handler.error = RendezvousConnectionError("gone")
    ward.visit()
    assert "the others could not be told that this node stays out: gone" in ward.said


def test_who_is_not_wanted_any_more_ends(tmp_path: Path, wards: Wards) -> None:
    ward = Ward(tmp_path, wards, 100, 600.0)
    ward.handler.error = RendezvousEvictedError("out")
    with pytest.raises(RendezvousEvictedError):
        ward.visit()
