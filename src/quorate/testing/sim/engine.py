"""The real engine, which is looked at before and after each thing that it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from quorate.coordinator.engine import Batch, Engine

__all__ = ["SimEngine"]


class SimEngine(Engine):
    """An engine that decides as the real one does.

    Args:
        before: Called before a message is handled, time passes, or consequences are drawn.
        after: Called after that.
        arguments: Those of `Engine`.
        keywords: Those of `Engine`.
    """

    def __init__(
        self,
        before: Callable[[], object],
        after: Callable[[], object],
        *arguments: Any,
        **keywords: Any,
    ) -> None:
        self._before, self._after = before, after
        super().__init__(*arguments, **keywords)

    def take_batch(self) -> Batch | None:
        """See `Engine`."""
        with self._looked_at():
            return super().take_batch()

    def _handle(self, *arguments: Any) -> None:
        with self._looked_at():
            super()._handle(*arguments)

    def _pass_time(self) -> None:
        with self._looked_at():
            super()._pass_time()

    @contextmanager
    def _looked_at(self) -> Iterator[None]:
        self._before()
        yield
        self._after()
