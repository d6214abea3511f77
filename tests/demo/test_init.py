from __future__ import annotations

import subprocess
import sys

from quorate.demo import TRAINING_SCRIPT


def test_the_script_runs_as_a_program() -> None:
    command = [sys.executable, str(TRAINING_SCRIPT), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=15)
    assert done.returncode == 0, done.stderr
    assert "--checkpoint-every" in done.stdout


def test_finding_the_script_needs_no_numpy() -> None:
    code = "import quorate.demo, sys; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=15).returncode == 0
