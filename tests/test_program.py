"""Programs of this package, started in a working directory that is not to be trusted."""

from __future__ import annotations

import os
import site
import subprocess
from pathlib import Path

import pytest

from quorate import program
from quorate.program import command_of, with_own_path


def test_nothing_of_the_working_directory_is_run(tmp_path: Path) -> None:
    for name in ("queue.py", "token.py", "quorate.py"):
        (tmp_path / name).write_text("raise SystemExit('run')")
    done = subprocess.run(
        command_of("quorate", "--version"),
        check=False,
        capture_output=True,
        cwd=tmp_path,
        env=with_own_path(os.environ),
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"quorate")


def test_what_is_not_installed_is_found_after_what_the_user_names() -> None:
    given = {"PYTHONPATH": "/ours", "HOME": "/root"}
    parent = str(Path(program.__file__).parents[1])
    assert with_own_path(given) == {"PYTHONPATH": f"/ours:{parent}", "HOME": "/root"}
    # An empty entry would be the working directory.
    assert with_own_path({}) == with_own_path({"PYTHONPATH": ""}) == {"PYTHONPATH": parent}


def test_what_is_installed_is_found_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the standard library, some old packages would be in its way."""
    parent = str(Path(program.__file__).parents[1])
    monkeypatch.setattr(site, "getsitepackages", lambda: [parent])
    assert with_own_path({"HOME": "/root"}) == {"HOME": "/root"}
