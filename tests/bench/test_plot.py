"""Plots."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from quorate.bench.figures import Summary
from quorate.bench.plot import Line, plot

SVG = "{http://www.w3.org/2000/svg}"


def points(document: str) -> list[tuple[float, float]]:
    circles = ElementTree.fromstring(document).iter(f"{SVG}circle")
    return [(float(circle.attrib["cx"]), float(circle.attrib["cy"])) for circle in circles]


def test_what_grows_linearly_is_straight() -> None:
    line = Line("quorate", [(n, Summary(n / 100, n / 200, n / 50)) for n in (10, 100, 1000)])
    (x1, y1), (x2, y2), (x3, y3) = points(plot("join", "s", [line]))
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert y1 - y2 == pytest.approx(y2 - y3, abs=0.2)
    assert y1 > y3


def test_names_are_shown_apart_and_escaped() -> None:
    lines = [Line(name, [(10, Summary(1.0, 1.0, 1.0))]) for name in ("a<b", "c")]
    document = plot("a & b", "s", lines)
    texts = {text.text: text for text in ElementTree.fromstring(document).iter(f"{SVG}text")}
    assert {"a & b", "a<b", "c", "nodes", "1 s"} <= texts.keys()
    heights = [float(texts[name].attrib["y"]) for name in ("a<b", "c")]
    assert abs(heights[0] - heights[1]) >= 12


def test_numbers_are_short() -> None:
    document = plot("join", "s", [Line("a", [(3, Summary(1 / 3, 0.1, 0.7))])])
    assert not re.search(r"\d\.\d{3}", document)


def test_nothing_cannot_be_plotted() -> None:
    with pytest.raises(ValueError, match="no figures"):
        plot("join", "s", [Line("a", [])])
