"""The job of `quorate demo`: a classifier of handwritten digits, trained by several workers.

Nothing here is needed to use quorate. `TRAINING_SCRIPT` is an ordinary worker script, to be
started by `quorate run`; it needs numpy (`pip install 'quorate[demo]'`).
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["TRAINING_SCRIPT"]

TRAINING_SCRIPT = Path(__file__).with_name("train.py")
