"""Programs of this package as child processes, which run nothing of the working directory.

`python -m` looks for modules in the working directory first: in one that has a `queue.py`, or that
others may write to, the child would run what lies there.
"""

from __future__ import annotations

import os
import site
import sys
from collections.abc import Mapping
from pathlib import Path

__all__ = ["command_of", "with_own_path"]

# Where this package was found.
_PARENT = str(Path(__file__).absolute().parents[1])


def command_of(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module of this package; `with_own_path` goes with it."""
    return [sys.executable, "-P", "-m", module, *arguments]


def with_own_path(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which Python finds this package, as where this one has found it.

    It need not be installed: it may have been found in the working directory, or by a change of
    `sys.path`.
    """
    if _PARENT in (*site.getsitepackages(), site.getusersitepackages()):
        return dict(environment)
    given = environment.get("PYTHONPATH", "")
    return {**environment, "PYTHONPATH": os.pathsep.join(filter(None, (given, _PARENT)))}
