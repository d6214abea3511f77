"""What is counted, and that it is what has happened."""

from __future__ import annotations

from quorate.coordinator.runs.tally import OTHER_RUNS, RUNS_MAX, Histogram, Tally
from quorate.wire.messages import FAILED
from tests.coordinator.driver import RUN, Driver


def tally(driver: Driver) -> Tally:
    return driver.engine.tally


class TestHistogram:
    def test_a_value_counts_in_the_first_class_that_it_fits_into(self) -> None:
        histogram = Histogram((1.0, 5.0))
        for value in (0.5, 1.0, 1.1, 5.0, 6.0):
            histogram.observe(value)
        assert histogram.counts == [2, 2, 1]
        assert histogram.sum == 13.6


class TestRuns:
    def test_more_runs_than_the_limit_are_counted_as_one(self) -> None:
        counts = Tally()
        for number in range(RUNS_MAX + 5):
            counts.run(f"run{number}").joins += 1
        assert len(counts.runs) == RUNS_MAX + 1
        assert counts.runs[OTHER_RUNS].joins == 5

    def test_a_run_that_is_forgotten_makes_room(self) -> None:
        counts = Tally()
        for number in range(RUNS_MAX):
            counts.run(f"run{number}")
        counts.forget("run7")
        counts.run("new").joins += 1
        assert counts.runs["new"].joins == 1
        assert OTHER_RUNS not in counts.runs


class TestWhatHappens:
    def test_joins_and_rounds(self) -> None:
        driver = Driver(2, 3)
        driver.world("a", "b", "c")
        run = tally(driver).runs[RUN]
        assert (run.joins, run.rounds_completed) == (3, 1)
        assert not run.losses
        assert tally(driver).regroup.sum == 0

    def test_a_process_that_ends_is_counted_with_the_time_that_it_took_to_notice(self) -> None:
        driver = Driver(2, 3)
        a, b, c = driver.world("a", "b", "c")
        c.cut(finished=True)
        driver.let_pass(2.25)
        assert tally(driver).runs[RUN].losses == {"ended": 1}
        assert 2.0 <= tally(driver).detection.sum <= 2.25
        driver.let_pass(1)
        for agent in (a, b):
            agent.join()
        assert sum(tally(driver).regroup.counts) == 1
        assert 1.0 <= tally(driver).regroup.sum <= 1.5

    def test_a_silent_node(self) -> None:
        driver = Driver(2, 3)
        c = driver.world("a", "b", "c")[2]
        c.beats = False
        driver.let_pass(20)
        assert tally(driver).runs[RUN].losses == {"silent": 1}
        assert 15 <= tally(driver).detection.sum <= 17

    def test_those_who_leave_fail_or_give_up(self) -> None:
        driver = Driver(2, 4)
        a, b, c, d = driver.world("a", "b", "c", "d")
        a.leave("enough")
        b.close("it has failed", FAILED)
        assert tally(driver).runs[RUN].losses == {"left": 1, "failed": 1}
        newcomer = driver.agent("e")
        newcomer.join(timeout_s=1)
        driver.let_pass(2)
        assert tally(driver).runs[RUN].losses["timeout"] == 1
        assert sum(tally(driver).detection.counts) == 0
        assert c.connection
        assert d.connection

    def test_stragglers(self) -> None:
        driver = Driver(1, 3)
        a = driver.world("a", "b", "c")[0]
        a.join()
        driver.let_pass(61)
        assert tally(driver).runs[RUN].losses == {"straggler": 2}

    def test_former_incarnations(self) -> None:
        driver = Driver(1, 3)
        driver.agent("a", node_id="one").join()
        driver.agent("a", node_id="one").join()
        assert tally(driver).runs[RUN].losses == {"replaced": 1}

    def test_a_restart_of_the_coordinator_is_no_round(self) -> None:
        driver = Driver(2, 3)
        driver.world("a", "b", "c")
        driver.crash()
        assert tally(driver).runs[RUN].rounds_completed == 0

    def test_held_requests(self) -> None:
        driver = Driver(2, 3)
        a = driver.agent("a")
        assert driver.engine.held_requests() == 0
        a.join()
        assert driver.engine.held_requests() == 1
