"""Why nobody is answered, while nobody is. Pure."""

from __future__ import annotations

from collections.abc import Callable

from quorate.wire.messages import Waiting

__all__ = ["Hindrance"]


class Hindrance:
    """What keeps a coordinator that decides from answering; every wait explains itself (R16).

    There may be several reasons, one of each kind, and each ends by itself. The oldest is shown.

    Args:
        tell: Tells everybody who is there. Whoever comes meanwhile has to be told as well.
    """

    def __init__(self, tell: Callable[[Waiting], None]) -> None:
        self._tell = tell
        self._reasons: dict[str, Waiting] = {}
        self._told_kind: str | None = None

    @property
    def waiting(self) -> Waiting | None:
        """What is told; `None` while nothing is in the way."""
        return next(iter(self._reasons.values()), None)

    @property
    def reason(self) -> str:
        """The reason, for people; empty while nothing is in the way."""
        return self.waiting.reason if self.waiting is not None else ""

    def begin(self, waiting: Waiting) -> None:
        """Note what is in the way; it takes the place of what was of its kind."""
        self._reasons[waiting.kind] = waiting
        self._tell_news()

    def end(self, kind: str) -> None:
        """Note that nothing of a kind is in the way any more.

        If that was all, the answers that follow tell it.
        """
        self._reasons.pop(kind, None)
        self._tell_news()

    def _tell_news(self) -> None:
        """Tell everybody what is shown, if its kind is new: not every word of it is (R16)."""
        waiting = self.waiting
        told_kind, self._told_kind = self._told_kind, waiting.kind if waiting is not None else None
        if waiting is not None and waiting.kind != told_kind:
            self._tell(waiting)
