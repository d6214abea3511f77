"""Tables and plots of documents."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quorate.bench.figures import Row, Sample, document
from quorate.bench.report import read, write
from quorate.errors import RendezvousSettingsError


def test_a_folder_of_documents_gets_tables_and_plots(tmp_path: Path) -> None:
    rows = [
        Row("floor", 8, [Sample({"seconds": 0.5})]),
        Row("quorate", 8, [Sample({"seconds": 0.75})]),
        Row("torch-c10d", 8, [Sample({})]),
    ]
    made = document("join", {"limit_s": 60.0, "connected": False}, {"cores": 2}, rows)
    (tmp_path / "cold.json").write_text(json.dumps(made))
    write(tmp_path)
    tables = (tmp_path / "tables.md").read_text()
    assert "## cold" in tables
    assert "join, limit s 60.0, connected False; cores 2" in tables
    assert "1.50" in tables
    assert "not in 60 s" in tables
    assert "quorate" in (tmp_path / "cold.svg").read_text()


@pytest.mark.parametrize(
    "change", [{"quorate_bench": 99}, {"bench": "another"}, {"rows": 7}, {"options": None}]
)
def test_what_is_no_document_of_this_release_is_refused(change: dict[str, object]) -> None:
    made = document("join", {"limit_s": 60.0}, {}, [])
    with pytest.raises(RendezvousSettingsError, match="document"):
        read(json.dumps(made | change).encode())
