"""What figures depend on beside their subject: the machine, its packages, and the code itself."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from quorate.bench.measuring import cores

__all__ = ["commit_of", "machine"]

PACKAGES = ("uvloop", "msgspec", "torch", "torchft")


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "cores": cores(),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "version": _version("quorate"),
        "commit": commit_of(Path(__file__).parents[1]),
    }


def commit_of(folder: Path) -> str | None:
    """Return the commit of a package's files, and whether they were changed since.

    Args:
        folder: Where they lie; `None` is returned if that is in no checkout of theirs.
    """
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = _git(folder, "rev-parse", "--short=12", "HEAD")
    return f"{commit} with changes" if _git(folder, "status", "--porcelain", "--", ".") else commit


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what git says; `None` if it refuses, or is not there."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
