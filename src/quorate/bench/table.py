"""Figures as a table, for people. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from quorate.bench.figures import (
    MEASURES,
    NOBODY,
    Measure,
    Row,
    Summary,
    growth_exponent,
    series,
)

__all__ = ["format_table", "format_value"]

NOTHING = "-"

# It has many figures of few sizes: a line for each, and what it grows with.
SIMULATED = "simulate"


def format_value(value: float, unit: str) -> str:
    """Return a value with so many digits as mean something, and its unit."""
    if unit == "s" and value < 0.1:
        return f"{_rounded(1000 * value)} ms"
    return f"{_rounded(value)} {unit}".rstrip()


def format_table(bench: str, rows: Sequence[Row], limit_s: float) -> str:
    """Return a table of all rows, and what has to be said below it.

    Ratios are to the first backend with the same number of nodes.

    Args:
        bench: One of `figures.MEASURES`.
        rows: The samples; those of the first backend of each size come first.
        limit_s: What is told of those that were not done in time.
    """
    if bench == SIMULATED:
        return _format_by_figure(bench, rows, limit_s)
    first, *others = MEASURES[bench]
    others = [measure for measure in others if any(row.summary(measure.name) for row in rows)]
    heads = ["nodes", "backend", f"{first.title}: median", "min", "max", "ratio"]
    heads += [measure.title for measure in others] + ["limited by"]
    lines = [heads, *(_cells(row, rows, first, others, limit_s) for row in rows)]
    return "\n".join([*_aligned(lines), *_growth(rows, first)])


def _format_by_figure(bench: str, rows: Sequence[Row], limit_s: float) -> str:
    """Return a table for each backend, with a column for each number of nodes."""
    tables = []
    for backend in dict.fromkeys(row.backend for row in rows):
        own = sorted((row for row in rows if row.backend == backend), key=lambda row: row.nodes)
        lines = [[backend, *(f"{row.nodes:,}" for row in own), "grows with the power"]]
        if any(row.is_over for row in own):
            over = [_late(row, limit_s) if row.is_over else NOTHING for row in own]
            lines.append(["in time", *over, NOTHING])
        lines += [_figure_cells(measure, own) for measure in MEASURES[bench]]
        tables.append("\n".join(_aligned(lines, names=0)))
    return "\n\n".join(tables)


def _figure_cells(measure: Measure, rows: Sequence[Row]) -> list[str]:
    ((_, figures),) = series(rows, measure.name).items()
    medians = {nodes: summary.median for nodes, summary in figures}
    cells = [
        format_value(medians[row.nodes], measure.unit) if row.nodes in medians else NOTHING
        for row in rows
    ]
    powers = [f"{power:.2f}" for _, _, power in _powers(figures)]
    return [measure.title, *cells, ", ".join(powers) or NOTHING]


def _cells(
    row: Row, rows: Sequence[Row], first: Measure, others: Sequence[Measure], limit_s: float
) -> list[str]:
    summary = row.summary(first.name)
    cells = [str(row.nodes), row.backend]
    limited_by = NOTHING if row.limited_by == NOBODY else row.limited_by
    if summary is None:
        return [*cells, _late(row, limit_s), *[NOTHING] * (len(others) + 3), limited_by]
    cells += [format_value(value, first.unit) for value in summary]
    cells.append(_ratio(row, rows, first))
    for measure in others:
        other = row.summary(measure.name)
        cells.append(format_value(other.median, measure.unit) if other else NOTHING)
    return [*cells, limited_by]


def _late(row: Row, limit_s: float) -> str:
    some = f"{row.late} of {len(row.samples)} " if row.late < len(row.samples) else ""
    return f"{some}not in {limit_s:g} s"


def _ratio(row: Row, rows: Sequence[Row], measure: Measure) -> str:
    base = next(other for other in rows if other.nodes == row.nodes).summary(measure.name)
    own = row.summary(measure.name)
    if base is None or own is None or not base.median:
        return NOTHING
    return f"{own.median / base.median:.2f}"


def _growth(rows: Sequence[Row], measure: Measure) -> list[str]:
    """Return how each backend's figure grows, from each number of nodes to the next."""
    lines = []
    for backend, figures in series(rows, measure.name).items():
        steps = [f"{fewer} to {more}: {power:.2f}" for fewer, more, power in _powers(figures)]
        if steps:
            lines.append(f"{backend} grows with the power {', '.join(steps)}")
    return ["", *lines] if lines else []


def _powers(figures: Sequence[tuple[int, Summary]]) -> list[tuple[int, int, float]]:
    """Return with which power the median grows, from each number of nodes to the next."""
    points = [(nodes, summary.median) for nodes, summary in figures if summary.median > 0]
    return [
        (smaller[0], larger[0], growth_exponent(smaller, larger))
        for smaller, larger in pairwise(points)
    ]


def _aligned(lines: Sequence[Sequence[str]], names: int = 1) -> list[str]:
    """Return lines with columns of one width: the names to the left, figures to the right.

    Args:
        lines: The cells of each.
        names: The number of the column that has the names.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = []
    for cells in lines:
        padded = [
            cell.ljust(width) if number == names else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        aligned.append("  ".join(padded).rstrip())
    return aligned


def _rounded(value: float) -> str:
    """Return three significant digits, and all of a whole number."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
