"""A plot of figures over the number of nodes, as SVG: both axes logarithmic. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from quorate.bench.figures import Summary

__all__ = ["Line", "plot"]

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 70, 170, 40, 50

# Told apart by people who see colours in other ways too (Okabe and Ito).
COLOURS = ("#000000", "#E69F00", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#999999")

# Between two labels at the end of lines, and around text.
LABEL_HEIGHT = 15


class Line(NamedTuple):
    """The figures of one backend.

    Args:
        name: Its name, which is shown beside its end.
        points: Numbers of nodes in growing order, each with its figures.
    """

    name: str
    points: Sequence[tuple[int, Summary]]


class _Axis:
    """Where the values of an axis lie: logarithmic, from a power of ten to another one."""

    def __init__(self, values: Sequence[float], first: float, last: float) -> None:
        self._lowest = math.floor(math.log10(min(values)))
        self._highest = max(math.ceil(math.log10(max(values))), self._lowest + 1)
        self._first, self._last = first, last

    def at(self, value: float) -> float:
        share = (math.log10(value) - self._lowest) / (self._highest - self._lowest)
        return self._first + share * (self._last - self._first)

    def decades(self) -> list[float]:
        return [10.0**power for power in range(self._lowest, self._highest + 1)]


def plot(title: str, unit: str, lines: Sequence[Line]) -> str:
    """Return a plot as an SVG document: medians, with bars from the least to the greatest.

    Args:
        title: What is shown.
        unit: The unit of the figures.
        lines: Each with one point at least, and all figures above zero.

    Raises:
        ValueError: There is nothing to show.
    """
    points = [point for line in lines for point in line.points]
    if not points:
        raise ValueError("There are no figures to plot.")
    figures = [value for _, summary in points for value in summary]
    across = _Axis([nodes for nodes, _ in points], LEFT, WIDTH - RIGHT)
    up = _Axis(figures, HEIGHT - BOTTOM, TOP)
    parts = [*_frame(title, across, up, unit)]
    ends: list[tuple[float, Line, str]] = []
    for line, colour in zip(lines, _colours(len(lines)), strict=True):
        if line.points:
            parts += _drawn(line, colour, across, up)
            ends.append((up.at(line.points[-1][1].median), line, colour))
    return "\n".join([_head(), *parts, *_labels(ends, across), "</svg>", ""])


def _head() -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="12">\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>'
    )


def _frame(title: str, across: _Axis, up: _Axis, unit: str) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [_text(LEFT, TOP - 16, title, size=14)]
    for nodes in across.decades():
        x = across.at(nodes)
        parts.append(_stroke([(x, TOP), (x, bottom)], "#dddddd", 1))
        parts.append(_text(x, bottom + 18, f"{nodes:,.0f}", anchor="middle"))
    for value in up.decades():
        y = up.at(value)
        parts.append(_stroke([(LEFT, y), (right, y)], "#dddddd", 1))
        parts.append(_text(LEFT - 8, y + 4, f"{value:g} {unit}", anchor="end"))
    parts.append(_text((LEFT + right) / 2, bottom + 38, "nodes", anchor="middle"))
    return parts


def _drawn(line: Line, colour: str, across: _Axis, up: _Axis) -> list[str]:
    places = [(across.at(nodes), up.at(summary.median)) for nodes, summary in line.points]
    parts = [_stroke(places, colour, 2)]
    for (x, y), (_, summary) in zip(places, line.points, strict=True):
        parts.append(_stroke([(x, up.at(summary.least)), (x, up.at(summary.greatest))], colour, 1))
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>')
    return parts


def _labels(ends: Sequence[tuple[float, Line, str]], across: _Axis) -> list[str]:
    """Return the names, each beside the end of its line, and moved down if another is there."""
    parts = []
    free = -math.inf
    for y, line, colour in sorted(ends, key=lambda end: end[0]):
        free = max(y + 4, free + LABEL_HEIGHT)
        x = across.at(line.points[-1][0]) + 8
        parts.append(_text(x, free, line.name, colour=colour))
    return parts


def _colours(count: int) -> list[str]:
    return [COLOURS[number % len(COLOURS)] for number in range(count)]


def _stroke(points: Sequence[tuple[float, float]], colour: str, width: int) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>'


def _text(
    x: float, y: float, text: str, anchor: str = "start", size: int = 12, colour: str = "#000000"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
        f'fill="{colour}">{escape(text)}</text>'
    )
