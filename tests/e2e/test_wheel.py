"""The wheel that is published: everything that the package needs is in it, and nothing else."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import do_without

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "quorate"

PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")

# What pip says when it cannot fetch the build's backend.
UNOBTAINABLE = re.compile(r"No matching distribution found for (hatchling|editables)")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a wheel of this source; the backend is fetched if it is not installed."""
    folder = tmp_path_factory.mktemp("wheel")
    is_here = importlib.util.find_spec("hatchling") is not None
    how = ["--no-build-isolation"] if is_here else ["--retries", "1", "--timeout", "5"]
    command = [*PIP, "wheel", "--no-deps", *how, "--wheel-dir", str(folder), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode and UNOBTAINABLE.search(built.stderr):
        do_without("hatchling is not installed, and pip cannot fetch it: `pip install hatchling`")
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.iterdir()
    return wheel


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder into which the wheel was installed, and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([*PIP, "install", "--no-deps", "--target", str(folder), str(wheel)], check=True)
    return folder


def run(installed: Path, *arguments: str) -> str:
    """Return what a program says that finds quorate there, rather than in the source."""
    return subprocess.check_output(
        [sys.executable, *arguments],
        text=True,
        cwd=installed.parent,
        env=os.environ | {"PYTHONPATH": str(installed)},
    )


def test_every_file_of_the_package_is_in_it_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = {
        path.relative_to(ROOT / "src").as_posix()
        for path in SOURCE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == files
    assert {"quorate/py.typed", "quorate/page/page.html", "quorate/page/page.js"} <= names


def test_it_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        metadata = archive.read(name).decode()
        licenses = [each for each in archive.namelist() if each.endswith("/LICENSE")]
    assert "Name: quorate\n" in metadata
    assert "License-Expression: BSD-3-Clause\n" in metadata
    assert "# quorate\n" in metadata
    assert len(licenses) == 1


def test_torchrun_finds_its_handler(installed: Path) -> None:
    program = (
        "from importlib.metadata import entry_points\n"
        "found = next(iter(entry_points(group='torchrun.handlers', name='quorate')))\n"
        "print(found.load().__code__.co_filename)\n"
    )
    assert Path(run(installed, "-c", program).strip()) == installed / "quorate" / "plugin.py"


def test_its_command_runs(installed: Path) -> None:
    said = run(installed, str(installed / "bin" / "quorate"), "--version")
    assert re.search(r"version \d+\.\d+\.\d+", said)


def test_its_page_has_its_files(installed: Path) -> None:
    program = (
        "from quorate.page import app\n"
        "from quorate.page.access import Access\n"
        "from quorate.coordinator.server import CoordinatorServer\n"
        "page = app.Page(CoordinatorServer([], None), Access(list, list))\n"
        "print(app.__file__, *sorted(page._files))\n"
    )
    file, *names = run(installed, "-c", program).split()
    assert Path(file) == installed / "quorate" / "page" / "app.py"
    assert {"page.html", "page.js", "page.css", "icon.svg"} <= set(names)
