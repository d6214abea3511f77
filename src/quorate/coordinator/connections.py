"""Who is connected to a coordinator: numbers, room, time limits, the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable

from quorate.coordinator.admission import Admission
from quorate.coordinator.connection import Connection, Service, framed
from quorate.coordinator.door import Door, Keys
from quorate.coordinator.refusals import RefusalLog
from quorate.errors import RendezvousConnectionError
from quorate.tls import TlsContexts
from quorate.wire.messages import Reply
from quorate.wire.proof import NONCE_BYTES
from quorate.wire.tls import TlsPipe

__all__ = ["Connections"]

logger = logging.getLogger("quorate.coordinator")

# How often dead connections are looked for, of which there are thousands.
SCAN_S = 1.0

# A peer that does not say hello in this time is no agent; agents say it in their first packet.
GREETING_TIMEOUT_S = 10.0

# Agents and stores beat every few seconds; a connection without a whole message for this long is
# dead.
IDLE_TIMEOUT_S = 120.0

# Connections that are dropped are gone after a turn or two of the loop.
END_TIMEOUT_S = 2.0


class Connections:
    """The connections of one coordinator.

    Args:
        connections_max: How many there may be.
        keys: Who may come in.
        tls: What all connections are secured with; `None` for plain ones.
        now_s: Returns the monotonic time in seconds.

    Attributes:
        admission: Counts them; it has to be told whose hello was let in.
        are_open_to_all: Whether everybody may come in, at once.
        by_number: Those that have not been given up.
        open_count: How many have a socket, those that were given up included.
    """

    def __init__(
        self,
        connections_max: int,
        keys: Keys,
        tls: TlsContexts | None,
        now_s: Callable[[], float],
    ) -> None:
        self.admission = Admission(connections_max)
        self._keys = keys
        self._open_door = Door(Keys(), b"")
        self._tls = tls
        self._now_s = now_s
        self._refusals = RefusalLog()
        self._last_number = 0
        self._scanned_s = now_s()
        self.are_open_to_all = keys.token is None
        self.by_number: dict[int, Connection] = {}
        self.open_count = 0

    def make(self, service: Service) -> Connection:
        """Return a new connection, which is not open yet."""
        pipe = TlsPipe(self._tls.current(), server_side=True) if self._tls is not None else None
        return Connection(service, self._new_door(), pipe)

    def next_number(self) -> int:
        """Return a number that was not used yet."""
        self._last_number += 1
        return self._last_number

    def add(self, connection: Connection) -> None:
        """Number a connection that has been opened.

        Without room for it, a newcomer is turned away, itself if need be; it may come again.
        """
        self._last_number += 1
        connection.number = self._last_number
        connection.heard_s = self._now_s()
        self.by_number[connection.number] = connection
        self.open_count += 1
        leaving = self.admission.arrived(connection.number)
        if leaving is not None and leaving in self.by_number:
            self.by_number[leaving].refuse(
                RendezvousConnectionError(
                    f"The coordinator has no room for another connection: it may have "
                    f"{self.admission.connections_max}. Allow it more open files (ulimit -n)."
                )
            )

    def remove(self, connection: Connection) -> bool:
        """Forget a connection that has ended; return whether it had not been given up before."""
        self.open_count -= 1
        self.admission.gone(connection.number)
        return self.by_number.pop(connection.number, None) is not None

    def tell(self, message: Reply) -> None:
        """Send a message to everybody who has come in."""
        data = framed(message)
        for connection in self.by_number.values():
            if connection.greeted:
                connection.write(data)

    def note_refusal(self, connection: Connection, why: Exception | str) -> None:
        """Log why a peer is refused, unless another one was a moment ago."""
        if self._refusals.note(self._now_s()):
            logger.warning("refused %s: %s", connection.peer(), why)

    def tick(self) -> None:
        """Let time pass: end dead connections, and say how many refusals were not logged."""
        now_s = self._now_s()
        if now_s - self._scanned_s >= SCAN_S:
            self._scanned_s = now_s
            self._end_dead(now_s)
        if untold := self._refusals.take_untold(now_s):
            logger.warning("refused %d more peers", untold)

    def abort(self) -> None:
        """Give all connections up; agents take this for a restart, and dial again."""
        connections, self.by_number = self.by_number, {}
        for connection in connections.values():
            if connection.transport is not None:
                connection.transport.abort()

    async def gone(self) -> None:
        """Wait, in bounded time, until no connection has a socket."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_TIMEOUT_S):
                while self.open_count:
                    await asyncio.sleep(0)

    def _new_door(self) -> Door:
        """Return the door of a new connection; those that are open to everybody are one."""
        if self.are_open_to_all:
            return self._open_door
        return Door(self._keys, secrets.token_bytes(NONCE_BYTES))

    def _end_dead(self, now_s: float) -> None:
        for connection in list(self.by_number.values()):
            limit_s = IDLE_TIMEOUT_S if connection.greeted else GREETING_TIMEOUT_S
            is_late = now_s - connection.heard_s > limit_s and not connection.paused
            if is_late and connection.transport is not None:
                connection.transport.abort()
