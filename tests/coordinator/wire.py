"""A transport that is none, and a service that takes notes: what a connection stands between."""

from __future__ import annotations

import asyncio
from typing import Any

from quorate.coordinator.entrance.connection import Connection
from quorate.coordinator.runs.tally import Tally
from quorate.testing import ManualClock
from quorate.wire.frames import FrameReader
from quorate.wire.messages import Request, decode_reply


class Wire(asyncio.Transport):
    """Takes what it is given, and sends nothing."""

    def __init__(self) -> None:
        super().__init__({"peername": ("10.0.0.1", 4711)})
        self.sent = b""
        self.unsent = 0
        self.closing = self.aborted = self.paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += bytes(data)

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    @property
    def replies(self) -> list[Any]:
        """What was written."""
        return [decode_reply(body) for body in FrameReader(1 << 20).feed(self.sent)]


class Notes:
    """A `connection.Service` that writes down what it is told."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.tally = Tally()
        self.told: list[tuple[Any, ...]] = []
        self.pauses = self.redirects = False
        self.held_bytes = 0

    def now_s(self) -> float:
        return self.clock.monotonic()

    def opened(self, connection: Connection) -> None:
        self.told.append(("opened",))

    def knocked(self, connection: Connection, data_bytes: int) -> None:
        self.told.append(("knocked", data_bytes))

    def admitted(self, connection: Connection, may_act: bool) -> None:
        self.told.append(("admitted", may_act))

    def received(self, connection: Connection, message: Request, body_bytes: int) -> None:
        self.told.append(("received", message))
        if self.redirects:
            connection.redirect("holder:1")
        if self.pauses:
            connection.pause()

    def failed(self, connection: Connection, body_bytes: int) -> None:
        self.told.append(("failed", body_bytes))
        if self.pauses:
            connection.pause()

    def holds(self, connection: Connection, unfinished_bytes: int) -> None:
        self.held_bytes = unfinished_bytes

    def refused(self, connection: Connection, why: Exception | str) -> None:
        self.told.append(("refused", connection.peer()))

    def closed(self, connection: Connection, finished: bool) -> None:
        self.told.append(("closed", finished))
