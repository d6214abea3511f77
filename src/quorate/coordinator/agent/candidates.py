"""Which of several coordinators to dial next. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

__all__ = ["Candidates"]

T = TypeVar("T")


class Candidates(Generic[T]):
    """Where coordinators may be, the most promising first.

    One that did not accept the session, or has fallen silent since, is tried again only after all
    others. To find out that one is silent takes a third of the time for which an agent may be
    silent itself (R11), and one that answers that it stands by may decide at any moment: it is
    asked again after each that is silent, and not after all of them. It may name one that is
    frozen, until that one's seat is taken: who was the last to be silent is not dialled again
    before another one, whoever names it.

    Args:
        known: What was given, in order; not empty.

    Attributes:
        current: What was dialled last.
    """

    def __init__(self, known: Sequence[T]) -> None:
        self._order = list(known)
        self._silent: set[T] = set()
        self._last_silent: T | None = None
        self.current = self._order[0]

    def advance(self, named: T | None = None) -> T:
        """Return what to dial now.

        Args:
            named: The coordinator that decides, as another one has just said.
        """
        is_told = named is not None and named != self._last_silent
        self.current = named if named is not None and is_told else self._order[0]
        return self.current

    def accepted(self) -> None:
        """Note that the session was accepted there: this is where it is looked for first."""
        self._silent.discard(self.current)
        self._last_silent = None
        self._move(0)

    def failed(self, answers: bool = False) -> None:
        """Note that it was not, or is not any more.

        Args:
            answers: Whether anything was heard there.
        """
        others = [each for each in self._order if each != self.current]
        if answers:
            self._silent.discard(self.current)
            silent = [at for at, each in enumerate(others) if each in self._silent]
            self._move(silent[1] if len(silent) > 1 else len(others))
        else:
            self._silent.add(self.current)
            self._last_silent = self.current
            self._move(len(others))

    def _move(self, position: int) -> None:
        # One that was only named is not among those that were given.
        if self.current in self._order:
            self._order.remove(self.current)
            self._order.insert(position, self.current)
