"""Which of several coordinators to dial next. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

__all__ = ["Candidates"]

T = TypeVar("T")


class Candidates(Generic[T]):
    """Where coordinators may be, the most promising first.

    One that did not accept the session, or has fallen silent since, is tried again only after all
    others, also if it was one of these who named it. It may be frozen, and who stands by may name
    it until its seat is taken: an agent that waits for that one twice in a row is silent for longer
    than it may be (R11). One that answers that it stands by may decide next: it goes before those
    that did not answer at all, once; these may have come to life meanwhile.

    Args:
        known: What was given, in order; not empty.

    Attributes:
        current: What was dialled last.
    """

    def __init__(self, known: Sequence[T]) -> None:
        self._order = list(known)
        self._silent: set[T] = set()
        self._preferred: set[T] = set()
        self.current = self._order[0]

    def advance(self, named: T | None = None) -> T:
        """Return what to dial now.

        Args:
            named: The coordinator that decides, as another one has just said.
        """
        self.current = self._order[0] if named is None else named
        return self.current

    def accepted(self) -> None:
        """Note that the session was accepted there: this is where it is looked for first."""
        self._silent.discard(self.current)
        self._preferred.discard(self.current)
        self._move(0)

    def failed(self, answers: bool = False) -> None:
        """Note that it was not, or is not any more.

        Args:
            answers: Whether anything was heard there.
        """
        is_preferred = answers and self.current not in self._preferred
        self._silent -= {self.current}
        self._preferred -= {self.current}
        if is_preferred:
            self._preferred.add(self.current)
        elif not answers:
            self._silent.add(self.current)
        behind = self._silent if is_preferred else ()
        self._move(sum(each not in behind for each in self._order if each != self.current))

    def _move(self, position: int) -> None:
        # One that was only named is not among those that were given.
        if self.current in self._order:
            self._order.remove(self.current)
            self._order.insert(position, self.current)
