"""Where a coordinator keeps what it must not forget."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from quorate.errors import RendezvousSettingsError

__all__ = ["Ledger", "Seat", "journal_path", "state_directory"]


class Ledger(Protocol):
    """Keys and bytes that outlive the coordinator. `quorate.backends.journal.Journal` is one."""

    def load(self) -> dict[str, bytes]:
        """Return everything that is stored."""
        ...

    def commit(self, changes: Mapping[str, bytes | None], durable: bool = True) -> None:
        """Store all changes or none; a value of `None` deletes its key.

        Raises:
            RendezvousDeposedError: Another coordinator has taken over; nothing was stored.
            RendezvousConnectionError: Nothing was stored, or nobody knows; try again, with the
                same changes.
        """
        ...

    def is_held(self) -> bool:
        """Return whether it is certain that nobody else writes: else nothing may be answered."""
        ...

    def close(self) -> None:
        """Release what is held."""
        ...


class Seat(Protocol):
    """What one of several coordinators holds: the right to decide, and the ledger with it (R17)."""

    def take(self) -> Ledger:
        """Wait until the seat is this coordinator's, and return the ledger.

        It blocks; `close`, called from another thread, ends it.

        Raises:
            RendezvousConnectionError: The seat was closed meanwhile.
        """
        ...

    def holder(self) -> str:
        """Return the endpoint of the coordinator that holds the seat; empty if none is known."""
        ...

    def close(self) -> None:
        """Give the seat up, so that another coordinator need not wait."""
        ...


def state_directory(given: str | None = None) -> Path:
    """Return the folder for journals and logs: the given one, or the user's state folder.

    The latter follows the XDG base directory specification.

    Raises:
        RendezvousSettingsError: The user has no home: containers run under ids without a name.
    """
    if given:
        return Path(given)
    base = os.environ.get("XDG_STATE_HOME")
    if base:
        return Path(base) / "quorate"
    try:
        return Path.home() / ".local" / "state" / "quorate"
    except RuntimeError as error:
        raise RendezvousSettingsError(
            f"There is no folder for the coordinator's journal: this user has no home ({error}). "
            f"Name one with state_dir, or set XDG_STATE_HOME."
        ) from error


def journal_path(directory: Path, port: int) -> Path:
    """Return the path of the journal of the coordinator on a port of this machine."""
    return directory / f"coordinator-{port}.journal"
