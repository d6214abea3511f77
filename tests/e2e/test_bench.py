"""`quorate bench`: it runs, and its figures are sound. How good they are is not judged here."""

from __future__ import annotations

import json

import pytest

from tests.e2e.cluster import Cluster

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("journal", ["--journal", "--memory"])
def test_two_hundred_agents_join(cluster: Cluster, journal: str) -> None:
    bench = cluster.quorate(
        "bench", "join", "--nodes", "200", "--repeat", "2", "--json", journal, name="bench"
    )
    assert bench.exit_code(50.0) == 0, bench.report()
    assert not bench.stderr
    (line,) = bench.stdout
    figures = json.loads(line)
    assert figures["bench"] == "join"
    assert figures["nodes"] == 200
    seconds = figures["seconds"]
    assert len(seconds) == 2
    assert 0 < figures["min_s"] == min(seconds)
    assert figures["min_s"] <= figures["median_s"] <= figures["max_s"] == max(seconds)


def test_for_people_the_figures_are_in_one_line(cluster: Cluster) -> None:
    bench = cluster.quorate("bench", "join", "--nodes", "20", "--repeat", "1", name="bench")
    assert bench.exit_code() == 0, bench.report()
    assert len(bench.stdout) == 1
    assert "20" in bench.stdout[0]
    assert "Traceback" not in bench.report()
