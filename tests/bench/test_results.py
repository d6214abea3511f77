"""The figures that are kept in the repository: what the documents say is what the pages say."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

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


def test_documents_of_different_machines_are_not_compared(copy: Path) -> None:
    document = copy / "etcd.json"
    document.write_text(document.read_text().replace('"cores": 2', '"cores": 64'))
    printed = claims(copy)
    assert printed.returncode == 1
    assert "etcd were not measured on one machine" in printed.stderr


def test_a_document_that_is_missing_is_named(copy: Path) -> None:
    (copy / "peers.json").unlink()
    printed = claims(copy)
    assert printed.returncode == 1
    assert "There is no" in printed.stderr
    assert "peers.json, for it was left out: measure again." in printed.stderr


def test_what_is_left_out_keeps_no_figures_of_another_machine(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = SourceFileLoader("bench_run", str(BENCH / "run"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("bench_run", run))
    run.exec_module(module)

    def measure(part: Any, small: bool, folder: Path, deadline_s: float) -> None:
        if part.name != "store":
            assert not (folder / f"{part.name}.json").exists()
            (folder / f"{part.name}.json").write_bytes((RESULTS / f"{part.name}.json").read_bytes())

    monkeypatch.setattr(module, "measure", measure)
    monkeypatch.setattr(module, "installed", lambda package: package != "torchft")
    monkeypatch.setattr(sys, "argv", ["run", str(copy)])
    (copy / "lighthouse.svg").touch()
    module.main()
    left = {path.stem for path in RESULTS.glob("*.json")} - {"store", "lighthouse"}
    assert {path.stem for path in copy.glob("*.json")} >= left - {"etcd"}
    for name in ("store", "lighthouse"):
        assert not list(copy.glob(f"{name}.*"))


def test_tables_and_plots_are_made_of_the_documents(copy: Path) -> None:
    write(copy)
    made = {path.name: path.read_text() for path in copy.iterdir()}
    assert made == {path.name: path.read_text() for path in RESULTS.iterdir()}


def test_the_readme_has_the_table_of_the_cold_join() -> None:
    tables = (RESULTS / "tables.md").read_text()
    table = tables.partition("## join\n")[2].partition("```text\n")[2].partition("```")[0]
    assert table
    assert table in README
