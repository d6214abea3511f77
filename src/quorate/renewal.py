"""What is made of files, and made again when they change."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

from quorate.clock import Clock, SystemClock
from quorate.errors import RendezvousSettingsError

__all__ = ["LOOK_EVERY_S", "Renewal"]

# How often the files are looked at, at most.
LOOK_EVERY_S = 1.0

# When a file was written, when its owner, rights or name changed, its size and its number: one of
# them changes with it.
Stamp: TypeAlias = tuple[int, int, int, int]

T = TypeVar("T")


class Renewal(Generic[T]):
    """What is made of some files, which are read again when they change.

    While what is there cannot be used, it stays as it was, the files are tried again, and the log
    says why, once for each reason.

    Args:
        files: The files.
        make: Makes it of them; raises RendezvousSettingsError if they cannot be used.
        logger: Where is told what becomes of a change.
        kept: What is told after the reason when they could not be used.
        renewed: What is told when they were.
        clock: Tells when to look at the files again.

    Raises:
        RendezvousSettingsError: They cannot be used now.
    """

    def __init__(
        self,
        files: Sequence[str | Path],
        make: Callable[[], T],
        logger: logging.Logger,
        kept: str,
        renewed: str,
        clock: Clock | None = None,
    ) -> None:
        self._files = [Path(name) for name in files]
        self._make = make
        self._logger = logger
        self._kept = kept
        self._renewed = renewed
        self._clock = clock or SystemClock()
        self._looked_s = self._clock.monotonic()
        self._complaint = ""
        # The stamps first: a change in between is seen later.
        self._stamps = self._look()
        self._made = make()

    def current(self) -> T:
        """Return what counts now."""
        now_s = self._clock.monotonic()
        if now_s - self._looked_s >= LOOK_EVERY_S:
            self._looked_s = now_s
            stamps = self._look()
            if stamps != self._stamps:
                self._make_again(stamps)
        return self._made

    def _look(self) -> list[Stamp | None]:
        return [_stamp(path) for path in self._files]

    def _make_again(self, stamps: list[Stamp | None]) -> None:
        """Make it anew; where that fails, the stamps stay old, so that it is tried again.

        A file that nobody could read in this second may be the same in the next one.
        """
        try:
            self._made = self._make()
        except RendezvousSettingsError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                self._logger.warning("%s %s", error, self._kept)
        else:
            self._stamps, self._complaint = stamps, ""
            self._logger.info("%s", self._renewed)


def _stamp(path: Path) -> Stamp | None:
    """Return what changes when a file does, `None` for one that cannot be seen."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino
