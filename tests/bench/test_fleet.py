"""Load processes, as the command sees them."""

from __future__ import annotations

import os

import pytest

from quorate.bench.fleet import Fleet, shares
from quorate.bench.load import FLOOR
from quorate.bench.subjects import subject
from quorate.bench.tasks import Connect, Join, Moments, Places, Usage
from quorate.errors import RendezvousConnectionError, RendezvousError

LIMIT_S = 10.0


@pytest.mark.parametrize(
    ("nodes", "processes", "parts"),
    [(4, 1, [(0, 4)]), (5, 2, [(0, 2), (2, 5)]), (2, 2, [(0, 1), (1, 2)])],
)
def test_agents_are_shared_out_evenly(
    nodes: int, processes: int, parts: list[tuple[int, int]]
) -> None:
    assert shares(nodes, processes) == [range(*part) for part in parts]


def test_more_agents_than_open_files_are_refused() -> None:
    with pytest.raises(RendezvousConnectionError, match="--load-processes"):
        Fleet(FLOOR, [range(10**9)], LIMIT_S, os.environ)


def test_several_processes_are_one_crowd() -> None:
    with (
        Fleet(FLOOR, shares(5, 2), LIMIT_S, os.environ) as fleet,
        subject(FLOOR) as floor,
        floor.serving(5, os.environ) as service,
    ):
        fleet.meet_at(service.endpoints)
        fleet.rehearse(4, LIMIT_S)
        fleet.begin(5, 5)
        reports = fleet.ask(Join(LIMIT_S), Places, LIMIT_S)
        assert sorted(rank for report in reports for rank in report.ranks) == [0, 1, 2, 3, 4]
        assert len(fleet.pids) == 2


def test_trouble_and_the_end_of_a_process_are_errors() -> None:
    with Fleet(FLOOR, [range(1), range(1, 2)], LIMIT_S, os.environ) as fleet:
        fleet.meet_at(["127.0.0.1:1"])
        fleet.begin(2, 2)
        with pytest.raises(RendezvousError, match="could not do their part"):
            fleet.ask(Connect(LIMIT_S), Moments, LIMIT_S)
        fleet.kill_last()
        assert len(fleet.pids) == 1
        fleet._loads[0]._process.kill()
        with pytest.raises(RendezvousConnectionError, match="of no use any more"):
            fleet.ask(Usage(), Moments, LIMIT_S)
