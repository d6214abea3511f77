"""The figures for Prometheus, as its own parser reads them; the dashboard asks for no others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from quorate.coordinator.runs import tally
from tests.conftest import wait_until
from tests.page.stage import RUN, Stage
from tests.page.visits import visit

DASHBOARD = Path(__file__).parents[2] / "examples" / "grafana-dashboard.json"


def read(stage: Stage) -> dict[Any, float]:
    """Return the figures, by the names of their samples."""
    answer = visit(f"{stage.url}/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


@pytest.fixture(scope="module")
def figures() -> dict[Any, float]:
    """The figures after one of three nodes was lost."""
    stage = Stage(min_nodes=2, max_nodes=3)
    stage.attach(["a", "b", "c"])
    stage.join()
    stage.end(["c"])
    wait_until(lambda: 'cause="ended"' in visit(f"{stage.url}/metrics").text)
    stage.attach(["d"])
    stage.join()
    # One answer is shared for half a second.
    second = f'rounds_completed_total{{run="{RUN}"}} 2.0'
    wait_until(lambda: second in visit(f"{stage.url}/metrics").text)
    try:
        return read(stage)
    finally:
        stage.close()


def of_run(name: str, **labels: str) -> tuple[Any, ...]:
    return (name, *sorted({"run": RUN, **labels}.items()))


def test_what_has_happened_is_counted(figures: dict[Any, float]) -> None:
    assert figures[of_run("quorate_joins_total")] == 4
    assert figures[of_run("quorate_losses_total", cause="ended")] == 1
    assert figures[of_run("quorate_rounds_completed_total")] == 2
    assert figures[of_run("quorate_world_size_nodes")] == 3
    assert figures[of_run("quorate_nodes", state="participant")] == 3
    assert figures["quorate_runs",] == 1
    assert figures["quorate_deciding",] == 1
    assert figures["quorate_held_requests",] == 0


def test_runs_beyond_those_with_a_name_are_counted_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tally, "RUNS_MAX", 1)
    stage = Stage(max_nodes=2)
    try:
        for run_id in (RUN, "job2", "job3"):
            stage.attach([f"{run_id}-a", f"{run_id}-b"], run_id=run_id)
        stage.join()
        stage.attach(["job3-c"], run_id="job3")
        figures = read(stage)
    finally:
        stage.close()
    assert figures[of_run("quorate_world_size_nodes")] == 2
    others = {"run": tally.OTHER_RUNS}
    assert figures[of_run("quorate_joins_total", **others)] == 5
    assert figures[of_run("quorate_world_size_nodes", **others)] == 4
    assert figures[of_run("quorate_nodes", state="participant", **others)] == 4
    assert figures[of_run("quorate_nodes", state="attached", **others)] == 1


def test_times_are_histograms_that_add_up(figures: dict[Any, float]) -> None:
    assert figures["quorate_detection_seconds_count",] == 1
    assert 0.1 <= figures["quorate_detection_seconds_sum",] < 1
    assert figures["quorate_regroup_seconds_count",] == 1
    assert figures["quorate_detection_seconds_bucket", ("le", "+Inf")] == 1
    assert figures["quorate_detection_seconds_bucket", ("le", "60.0")] == 1


def test_names_have_units_and_counters_end_in_total(figures: dict[Any, float]) -> None:
    names = {key[0] for key in figures}
    assert all(name.startswith("quorate_") for name in names)
    units = re.compile(
        r"_(total|nodes|seconds_(bucket|sum|count)|connections|requests|runs|deciding)$"
    )
    assert [name for name in names if not units.search(name)] == []


def test_the_dashboard_asks_for_nothing_else(figures: dict[Any, float]) -> None:
    board = msgspec.json.decode(DASHBOARD.read_bytes())
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    asked = {name for query in queries for name in re.findall(r"quorate_[a-z_]+", query)}
    known = {key[0] for key in figures}
    assert asked <= known, asked - known
    # Nothing that is told is left out but what the clients need less.
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in known} <= shown
    cells = [tuple(panel["gridPos"].values()) for panel in board["panels"]]
    assert len(set(cells)) == len(cells)
    assert all(panel["datasource"]["uid"] == "${source}" for panel in panels)
