"""Where the files of a node's workers lie: what they print, and the errors that they record."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from urllib.parse import quote

from quorate.core.state import Place
from quorate.launch.wards import Wards

__all__ = ["WorkerFiles"]

# A name in a folder has at most 255 bytes, and each byte of a run's id may become three.
NAME_CHARACTERS_MAX = 200


class WorkerFiles:
    """The files of a node's workers, in a folder for each round of each run.

    That of worker RANK's output is `LOG_DIR/RUN/EPOCH-ROUND/RANK.log`, and that of its error
    `RANK.error.json` beside it. Where a handler keeps no records, each of its rounds is round 0 of
    no epoch: the folders are `0`, `0.1`, `0.2` and so on. Characters of the run's id that do not
    belong into a name are written as in URLs.

    Args:
        run_id: The id of the run.
        log_dir: Where output is kept; if it is `None`, only errors are, in a temporary folder that
            goes with the wards.
        wards: Removes that folder, however this process ends.
    """

    def __init__(self, run_id: str, log_dir: Path | None, wards: Wards) -> None:
        self._run_id = run_id
        self._log_dir = log_dir.absolute() if log_dir is not None else None
        self._wards = wards
        self._temporary: Path | None = None
        self._world: tuple[str, int] | None = None
        self._repeats = 0
        self._folder: Path | None = None

    def begin(self, place: Place) -> None:
        """Make the folder for a round whose workers are to be started.

        Raises:
            OSError: It cannot be made below `log_dir`. Where only errors were to be kept, they are
                not kept then.
        """
        world = (place.epoch, place.round)
        self._repeats = self._repeats + 1 if world == self._world else 0
        self._world = world
        name = "-".join(filter(None, (place.epoch, str(place.round))))
        if self._repeats:
            name += f".{self._repeats}"
        inner = Path(_safe(self._run_id), _safe(name))
        if self._log_dir is not None:
            self._folder = self._log_dir / inner
            self._folder.mkdir(parents=True, exist_ok=True)
            return
        self._folder = None
        with contextlib.suppress(OSError):
            folder = self._temporary_folder() / inner
            folder.mkdir(parents=True, exist_ok=True)
            self._folder = folder

    def log(self, rank: int) -> Path | None:
        """Return the absolute path for a worker's output, if that is to be kept."""
        if self._log_dir is None or self._folder is None:
            return None
        return self._folder / f"{rank}.log"

    def error(self, rank: int) -> Path | None:
        """Return the absolute path for a worker's error, if there is a place for it."""
        return self._folder / f"{rank}.error.json" if self._folder is not None else None

    def _temporary_folder(self) -> Path:
        if self._temporary is None:
            self._temporary = Path(tempfile.mkdtemp(prefix="quorate-workers-")).absolute()
            self._wards.add_directory(self._temporary)
        return self._temporary


def _safe(name: str) -> str:
    """Return a name without separators that is neither `.` nor `..`, and hidden from nobody."""
    safe = quote(name, safe="", errors="replace")[:NAME_CHARACTERS_MAX]
    return f"%2E{safe[1:]}" if safe.startswith(".") else safe
