"""Figures of samples."""

from __future__ import annotations

import json

import pytest

from quorate.bench.figures import (
    LOAD,
    MACHINE,
    MEASURES,
    NOBODY,
    SERVER,
    Row,
    Sample,
    Summary,
    bottleneck,
    document,
    growth_exponent,
    percentile,
    series,
)


def row(*seconds: float | None) -> Row:
    samples = [Sample({} if s is None else {"seconds": s}, SERVER) for s in seconds]
    return Row("quorate", 8, samples)


def test_a_summary_is_median_least_and_greatest() -> None:
    assert row(3.0, 1.0, 8.0).summary("seconds") == Summary(3.0, 1.0, 8.0)
    assert row(3.0).summary("told_s") is None


def test_a_row_is_over_once_a_sample_was_not_in_time() -> None:
    assert not row(1.0, 2.0).is_over
    assert row(1.0, None).is_over
    assert (row(1.0, None).late, row(None).late) == (1, 1)


def test_a_row_that_is_over_has_no_figures() -> None:
    """Those of the samples that were in time would be too good."""
    assert row(1.0, None).summary("seconds") is None
    assert row(None).summary("seconds") is None
    made = document("join", {}, {}, [row(1.0, None)])["rows"][0]
    assert (made["in_time"], made["figures"], len(made["samples"])) == (False, {}, 2)


def test_who_limits_most_samples_limits_the_row() -> None:
    samples = [Sample({"seconds": 1.0}, who) for who in (LOAD, SERVER, LOAD)]
    assert Row("quorate", 8, samples).limited_by == LOAD


@pytest.mark.parametrize(
    ("servers", "loads", "core_wait", "who"),
    [
        ([0.9], [0.5], 0.0, SERVER),
        ([0.85], [0.95, 0.1], 0.0, LOAD),
        ([0.5], [0.6], 0.1, NOBODY),
        ([0.9], [0.9], 0.3, MACHINE),
        ([], [0.9], 0.0, LOAD),
        ([], [], 0.0, NOBODY),
    ],
)
def test_the_busiest_process_is_the_bottleneck(
    servers: list[float], loads: list[float], core_wait: float, who: str
) -> None:
    assert bottleneck(servers, loads, core_wait) == who


def test_percentiles_are_values_that_occurred() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert percentile(values, 0.5) == 3.0
    assert percentile(values, 0.99) == 5.0
    assert percentile(values, 0.0) == 1.0


def test_a_series_grows_with_the_nodes_and_leaves_out_what_was_not_measured() -> None:
    rows = [
        Row("quorate", 100, [Sample({"seconds": 2.0})]),
        Row("floor", 10, [Sample({})]),
        Row("quorate", 10, [Sample({"seconds": 1.0})]),
    ]
    assert series(rows, "seconds") == {
        "quorate": [(10, Summary(1.0, 1.0, 1.0)), (100, Summary(2.0, 2.0, 2.0))],
        "floor": [],
    }


def test_what_grows_with_the_square_has_exponent_two() -> None:
    assert growth_exponent((10, 1.0), (100, 100.0)) == pytest.approx(2.0)


def test_the_document_keeps_its_form() -> None:
    """Scripts read it: a change of names is a change of `FORMAT`."""
    made = document("join", {"repeat": 2}, {"cores": 2}, [row(1.0, 2.0)])
    assert json.loads(json.dumps(made)) == {
        "quorate_bench": 1,
        "bench": "join",
        "options": {"repeat": 2},
        "machine": {"cores": 2},
        "rows": [
            {
                "backend": "quorate",
                "nodes": 8,
                "limited_by": "server",
                "in_time": True,
                "figures": {"seconds": {"median": 1.5, "min": 1.0, "max": 2.0}},
                "samples": [
                    {"values": {"seconds": 1.0}, "limited_by": "server"},
                    {"values": {"seconds": 2.0}, "limited_by": "server"},
                ],
            }
        ],
    }


def test_every_measure_of_a_benchmark_has_a_name_of_its_own() -> None:
    for measures in MEASURES.values():
        names = [measure.name for measure in measures]
        assert len(set(names)) == len(names)
