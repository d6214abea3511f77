"""Who is connected to a coordinator: numbers, room, time limits, the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable

from quorate.coordinator.engine import GAP_MAX_S
from quorate.coordinator.entrance.admission import Admission
from quorate.coordinator.entrance.connection import Connection, Service, framed
from quorate.coordinator.entrance.door import Door, Keys
from quorate.coordinator.entrance.newcomers import Newcomers, network_of
from quorate.coordinator.entrance.refusals import RefusalLog
from quorate.coordinator.entrance.unfinished import Unfinished
from quorate.errors import RendezvousConnectionError
from quorate.tls import TlsContexts
from quorate.wire.messages import Reply
from quorate.wire.proof import NONCE_BYTES
from quorate.wire.tls import TlsPipe

__all__ = ["Connections"]

logger = logging.getLogger("quorate.coordinator")

# How often dead connections are looked for, of which there are thousands.
SCAN_S = 1.0

# A peer that does not say hello in this time is no agent; agents say it in their first packet. Time
# in which the peer waits for us does not count.
GREETING_TIMEOUT_S = 10.0

# Agents and stores beat every few seconds; a connection without a whole message for this long is
# dead.
IDLE_TIMEOUT_S = 120.0

# How many handshakes go on in one turn of the loop, in which members are heard: they take some
# 20 ms. Fewer would make it slower for thousands to join: each turn of the loop has its price.
HANDSHAKES_AT_ONCE_MAX = 32

# For how long they do: what strangers send may cost more than a handshake does.
HANDSHAKES_S = 0.04

# What may wait for that, of all newcomers; beyond it handshakes do not wait, and members may.
UNREAD_BYTES_TOTAL_MAX = 64 * 1024 * 1024

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
        self._newcomers = Newcomers()
        self._unread_bytes = 0
        self._unfinished = Unfinished()
        self._turns_planned = False
        self._last_number = 0
        self._ticked_s = self._scanned_s = now_s()
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
        if self.admission.arrived(connection.number):
            self._turn_one_away(connection)

    def knocked(self, connection: Connection, data_bytes: int) -> None:
        """Let a connection have its turn, until its hello is in."""
        self._unread_bytes += data_bytes
        if self._unread_bytes > UNREAD_BYTES_TOTAL_MAX:
            self._give_turn(connection)
            return
        if connection.waits_since_s is None:
            connection.waits_since_s = self._now_s()
        self.admission.waits(connection.number)
        network = network_of(connection.host())
        self._newcomers.wait(connection.number, network, connection.has_begun)
        self._plan_turns()

    def holds(self, connection: Connection, unfinished_bytes: int) -> None:
        """Note how much of an unfinished message is kept; without room for it, somebody goes."""
        for leaving in self._unfinished.note(connection.number, unfinished_bytes):
            if leaving in self.by_number:
                self.by_number[leaving].refuse(
                    RendezvousConnectionError(
                        "The coordinator keeps too much of messages whose rest has not come, and "
                        "of this one nothing more has come for longest: send it again."
                    )
                )

    def remove(self, connection: Connection) -> bool:
        """Forget a connection that has ended; return whether it had not been given up before."""
        self.open_count -= 1
        self._newcomers.gone(connection.number)
        self._unread_bytes -= len(connection.unread)
        self._unfinished.gone(connection.number)
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
        gap_s, self._ticked_s = now_s - self._ticked_s, now_s
        if gap_s > GAP_MAX_S:
            self._pardon(gap_s)
        elif now_s - self._scanned_s >= SCAN_S:
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

    def _turn_one_away(self, connection: Connection) -> None:
        leaving = self.admission.oldest_idle()
        if leaving == connection.number:
            # All others wait for us; those of the largest crowd have to wait for longest.
            leaving = self._newcomers.last_of_longest() or leaving
        self.admission.gone(leaving)
        self._newcomers.gone(leaving)
        if leaving in self.by_number:
            self.by_number[leaving].refuse(
                RendezvousConnectionError(
                    f"The coordinator has no room for another connection: it may have "
                    f"{self.admission.connections_max}. Allow it more open files (ulimit -n)."
                )
            )

    def _plan_turns(self) -> None:
        if not self._turns_planned:
            self._turns_planned = True
            asyncio.get_running_loop().call_soon(self._give_turns)

    def _give_turns(self) -> None:
        """Go on with handshakes for a while, and with the others after the next look at members."""
        self._turns_planned = False
        begun_s = self._now_s()
        try:
            for _ in range(min(HANDSHAKES_AT_ONCE_MAX, len(self._newcomers))):
                number = self._newcomers.take()
                if number in self.by_number:
                    self._give_turn(self.by_number[number])
                if self._now_s() - begun_s >= HANDSHAKES_S:
                    break
        finally:
            # One whose turn fails does not take that of the others.
            if self._newcomers:
                self._plan_turns()

    def _give_turn(self, connection: Connection) -> None:
        self._newcomers.gone(connection.number)
        self.admission.served(connection.number)
        self._unread_bytes -= len(connection.unread)
        if connection.waits_since_s is not None:
            # It is no peer's fault that it had to wait for us.
            connection.heard_s += self._now_s() - connection.waits_since_s
            connection.waits_since_s = None
        connection.take_turn()
        if connection.unread:
            self.knocked(connection, len(connection.unread))

    def _pardon(self, gap_s: float) -> None:
        """Let a time in which nobody was heard, since this process was away, count for nobody."""
        for connection in self.by_number.values():
            connection.heard_s += gap_s
            if connection.waits_since_s is not None:
                connection.waits_since_s += gap_s

    def _end_dead(self, now_s: float) -> None:
        for connection in list(self.by_number.values()):
            limit_s = IDLE_TIMEOUT_S if connection.greeted else GREETING_TIMEOUT_S
            # Who is paused before its hello has flooded us with something else.
            waits = connection.paused and connection.greeted
            waits |= connection.waits_since_s is not None
            is_late = now_s - connection.heard_s > limit_s and not waits
            if is_late and connection.transport is not None:
                connection.transport.abort()
