"""Accepts connections. It is open until it is closed, and then no connection is on its way.

The servers of asyncio do not tell which connections are half made when they end; and where the
system has no file left for one, they try thousands of times before they rest.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence

from quorate.coordinator.entrance.refusals import RefusalLog

__all__ = ["Reception"]

logger = logging.getLogger("quorate.coordinator")

BACKLOG = 4096

# Those who wait to be accepted do not keep those waiting who were.
ACCEPTED_AT_ONCE_MAX = 64

# When the system has no files or memory left for a connection.
ACCEPT_RETRY_S = 0.5


class Reception:
    """Makes connections of what arrives at listening sockets.

    Args:
        listeners: Bound sockets; they are closed at the end.
        make_protocol: Returns the protocol of a new connection.
        now_s: Returns the monotonic time in seconds.
    """

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        make_protocol: Callable[[], asyncio.Protocol],
        now_s: Callable[[], float],
    ) -> None:
        self._listeners = list(listeners)
        self._make_protocol = make_protocol
        self._now_s = now_s
        self._handing_over: set[asyncio.Task[None]] = set()
        self._resting: dict[socket.socket, asyncio.TimerHandle] = {}
        self._complaints = RefusalLog()

    def open(self) -> None:
        """Begin to accept."""
        for listener in self._listeners:
            listener.setblocking(False)
            listener.listen(BACKLOG)
            self._watch(listener)

    async def close(self) -> None:
        """Accept nothing more; all that was accepted has its protocol when this returns."""
        loop = asyncio.get_running_loop()
        while self._listeners:
            listener = self._listeners.pop()
            loop.remove_reader(listener)
            listener.close()
        for handle in self._resting.values():
            handle.cancel()
        await asyncio.gather(*self._handing_over)

    def _watch(self, listener: socket.socket) -> None:
        self._resting.pop(listener, None)
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTED_AT_ONCE_MAX):
            try:
                peer, _ = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:
                # It has gone away while it waited.
                continue
            except OSError as error:
                self._rest(listener, error)
                return
            task = asyncio.get_running_loop().create_task(self._hand_over(peer))
            self._handing_over.add(task)
            task.add_done_callback(self._handing_over.discard)

    async def _hand_over(self, peer: socket.socket) -> None:
        try:
            peer.setblocking(False)
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            loop = asyncio.get_running_loop()
            await loop.connect_accepted_socket(self._make_protocol, peer)
        except OSError:
            peer.close()

    def _rest(self, listener: socket.socket, error: OSError) -> None:
        """Try again later: the socket would report the same until then."""
        if self._complaints.note(self._now_s()):
            logger.error("cannot accept connections, trying again: %s", error)
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)
        self._resting[listener] = loop.call_later(ACCEPT_RETRY_S, self._watch, listener)
