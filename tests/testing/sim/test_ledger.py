"""The simulated ledger: writes that take time, fail, lose their reply, or are refused."""

from __future__ import annotations

import pytest

from quorate.testing.sim.ledger import SimLedger
from quorate.testing.sim.process import Machine, Process
from quorate.testing.sim.schedule import Schedule


class Bench:
    """A ledger and one who writes."""

    def __init__(self) -> None:
        self.schedule = Schedule(1)
        self.stored = 0
        self.ledger = SimLedger(self.schedule, self.count)
        self.writer = Process(self.schedule, Machine(self.schedule, "c"))
        self.outcomes: list[str] = []

    def count(self) -> None:
        self.stored += 1

    def commit(self, value: bytes | None, fence: int = 0) -> None:
        self.ledger.commit(self.writer, fence, {"key": value}, self.outcomes.append)

    def wait(self) -> None:
        self.schedule.run_until(self.schedule.now_s + 1)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_write_takes_time(bench: Bench) -> None:
    bench.commit(b"1")
    assert bench.ledger.records == {}
    bench.wait()
    assert (bench.ledger.records, bench.outcomes, bench.stored) == ({"key": b"1"}, ["stored"], 1)
    bench.commit(None)
    bench.wait()
    assert bench.ledger.records == {}


def test_a_stalled_write_ends_when_it_may_go_on(bench: Bench) -> None:
    bench.ledger.stalled = True
    bench.commit(b"1")
    bench.wait()
    assert bench.outcomes == []
    bench.ledger.go_on()
    bench.wait()
    assert bench.outcomes == ["stored"]


def test_a_failed_write_may_have_been_applied(bench: Bench) -> None:
    bench.ledger.failing = 1.0
    for number in range(20):
        bench.commit(str(number).encode())
        bench.wait()
    assert bench.outcomes == ["failed"] * 20
    assert 0 < bench.stored < 20


def test_what_a_dead_process_had_under_way_is_written_at_once_or_never(bench: Bench) -> None:
    bench.ledger.stalled = True
    written = []
    for number in range(20):
        bench.commit(str(number).encode())
        bench.ledger.abandon(bench.writer)
        written.append(bench.stored)
    bench.ledger.go_on()
    bench.wait()
    assert 0 < bench.stored < 20
    assert bench.stored == written[-1], "its successor has read what there is"
    assert bench.outcomes == []


def test_a_request_may_reach_etcd_after_its_sender_has_died(bench: Bench) -> None:
    bench.ledger.fence = 1
    for number in range(20):
        bench.commit(str(number).encode(), fence=1)
    bench.writer.die()
    bench.ledger.abandon(bench.writer)
    assert bench.stored == 0
    bench.wait()
    assert 0 < bench.stored < 20
    bench.commit(b"late", fence=1)
    bench.ledger.fence = 2
    bench.wait()
    assert bench.ledger.records != {"key": b"late"}, "another one has the seat by then"


def test_a_slow_ledger_takes_its_time(bench: Bench) -> None:
    bench.ledger.slow = True
    bench.commit(b"1")
    bench.schedule.run_until(0.04)
    assert bench.outcomes == []
    bench.schedule.run_until(2)
    assert bench.outcomes == ["stored"]


def test_one_that_does_not_hold_the_seat_is_refused(bench: Bench) -> None:
    bench.ledger.fence = 2
    bench.commit(b"1", fence=1)
    bench.wait()
    assert (bench.ledger.records, bench.outcomes) == ({}, ["deposed"])
