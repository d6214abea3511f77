"""Figures as a table."""

from __future__ import annotations

import pytest

from quorate.bench.figures import LOAD, Row, Sample
from quorate.bench.table import format_table, format_value


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0123456, "s", "12.3 ms"),
        (0.5, "s", "0.5 s"),
        (12.345, "s", "12.3 s"),
        (0.0, "B", "0 B"),
        (1234567.0, "B", "1,234,567 B"),
        (3.0, "", "3"),
    ],
)
def test_values_have_three_digits_and_a_unit(value: float, unit: str, text: str) -> None:
    assert format_value(value, unit) == text


def samples(*seconds: float) -> list[Sample]:
    return [Sample({"seconds": each, "server_cpu_s": each / 2}, LOAD) for each in seconds]


def test_a_table_compares_with_the_first_of_each_size() -> None:
    rows = [
        Row("floor", 10, samples(0.2, 0.1, 0.3)),
        Row("torch-c10d", 10, [Sample({})]),
        Row("quorate", 10, samples(0.3)),
        Row("floor", 100, samples(2.0)),
        Row("quorate", 100, samples(30.0)),
    ]
    assert format_table("join", rows, 300.0).splitlines() == [
        "nodes  backend     until all have joined: median    min    max  ratio  server CPU  "
        "    limited by",
        "   10  floor                               0.2 s  0.1 s  0.3 s   1.00       0.1 s  "
        "load generator",
        "   10  torch-c10d                   not in 300 s      -      -      -           -  "
        "             -",
        "   10  quorate                             0.3 s  0.3 s  0.3 s   1.50      0.15 s  "
        "load generator",
        "  100  floor                                 2 s    2 s    2 s   1.00         1 s  "
        "load generator",
        "  100  quorate                              30 s   30 s   30 s  15.00        15 s  "
        "load generator",
        "",
        "floor grows with the power 10 to 100: 1.00",
        "quorate grows with the power 10 to 100: 2.00",
    ]


def test_without_a_first_figure_there_are_no_ratios() -> None:
    rows = [Row("torch-c10d", 10, [Sample({})]), Row("quorate", 10, samples(0.3))]
    table = format_table("join", rows, 5.0)
    assert "not in 5 s" in table
    assert table.splitlines()[-1].split()[-4:] == ["0.15", "s", "load", "generator"]
    assert " - " in table.splitlines()[-1]


def test_a_sample_that_was_not_in_time_does_not_vanish() -> None:
    """What was in time would stand for all of it."""
    rows = [
        Row("floor", 10, samples(0.1)),
        Row("floor", 100, samples(1.0)),
        Row("torch-c10d", 10, samples(0.2)),
        Row("torch-c10d", 100, [*samples(0.08), Sample({})]),
    ]
    table = format_table("join", rows, 300.0)
    assert table.splitlines()[4].split()[:8] == [
        *("100", "torch-c10d"),
        *("1", "of", "2", "not", "in", "300"),
    ]
    assert "80 ms" not in table
    assert "torch-c10d grows" not in table
    simulation = [Row("quorate", 10, [*simulated(0.08), Sample({})])]
    assert "1 of 2 not in 30 s" in format_table("simulate", simulation, 30.0)


def simulated(cpu_s: float) -> list[Sample]:
    return [Sample({"join_cpu_s": cpu_s, "join_up_per_node": 2.0, "loss_up_per_node": 0.0})]


def test_a_simulation_has_a_line_for_each_figure() -> None:
    rows = [
        Row("quorate", 10000, simulated(1.0)),
        Row("quorate", 1000, simulated(0.05)),
        Row("memory", 1000, [Sample({})]),
    ]
    ours, other = (part.splitlines() for part in format_table("simulate", rows, 30.0).split("\n\n"))
    assert ours[0].split() == ["quorate", "1,000", "10,000", "grows", "with", "the", "power"]
    assert ours[1].split() == ["cold", "join:", "CPU", "50", "ms", "1", "s", "1.30"]
    assert ours[3].split()[-5:] == ["2", "/node", "2", "/node", "0.00"]
    (loss,) = (line for line in ours if line.startswith("told of a loss: messages up"))
    assert loss.split()[-1] == "-"
    assert other[1].split() == ["in", "time", "not", "in", "30", "s", "-"]
