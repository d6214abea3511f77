"""What figures depend on."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from quorate.bench.machine import commit_of, machine


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org")
    return subprocess.check_output(["git", "-C", str(folder), *who, *arguments], text=True).strip()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package in a repository, committed."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    return package


def test_the_machine_says_what_figures_depend_on() -> None:
    described = machine()
    assert described["cores"] >= 1
    assert described["packages"]["msgspec"]
    assert described.keys() >= {"version", "commit"}


def test_code_is_of_a_commit(package: Path) -> None:
    head = git(package, "rev-parse", "HEAD")
    commit = commit_of(package)
    assert commit is not None
    assert len(commit) >= 12
    assert head.startswith(commit)
    # What is measured is written beside the code, and does not change it.
    (package.parent / "results.json").touch()
    assert commit_of(package) == commit


@pytest.mark.parametrize("name", ["__init__.py", "new.py"])
def test_code_that_was_changed_is_not_that_of_its_commit(package: Path, name: str) -> None:
    commit = commit_of(package)
    (package / name).write_text("changed = True\n")
    assert commit_of(package) == f"{commit} with changes"


def test_code_that_is_installed_is_of_no_commit(
    package: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installed = package.parent / "installed"
    installed.mkdir()
    (installed / "__init__.py").touch()
    assert commit_of(installed) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit_of(package) is None
