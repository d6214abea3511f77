"""A coordinator as this process: its loop, its signals, how many files it may open."""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext

from quorate.coordinator.engine import CLOSED_KEPT_S
from quorate.coordinator.entrance.door import Keys
from quorate.coordinator.ledgers.base import Ledger, Seat
from quorate.coordinator.server import CoordinatorServer
from quorate.tls import TlsContexts

__all__ = ["Companion", "collect_seldom", "serve"]

# In collections of the middle generation: some seven million objects more than before.
FULL_COLLECTION_EVERY = 1000

Companion = Callable[[CoordinatorServer], AbstractAsyncContextManager[None]]


def _alone(server: CoordinatorServer) -> AbstractAsyncContextManager[None]:
    del server
    return nullcontext()


def serve(
    listeners: Sequence[socket.socket],
    ledger: Ledger | None,
    idle_exit_s: float | None = None,
    seat: Seat | None = None,
    closed_kept_s: float = CLOSED_KEPT_S,
    keys: Keys | None = None,
    tls: TlsContexts | None = None,
    companion: Companion = _alone,
) -> None:
    """Serve a coordinator in this process until a signal or idleness ends it.

    Args:
        listeners: Bound, listening sockets.
        ledger: Where runs are kept; `None` for runs that die with the process.
        idle_exit_s: End after nobody was connected for so long, in seconds.
        seat: For one of several coordinators that share a ledger.
        closed_kept_s: How long a closed run is remembered that nobody is attached to, in seconds.
        keys: Who may come in; everybody if it is `None`.
        tls: What all connections are secured with; `None` for plain ones.
        companion: What is to live beside it in its loop and look at it, such as a status page.

    Raises:
        RendezvousStateError: The ledger holds something that is not a coordinator's.
    """
    _raise_open_files_limit()
    collect_seldom()

    async def main() -> None:
        server = CoordinatorServer(
            listeners,
            ledger,
            idle_exit_s,
            seat=seat,
            closed_kept_s=closed_kept_s,
            keys=keys,
            tls=tls,
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, server.stop)
        # A batch system sends these to all processes of a job, to warn its workers.
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            loop.add_signal_handler(number, lambda: None)
        async with companion(server):
            await server.run()

    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
    else:
        uvloop.run(main())


def collect_seldom() -> None:
    """Let Python look for garbage among young objects as ever, and among all of them seldom.

    It would look through all whenever there are a quarter more of them: a coordinator has millions
    that stay, next to none of them in cycles, and agents would wait for it.
    """
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, FULL_COLLECTION_EVERY)


def _raise_open_files_limit() -> None:
    """Allow as many connections as the system lets this process have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
