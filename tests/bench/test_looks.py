"""`bench/looks`: it runs, and says how long joins and looks took."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LOOKS = Path(__file__).parents[2] / "bench" / "looks"


@pytest.mark.e2e
def test_newcomers_join_with_looks_and_without() -> None:
    sizes = ["--nodes", "20", "--looks", "20", "--stretch", "0.3", "--repeat", "1"]
    done = subprocess.run(
        [sys.executable, str(LOOKS), *sizes],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert first.startswith("20 nodes attached")
    names = ["joins without looks", "joins beside 20 look(s) a second", "the looks"]
    assert [line.partition(":")[0] for line in rest] == names
