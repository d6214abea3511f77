"""The figures that are kept in the repository: what the documents say is what the pages say."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from quorate.bench.report import write

BENCH = Path(__file__).parents[2] / "bench"
RESULTS = BENCH / "results"

README = (BENCH / "README.md").read_text(encoding="utf-8")


def claims(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCH / "claims"), str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for path in RESULTS.glob("*.json"):
        shutil.copy(path, tmp_path)
    return tmp_path


def test_what_was_measured_keeps_every_claim_and_stands_in_the_readme() -> None:
    printed = claims(RESULTS)
    assert printed.returncode == 0, printed.stderr
    assert printed.stdout in README


def test_a_claim_that_is_not_kept_is_named(copy: Path) -> None:
    document = copy / "reattach.json"
    document.write_text(document.read_text().replace('"changed": 0.0', '"changed": 3.0'))
    printed = claims(copy)
    assert printed.returncode == 1
    assert "not kept: the same: agents that were told of a change" in printed.stderr


def test_tables_and_plots_are_made_of_the_documents(copy: Path) -> None:
    write(copy)
    made = {path.name: path.read_text() for path in copy.iterdir()}
    assert made == {path.name: path.read_text() for path in RESULTS.iterdir()}


def test_the_readme_has_the_table_of_the_cold_join() -> None:
    tables = (RESULTS / "tables.md").read_text()
    table = tables.partition("## join\n")[2].partition("```text\n")[2].partition("```")[0]
    assert table
    assert table in README
