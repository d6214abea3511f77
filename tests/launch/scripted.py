"""A rendezvous by script, so that an agent can be tested without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from quorate.api import RendezvousHandler, RendezvousInfo
from quorate.core.state import Place
from quorate.stores.memory import MemoryStore


def a_round(number: int, rank: int = 0, size: int = 1, workers: int = 1) -> RendezvousInfo:
    """A completed round in which each of `size` nodes runs `workers` workers."""
    place = Place("e", number, rank, size, "d", "leader", 4567, rank * workers, size * workers)
    return RendezvousInfo(MemoryStore(), rank, size, None, place)


class ScriptedHandler(RendezvousHandler):
    """Goes through given rounds, raises given errors, and writes down what it is asked to do."""

    def __init__(self, rounds: Sequence[RendezvousInfo | Exception]) -> None:
        self._rounds = list(rounds)
        self.calls: list[str] = []
        self.closed = False
        self.waiting: Callable[[], int] = lambda: 0
        self.leave_error: Exception | None = None

    def get_backend(self) -> str:
        return "scripted"

    def next_rendezvous(self) -> RendezvousInfo:
        self.calls.append("next")
        outcome = self._rounds.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def is_closed(self) -> bool:
        return self.closed

    def set_closed(self, reason: str = "") -> None:
        self.calls.append(f"close {reason}")
        self.closed = True

    def num_nodes_waiting(self) -> int:
        return self.waiting()

    def get_run_id(self) -> str:
        return "run"

    def shutdown(self) -> bool:
        self.calls.append("shutdown")
        return True

    def leave(self, reason: str = "") -> None:
        self.calls.append(f"leave {reason}")
        if self.leave_error is not None:
            raise self.leave_error


def is_running(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not yet reaped does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat.rpartition(b")")[2].split()[0] not in (b"Z", b"X")


def pid_in(path: Path) -> int:
    """The process id in a file, 0 while there is none."""
    text = path.read_text() if path.exists() else ""
    return int(text) if text.endswith("\n") else 0
