"""One sample of each benchmark; the rest of them are seen in tests/e2e/test_bench.py."""

from __future__ import annotations

import pytest

from quorate.bench.figures import MEASURES
from quorate.bench.measuring import (
    BENCHES,
    COORDINATED_ONLY,
    Options,
    _require_one_world,
    join,
    simulate,
)
from quorate.bench.subjects import subject
from quorate.bench.tasks import Places
from quorate.errors import RendezvousConnectionError, RendezvousError


def test_every_benchmark_has_measures() -> None:
    assert BENCHES.keys() == MEASURES.keys()
    assert BENCHES.keys() > COORDINATED_ONLY


@pytest.mark.parametrize("connected", [False, True])
def test_a_join_of_the_floor_has_all_its_figures(connected: bool) -> None:
    with subject("floor") as floor:
        sample = join(floor, 6, Options(limit_s=10.0, connected=connected, load_processes=2))
    assert sample.values.keys() == {
        "seconds",
        "server_cpu_s",
        "load_cpu_s",
        "core_wait_s",
        "sent_bytes_per_agent",
        "received_bytes_per_agent",
    }
    assert 0 < sample.values["seconds"] < 10.0
    assert sample.values["received_bytes_per_agent"] == 100


def test_a_simulation_has_a_process_of_its_own() -> None:
    with subject("memory") as memory:
        sample = simulate(memory, 20, Options(limit_s=30.0))
        assert sample.values["join_up_per_node"] == 2
        assert not simulate(memory, 20, Options(limit_s=0.01)).values
        with pytest.raises(RendezvousError, match=r"of 0 nodes has failed: .+"):
            simulate(memory, 0, Options(limit_s=30.0))


@pytest.mark.parametrize(
    ("ranks", "worlds"),
    [([0, 1, 1], ["a"]), ([0, 1, 2], ["a", "b"]), ([0, 1], ["a"]), ([1, 2, 3], ["a"])],
)
def test_a_figure_of_what_is_no_world_is_refused(ranks: list[int], worlds: list[str]) -> None:
    reports = [Places(0.0, [1.0], [rank], worlds[:1]) for rank in ranks]
    reports.append(Places(0.0, [], [], worlds))
    with pytest.raises(RendezvousConnectionError, match="one world"):
        _require_one_world(reports, 3)
