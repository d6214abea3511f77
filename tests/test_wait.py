"""R16: what is said of a wait, and when."""

from __future__ import annotations

import logging

import pytest

from quorate.testing import ManualClock
from quorate.wait import EXPLAIN_EVERY_S, NO_COORDINATOR, Wait, WaitLog, duration

WAIT = Wait("min_nodes", "waiting for 1 more node (1 of 2)", 41.2, gives_up_in_s=559.0)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-1, "0 s"), (41.4, "41 s"), (99, "99 s"), (560, "9 min 20 s"), (11_100, "3 h 5 min")],
)
def test_times_are_for_people(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_all_that_is_known_is_said_on_one_line() -> None:
    wait = Wait("k", "waiting for b", 3.0, ("b (rank 1, not back yet)",), 2, 20.0, 90.0)
    assert str(wait) == (
        "waiting for b, since 3 s; ends in 20 s; gives up in 90 s; "
        "missing: b (rank 1, not back yet), 1 more"
    )


def test_a_wait_without_an_end_says_nothing_of_one() -> None:
    assert str(Wait("spare", "waiting as a spare", 5.0)) == "waiting as a spare, since 5 s"
    assert "gives up" not in str(Wait("k", "waiting", gives_up_in_s=float("inf")))


class Log:
    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "quorate.rendezvous")
        self.clock = ManualClock()
        self.reporter = WaitLog("job", self.clock)
        self._caplog = caplog

    def lines(self, *waits: Wait, after_s: float = 1.0) -> list[str]:
        """Return what is logged as the waits are reported, one after the other."""
        self._caplog.clear()
        for wait in waits:
            self.clock.advance(after_s)
            self.reporter.report(wait)
        return [record.message for record in self._caplog.records]

    def runs(self) -> list[str]:
        """Return the run that each line is about."""
        return [record.run for record in self._caplog.records]  # type: ignore[attr-defined]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Log:
    return Log(caplog)


def test_a_log_has_one_line_while_nothing_changes(log: Log) -> None:
    lines = log.lines(WAIT, *[Wait("min_nodes", WAIT.reason, since) for since in range(100)])
    assert lines == [str(WAIT)]
    assert log.runs() == ["job"]


def test_another_kind_is_logged_at_once(log: Log) -> None:
    assert len(log.lines(WAIT, Wait("last_call", "last call for more nodes"))) == 2


def test_news_of_one_kind_are_logged_now_and_then(log: Log) -> None:
    news = [Wait("min_nodes", f"waiting ({number} of 100)") for number in range(30)]
    lines = log.lines(*news)
    assert len(lines) == 3
    assert lines[1].startswith(f"waiting ({EXPLAIN_EVERY_S:.0f} of 100)")


def test_who_is_missing_is_news(log: Log) -> None:
    log.lines(WAIT)
    assert log.lines(Wait("min_nodes", WAIT.reason, missing=("b",)), after_s=EXPLAIN_EVERY_S)


def test_the_next_wait_is_logged_anew(log: Log) -> None:
    log.lines(WAIT)
    log.reporter.done()
    assert len(log.lines(WAIT)) == 1


def test_a_coordinator_that_does_not_answer_is_left_to_whoever_dials_it(log: Log) -> None:
    assert log.lines(Wait(NO_COORDINATOR, "no coordinator at a:1")) == []
