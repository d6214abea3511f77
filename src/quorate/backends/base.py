"""What a rendezvous needs of the place that keeps its state: a compare-and-set."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import TypeAlias

__all__ = ["RendezvousBackend", "Token"]

# Opaque: it names one write of the state, and only the backend that gave it can read it.
Token: TypeAlias = object


class RendezvousBackend(ABC):
    """Keeps the state of one run as bytes, each write under a new token.

    Two writes never share a token, not even of the same bytes: a token that is older than the
    state never matches. Backends may be called from several threads.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the kind of backend, as in ``--rdzv-backend``."""

    @property
    def can_watch(self) -> bool:
        """Whether `wait_for_change` works; if not, poll `get_state`."""
        return False

    @abstractmethod
    def get_state(self) -> tuple[bytes, Token] | None:
        """Read the state.

        Returns:
            The bytes and their token, or None if no state was ever set.

        Raises:
            RendezvousConnectionError: The backend cannot be reached; call again.
            RendezvousStateError: The stored bytes are corrupt.
        """

    @abstractmethod
    def set_state(
        self, state: bytes, token: Token | None = None
    ) -> tuple[bytes, Token, bool] | None:
        """Write the state if nobody else has written since `token` was given out.

        Args:
            state: The new bytes.
            token: What `get_state` or `set_state` returned last; None to write the first state.
                Anything that is not a token of this backend matches nothing.

        Returns:
            The bytes that are there now, their token, and whether this call has set them. If
            not, decide again from those bytes. None if a token was given and there is no state.

        Raises:
            RendezvousConnectionError: The backend cannot be reached. The write may have
                happened all the same: read the state before writing again (R14).
            RendezvousStateError: The stored bytes are corrupt; nothing was written.
        """

    def limited_to(self, exchange_s: float) -> AbstractContextManager[None]:
        """Return a context in which no exchange of this thread takes longer, where that can be.

        A kind of backend that cannot do so, or whose exchanges are short anyhow, takes no notice.

        Args:
            exchange_s: How long one call of `get_state` or `set_state` may take, in seconds.
        """
        return contextlib.nullcontext()

    def wait_for_change(self, token: Token | None, timeout_s: float) -> bool:
        """Block until the state is another than the one of `token`.

        Args:
            token: What the last call returned; None waits for the first state.
            timeout_s: How long to wait at most, in seconds.

        Returns:
            True if the state has changed, False if the time is up.

        Raises:
            NotImplementedError: This kind of backend cannot watch, as `can_watch` says.
        """
        raise NotImplementedError(f"The {self.name} backend cannot watch: poll get_state instead.")
