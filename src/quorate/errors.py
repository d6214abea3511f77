"""The errors of quorate, one tree.

    RendezvousError
     ├── RendezvousClosedError          the run was closed; `reason` says why
     ├── RendezvousTimeoutError         a round did not complete in time
     │    └── StoreTimeoutError         a key did not appear in time
     ├── RendezvousConnectionError      the coordinator or backend cannot be reached
     │    ├── RendezvousDeposedError    another coordinator has taken over (R17)
     │    └── RendezvousProtocolError   the other side does not speak our protocol
     ├── RendezvousStateError           stored bytes are corrupt or of another version
     ├── RendezvousSettingsError        configuration is wrong, or differs from the run's (R13)
     ├── RendezvousReplacedError        a newer incarnation of this node took its place (R12)
     ├── RendezvousEvictedError         this node is kept out of the run
     ├── RendezvousLimitError           a limit of the coordinator was reached (R15)
     ├── RendezvousAuthenticationError  a token is missing, wrong, or not proved (R15)
     ├── RendezvousUnhealthyError       this node's own health check fails
     └── RendezvousGracefulExitError    the node is not needed any more: leave, and exit 0

The names are PyTorch's where PyTorch has one. Every message says what happened, why, and what
to do next. `exit_code` is what the commands of quorate exit with when the error ends them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import ClassVar, Self

__all__ = [
    "RendezvousAuthenticationError",
    "RendezvousClosedError",
    "RendezvousConnectionError",
    "RendezvousDeposedError",
    "RendezvousError",
    "RendezvousEvictedError",
    "RendezvousGracefulExitError",
    "RendezvousLimitError",
    "RendezvousProtocolError",
    "RendezvousReplacedError",
    "RendezvousSettingsError",
    "RendezvousStateError",
    "RendezvousTimeoutError",
    "RendezvousUnhealthyError",
    "StoreTimeoutError",
    "translating",
]


class RendezvousError(Exception):
    """The base of every error that quorate raises on purpose."""

    exit_code: ClassVar[int] = 70


class RendezvousClosedError(RendezvousError):
    """The run is closed: nobody can join it any more.

    Args:
        message: What happened, for a person.
        reason: What was given when the run was closed, empty if nothing was.
    """

    exit_code = 71

    def __init__(self, message: str = "The rendezvous is closed.", reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason

    @classmethod
    def of_run(cls, run_id: str, reason: str) -> Self:
        """Return the error for who wants to join a run that was closed for a reason, if any."""
        because = f": {reason}" if reason else ""
        text = f"The run '{run_id}' is closed{because}. Start a new run under another id."
        return cls(text, reason)


class RendezvousTimeoutError(RendezvousError):
    """A rendezvous operation did not finish before its deadline."""

    exit_code = 72


class StoreTimeoutError(RendezvousTimeoutError):
    """A key of a store did not appear before the deadline of the call."""


class RendezvousConnectionError(RendezvousError):
    """The coordinator or the backend could not be reached, or the connection was lost."""

    exit_code = 73


class RendezvousDeposedError(RendezvousConnectionError):
    """Another coordinator decides now: what this one wanted to store was refused (R17)."""


class RendezvousProtocolError(RendezvousConnectionError):
    """The peer sent something that is not the protocol, or speaks another version of it."""

    exit_code = 74


class RendezvousStateError(RendezvousError):
    """The stored state cannot be decoded; nothing was changed."""

    exit_code = 75


class RendezvousSettingsError(RendezvousError, ValueError):
    """A setting is wrong in itself, or differs from the one that the run was started with."""

    exit_code = 76


class RendezvousReplacedError(RendezvousError):
    """A newer incarnation of this node has joined: this one must end (R12)."""

    exit_code = 77


class RendezvousLimitError(RendezvousError):
    """The coordinator refused a request that would exceed one of its limits."""

    exit_code = 78


class RendezvousAuthenticationError(RendezvousError):
    """One side does not know the token that the other one asks for, or not the operators'."""

    exit_code = 79


class RendezvousEvictedError(RendezvousError):
    """The node is kept out of the run: the operator evicted it, or it failed too often."""

    exit_code = 80


class RendezvousUnhealthyError(RendezvousError):
    """The health check of this node has failed until there was no time left."""

    exit_code = 81


class RendezvousGracefulExitError(RendezvousError):
    """The node is not needed: a spare at the end, or drained. Nothing failed, leave with 0."""

    exit_code = 0


@contextlib.contextmanager
def translating(
    table: Mapping[type[BaseException], type[RendezvousError]], doing: str
) -> Iterator[None]:
    """Turn foreign errors into ours at the one edge where they enter.

    Args:
        table: Foreign error type to the type of this tree that replaces it.
        doing: What was being done, for the message: ``"reading the state file /x/y"``.

    Raises:
        RendezvousError: The mapped type, with the foreign error as its cause.
    """
    try:
        yield
    except tuple(table) as error:
        for foreign, own in table.items():
            if isinstance(error, foreign):
                raise own(f"{doing} failed: {error}") from error
        raise
