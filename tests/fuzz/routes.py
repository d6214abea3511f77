"""The status page under a fuzzer's hands: bytes of HTTP in, responses out, no socket."""

from __future__ import annotations

import asyncio
import atexit
import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import NamedTuple

from aiohttp import web

from quorate.coordinator.server import CoordinatorServer
from quorate.core.node import NodeProfile
from quorate.page.access import Access
from quorate.page.app import Page
from quorate.testing import ManualClock
from quorate.wire.messages import Join
from tests.fuzz.choices import Choices
from tests.fuzz.sequences import FIRST

READER, OPERATOR = b"a reader's secret", b"an operator's secret"

# Longer than the page keeps an answer for the next who asks.
LONG_S = 3600.0

# How often the loop turns after each piece: enough for the longest of our answers.
TURNS = 12

POST = (
    b"POST /act HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + OPERATOR + b"\r\n"
    b"X-Quorate: act\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
)


JOIN = Join(1, None, 30.0, NodeProfile())


class Wire(asyncio.Transport):
    """The other end of a connection: keeps what it is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.received = b""
        self.ended = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.received += bytes(data)

    def is_closing(self) -> bool:
        return self.ended

    def close(self) -> None:
        self.ended = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


def routes(data: bytes) -> None:
    """Whatever is asked, it is answered or refused, never by a failure of ours, or a secret."""
    choices = Choices(data)
    is_guarded, is_act = choices.below(2) == 1, choices.below(2) == 1
    cut = choices.fragments()
    stream = choices.rest()
    if is_act:
        stream = POST % (len(stream), stream)
    served = (new_page if is_act or b"POST" in stream.upper() else page)(is_guarded)
    received = loop().run_until_complete(exchange(served, list(cut(stream))))
    for head, body in responses(received):
        status = int(head.split(b" ", 2)[1])
        assert status != 500, body
        if status == 400 and b"Content-Security-Policy" not in head:
            # It was no HTTP, and did not reach the page.
            continue
        assert b"Content-Security-Policy: default-src 'none'" in head
        assert all(secret in stream or secret not in body for secret in (READER, OPERATOR))
        assert not (is_guarded and status == 200 and b'"run_id"' in body) or b"Bearer" in stream


def responses(received: bytes) -> Iterable[tuple[bytes, bytes]]:
    """Yield the head of each response with what follows it."""
    for part in re.split(rb"(?=HTTP/1\.1 \d{3} )", received)[1:]:
        head, _, body = part.partition(b"\r\n\r\n")
        yield head, body


@cache
def loop() -> asyncio.AbstractEventLoop:
    """Return the loop of this process, since making one costs more than most exchanges."""
    loop = asyncio.new_event_loop()
    atexit.register(loop.close)
    return loop


class Served(NamedTuple):
    """A page of a coordinator with one run, and its clock."""

    runner: web.AppRunner
    clock: ManualClock


def new_page(is_guarded: bool) -> Served:
    access = Access(lambda: [READER] * is_guarded, lambda: [OPERATOR])
    clock = ManualClock()
    return Served(Page(coordinator(), access, clock=clock)._runner(), clock)


# For those who only look, and change nothing.
page = cache(new_page)


async def exchange(served: Served, pieces: Sequence[bytes]) -> bytes:
    """Return what a page says to some bytes; what it remembered of former ones is over."""
    runner, clock = served
    clock.advance(LONG_S)
    if runner.server is None:
        await runner.setup()
    assert runner.server is not None
    wire, handler = Wire(), runner.server()
    handler.connection_made(wire)
    for piece in pieces:
        if not wire.ended:
            handler.data_received(piece)
            await turn()
    handler.connection_lost(None)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await turn()
    return wire.received


async def turn() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


def coordinator() -> CoordinatorServer:
    """Return a coordinator that nobody can reach, with one agent that waits for a round."""
    server = CoordinatorServer([], None, clock=ManualClock())
    engine = server._engine
    assert engine is not None
    engine.opened(10**6)
    engine.receive(10**6, FIRST)
    engine.receive(10**6, JOIN)
    return server
