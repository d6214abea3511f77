"""Tables and plots of what `quorate bench --json` has printed.

    python -m quorate.bench.report FOLDER

It reads the documents `*.json` of a folder, and writes `tables.md` and a plot `*.svg` for each.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from quorate.bench.figures import FORMAT, MEASURES, Row, series
from quorate.bench.plot import Line, plot
from quorate.bench.table import format_table
from quorate.errors import RendezvousSettingsError
from quorate.undecodable import UNDECODABLE

__all__ = ["Document", "main", "read", "write"]


class Document(msgspec.Struct):
    """What `figures.document` returns, as far as it is read here.

    Args:
        quorate_bench: The form of the document.
        bench: Which benchmark it is.
        options: What it was asked for.
        machine: What it ran on.
        rows: Its samples.
    """

    quorate_bench: int
    bench: str
    options: dict[str, float | bool]
    machine: dict[str, object]
    rows: list[Row]


def read(body: bytes) -> Document:
    """Return a document.

    Raises:
        RendezvousSettingsError: It is none, or of another release.
    """
    try:
        document = msgspec.json.decode(body, type=Document)
    except UNDECODABLE as error:
        raise RendezvousSettingsError(f"This is no document of `quorate bench`: {error}") from error
    if document.quorate_bench != FORMAT or document.bench not in MEASURES:
        raise RendezvousSettingsError(
            f"This document has form {document.quorate_bench} ('{document.bench}'), and this "
            f"release reads form {FORMAT}: measure again."
        )
    return document


def write(folder: Path) -> None:
    """Write the tables and plots of all documents in a folder.

    Raises:
        RendezvousSettingsError: One of them is none.
    """
    parts = []
    for path in sorted(folder.glob("*.json")):
        document = read(path.read_bytes())
        limit_s = float(document.options["limit_s"])
        table = format_table(document.bench, document.rows, limit_s)
        described = f"{document.bench}, {_told(document.options)}; {_told(document.machine)}"
        parts.append(f"## {path.stem}\n\n{described}\n\n```text\n{table}\n```\n")
        lines = _lines(document.bench, document.rows)
        if lines:
            first = MEASURES[document.bench][0]
            drawn = plot(f"{path.stem}: {first.title}", first.unit, lines)
            path.with_suffix(".svg").write_text(drawn, encoding="utf-8")
    (folder / "tables.md").write_text("\n".join(["# Figures\n", *parts]), encoding="utf-8")


def main() -> None:
    """Run the program."""
    write(Path(sys.argv[1]))


def _lines(bench: str, rows: list[Row]) -> list[Line]:
    name = MEASURES[bench][0].name
    lines = []
    for backend, figures in series(rows, name).items():
        points = [(nodes, summary) for nodes, summary in figures if summary.least > 0]
        if points:
            lines.append(Line(backend, points))
    return lines


def _told(mapping: Mapping[str, object]) -> str:
    return ", ".join(
        _told(value) if isinstance(value, dict) else f"{key.replace('_', ' ')} {value}"
        for key, value in mapping.items()
    )


if __name__ == "__main__":
    main()
