"""A backend in the memory of one process, for tests and throw-away runs."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import ClassVar
from weakref import WeakValueDictionary

from quorate.backends.base import RendezvousBackend, Token

__all__ = ["MemoryRendezvousBackend"]


@dataclass(frozen=True)
class Version:
    """The token of one write: of a type of its own, so that nothing else equals it."""

    number: int


class MemoryRendezvousBackend(RendezvousBackend):
    """Keeps the state in this object: handlers of one process meet by sharing it."""

    _shared: ClassVar[WeakValueDictionary[str, MemoryRendezvousBackend]] = WeakValueDictionary()
    _shared_lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._state = b""
        self._version: Version | None = None

    @classmethod
    def shared(cls, run_id: str) -> MemoryRendezvousBackend:
        """Return the backend of `run_id` in this process.

        It lives as long as somebody holds it; the next caller then gets a new, empty one.
        """
        with cls._shared_lock:
            backend = cls._shared.get(run_id)
            if backend is None:
                backend = cls._shared[run_id] = cls()
            return backend

    @property
    def name(self) -> str:
        """See `RendezvousBackend`."""
        return "memory"

    @property
    def can_watch(self) -> bool:
        """See `RendezvousBackend`."""
        return True

    def get_state(self) -> tuple[bytes, Token] | None:
        """Return the state and its token, None if it was never set."""
        with self._changed:
            return None if self._version is None else (self._state, self._version)

    def set_state(
        self, state: bytes, token: Token | None = None
    ) -> tuple[bytes, Token, bool] | None:
        """Set the state if `token` is the current one; see `RendezvousBackend`."""
        with self._changed:
            has_set = token == self._version
            if has_set:
                self._state = bytes(state)
                self._version = Version(self._version.number + 1 if self._version else 1)
                self._changed.notify_all()
            return None if self._version is None else (self._state, self._version, has_set)

    def wait_for_change(self, token: Token | None, timeout_s: float) -> bool:
        """Block until the state is another than the one of `token`; see `RendezvousBackend`."""
        with self._changed:
            return self._changed.wait_for(lambda: token != self._version, timeout_s)
