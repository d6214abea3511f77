"""One node's copy of the shared state, exchanged with a backend by compare-and-set."""

from __future__ import annotations

import contextlib
import logging
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager

from quorate.backends.base import RendezvousBackend, Token
from quorate.clock import Clock, SystemClock
from quorate.codec import decode_state, encode_state
from quorate.core.action import RendezvousContext
from quorate.core.completion import LAST_CALL, REGROUP, regroup_over
from quorate.core.node import NodeDesc
from quorate.core.observer import Observer
from quorate.core.settings import RendezvousSettings
from quorate.core.state import RendezvousState
from quorate.core.transitions import drop_stragglers, withdraw
from quorate.errors import RendezvousConnectionError

__all__ = ["BackendRendezvousStateHolder", "RendezvousStateHolder"]

logger = logging.getLogger(__name__)

# A holder is looked at whenever its node looks whether a beat is due; a gap longer than that by
# this much means that its process was away.
TICK_TOLERANCE_S = 1.0

# Whether a regroup is over is judged of the state as a whole, for no node in particular.
NOBODY = NodeDesc("", 0, 0)


class RendezvousStateHolder(ABC):
    """Holds the shared state of a run as one node sees it."""

    @property
    @abstractmethod
    def state(self) -> RendezvousState:
        """The state as of the last `sync`, with the changes made to it since."""

    @property
    @abstractmethod
    def observer(self) -> Observer:
        """Judges the age of what is in the state; whoever decides on the state uses this one."""

    @abstractmethod
    def sync(self) -> bool | None:
        """Write the state if it is marked as changed, else read it.

        Returns:
            True if the changes were written; False if another node wrote first: decide again
            from `state`; None if there was nothing to write.

        Raises:
            RendezvousConnectionError: The backend cannot be reached. Changes may have been
                written or not: call again, and decide again from what is there (R14).
            RendezvousStateError: The stored state is corrupt.
        """

    @abstractmethod
    def mark_dirty(self) -> None:
        """Say that `state` was changed, so that the next `sync` writes it."""

    def limited_to(self, exchange_s: float) -> AbstractContextManager[None]:
        """See `RendezvousBackend`."""
        return contextlib.nullcontext()

    @abstractmethod
    def wait(self, timeout_s: float) -> None:
        """Block until the state may have changed, for at most `timeout_s` seconds."""


class BackendRendezvousStateHolder(RendezvousStateHolder):
    """Holds the state that a backend keeps. After each exchange it takes out who is gone.

    What it takes out of its copy is stored with the next change that the node itself makes, and
    is worked out again until then. It is not thread-safe.

    Args:
        backend: Where the state is kept.
        settings: The settings of the run.
        cache_duration: For how many seconds a state that was read is good enough to read again.
        clock: Gives the time.
        observer: Judges how long a node has been silent; it may be shared with others only if
            they see the same state.
        mint: Returns new random text, for epochs.
        decode: Returns what a backend's bytes stand for; the caller may change it.
    """

    def __init__(
        self,
        backend: RendezvousBackend,
        settings: RendezvousSettings,
        cache_duration: float = 1,
        clock: Clock | None = None,
        observer: Observer | None = None,
        mint: Callable[[], str] = lambda: secrets.token_hex(4),
        decode: Callable[[bytes], RendezvousState] = decode_state,
    ) -> None:
        self._backend = backend
        self._settings = settings
        self._cache_duration_s = cache_duration
        self._clock = clock or SystemClock()
        self._observer = observer or Observer(
            self._clock,
            gap_max_s=settings.beat_look_s + TICK_TOLERANCE_S,
        )
        self._mint = mint
        self._decode = decode
        self._state = self._new_state()
        self._token: Token | None = None
        self._dirty = False
        self._exchanged_s: float | None = None
        self._refused = False

    @property
    def state(self) -> RendezvousState:
        """See `RendezvousStateHolder`."""
        return self._state

    @property
    def observer(self) -> Observer:
        """See `RendezvousStateHolder`."""
        return self._observer

    def sync(self) -> bool | None:
        """See `RendezvousStateHolder`."""
        if not self._dirty and self._is_fresh():
            self._observer.tick()
            return None
        former = self._token
        has_set = self._exchange()
        self._observer.tick()
        if self._token != former:
            self._refused = False
            self._observer.confirm()
        elif self._refused:
            # Where this node cannot write, others' heartbeats may be missing for the same reason.
            self._observer.retract()
        self._sanitize()
        return has_set

    def mark_dirty(self) -> None:
        """See `RendezvousStateHolder`."""
        self._dirty = True

    def limited_to(self, exchange_s: float) -> AbstractContextManager[None]:
        """See `RendezvousBackend`."""
        return self._backend.limited_to(exchange_s)

    def wait(self, timeout_s: float) -> None:
        """See `RendezvousStateHolder`; a backend that can watch ends the wait early."""
        if not self._backend.can_watch:
            self._clock.sleep(timeout_s)
        elif not self._backend.wait_for_change(self._token, timeout_s):
            return
        # Whoever has waited wants to see what is there now.
        self._exchanged_s = None

    def _is_fresh(self) -> bool:
        if self._exchanged_s is None:
            return False
        return self._clock.monotonic() - self._exchanged_s < self._cache_duration_s

    def _exchange(self) -> bool | None:
        dirty, self._dirty = self._dirty, False
        # If the exchange fails nobody knows what is stored: the next one reads, and the changes
        # are decided on again (R14).
        self._exchanged_s = None
        has_set = None
        if dirty:
            answer = self._write()
            has_set = answer is not None and answer[2]
            stored = answer[:2] if answer is not None else None
        else:
            stored = self._backend.get_state()
        if stored is None:
            self._state, self._token = self._new_state(), None
        elif not has_set:
            self._state, self._token = self._decode(stored[0]), stored[1]
        else:
            self._token = stored[1]
        # Where others write too, what a lost write has read is soon old.
        self._exchanged_s = None if has_set is False else self._clock.monotonic()
        return has_set

    def _write(self) -> tuple[bytes, Token, bool] | None:
        try:
            return self._backend.set_state(encode_state(self._state), self._token)
        except RendezvousConnectionError:
            self._refused = True
            raise

    def _sanitize(self) -> None:
        """Take out silent nodes (R8) and members that did not come back in time (R10)."""
        silence_s = self._settings.silence_s
        reason = f"silent for {silence_s:g} s"
        for node in self._observer.silent(self._state.last_heartbeats, silence_s):
            logger.info("%s is lost to the run '%s': %s", node, self._settings.run_id, reason)
            withdraw(self._state, self._settings, node, reason, self._observer)
        context = RendezvousContext(NOBODY, self._state, self._settings, self._observer)
        if regroup_over(context):
            late = drop_stragglers(self._state, self._observer)
            logger.info("These nodes did not come back to regroup in time: %s", late)
        self._observer.forget_all_but((LAST_CALL, REGROUP))

    def _new_state(self) -> RendezvousState:
        return RendezvousState(epoch=self._mint())
