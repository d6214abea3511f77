"""Accepting: nobody is lost on the way when it ends, and it survives a lack of files."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import cast

import pytest

from quorate.coordinator.entrance import reception as reception_module
from quorate.coordinator.entrance.reception import Reception

LATE_S = 10.0


class Peer(asyncio.Protocol):
    """Is counted once it is made."""

    def __init__(self, made: list[asyncio.Transport]) -> None:
        self._made = made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._made.append(cast(asyncio.Transport, transport))


class Stubborn:
    """A listening socket that cannot accept, as often as it is told."""

    def __init__(self, listener: socket.socket, failures: int) -> None:
        self._listener = listener
        self.failures = failures

    def accept(self) -> object:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return self._listener.accept()

    def __getattr__(self, name: str) -> object:
        return getattr(self._listener, name)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LATE_S):
        while not condition():
            await asyncio.sleep(0)


def run(listener: object, visit: Callable[[Reception, list[asyncio.Transport]], object]) -> None:
    """Accept for as long as a visit takes."""

    async def main() -> None:
        made: list[asyncio.Transport] = []
        now_s = asyncio.get_running_loop().time
        reception = Reception([cast(socket.socket, listener)], lambda: Peer(made), now_s)
        reception.open()
        await cast(asyncio.Future[None], visit(reception, made))
        await reception.close()
        for transport in made:
            transport.abort()
        await asyncio.sleep(0)

    asyncio.run(main())


def test_what_was_accepted_when_it_ends_has_its_protocol() -> None:
    """Otherwise it would stay open, and be nobody's."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        peers = [socket.create_connection(listener.getsockname()) for _ in range(50)]

        async def visit(reception: Reception, made: list[asyncio.Transport]) -> None:
            await until(lambda: bool(reception._handing_over))
            accepted = len(reception._handing_over) + len(made)
            await reception.close()
            assert len(made) == accepted

        run(listener, visit)
        for peer in peers:
            peer.close()


def test_without_a_free_file_it_tries_again_and_does_not_fill_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reception_module, "ACCEPT_RETRY_S", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stubborn = Stubborn(listener, failures=5)

        async def visit(reception: Reception, made: list[asyncio.Transport]) -> None:
            with socket.create_connection(listener.getsockname()):
                await until(lambda: bool(made))

        run(stubborn, visit)
        assert stubborn.failures == 0
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if "Too many open files" in line]) == 1


def test_it_can_end_while_it_waits_for_a_free_file() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        async def visit(reception: Reception, made: list[asyncio.Transport]) -> None:
            with socket.create_connection(listener.getsockname()):
                await until(lambda: bool(reception._resting))

        run(Stubborn(listener, failures=1), visit)


def test_small_messages_leave_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        async def visit(reception: Reception, made: list[asyncio.Transport]) -> None:
            with socket.create_connection(listener.getsockname()):
                await until(lambda: bool(made))
                peer = made[0].get_extra_info("socket")
                assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

        run(listener, visit)
