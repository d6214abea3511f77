"""Why nobody is answered, while nobody is. Pure."""

from __future__ import annotations

from collections.abc import Callable

from quorate.wire.messages import Waiting

__all__ = ["Hindrance"]


class Hindrance:
    """What keeps a coordinator that decides from answering; every wait explains itself (R16).

    Args:
        tell: Tells everybody who is there. Whoever comes meanwhile has to be told as well.

    Attributes:
        waiting: What is told; `None` while nothing is in the way.
    """

    def __init__(self, tell: Callable[[Waiting], None]) -> None:
        self._tell = tell
        self.waiting: Waiting | None = None

    @property
    def reason(self) -> str:
        """The reason, for people; empty while nothing is in the way."""
        return self.waiting.reason if self.waiting is not None else ""

    def begin(self, waiting: Waiting) -> None:
        """Note what is in the way, and tell it."""
        self.waiting = waiting
        self._tell(waiting)

    def end(self) -> None:
        """Note that nothing is in the way any more: the answers that follow tell it."""
        self.waiting = None
