"""Calls beside an event loop: nobody waits for one that hangs, the end of the process neither."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from quorate.coordinator.agent import blocking
from quorate.coordinator.agent.blocking import outcome_of
from quorate.program import with_own_path

LATE_S = 10.0


class Hanging:
    """A call that returns how often it was made, once it may."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        self.may_end.wait(LATE_S)
        return self.calls


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    hanging = Hanging()
    yield hanging
    hanging.may_end.set()


def test_what_it_returns_or_raises_comes_back() -> None:
    def fail() -> None:
        raise ValueError("no idea")

    assert asyncio.run(outcome_of("k", lambda: 7, LATE_S)) == 7
    with pytest.raises(ValueError, match="no idea"):
        asyncio.run(outcome_of("k", fail, LATE_S))
    assert asyncio.run(outcome_of("k", lambda: 8, LATE_S)) == 8


def test_what_hangs_is_waited_for_in_bounded_time_and_takes_one_thread(hanging: Hanging) -> None:
    async def main() -> None:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await outcome_of("k", hanging, 0.01)
        assert await outcome_of("another", lambda: 7, LATE_S) == 7
        both = [asyncio.create_task(outcome_of("k", hanging, LATE_S)) for _ in range(2)]
        await asyncio.sleep(0)
        both[0].cancel()
        hanging.may_end.set()
        assert await both[1] == 1
        assert await outcome_of("k", hanging, LATE_S) == 2

    asyncio.run(main())


def test_without_a_thread_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(OSError, match="new thread"):
        asyncio.run(outcome_of("k", lambda: 7, LATE_S))
    monkeypatch.undo()
    assert asyncio.run(outcome_of("k", lambda: 7, LATE_S)) == 7


def test_a_forked_child_does_not_wait_for_calls_of_its_parent() -> None:
    calls, lock = dict(blocking._calls), blocking._lock
    blocking._calls["k"] = blocking.concurrent.futures.Future()
    with lock:
        blocking._forget_in_child()
        assert asyncio.run(outcome_of("k", lambda: 7, LATE_S)) == 7
    assert blocking._calls == calls == {}


PROGRAM = """
import socket, threading
socket.getaddrinfo = lambda *_, **__: threading.Event().wait()
from quorate.coordinator.agent.client import Client
from quorate.errors import RendezvousError
from quorate.identity import Endpoint
from quorate.wire.messages import ROLE_STORE, Hello, Status
client = Client([Endpoint("head", 1)], lambda *_: Hello(1, ROLE_STORE, "r", "s"), 5.0)
client.start()
try:
    client.call(Status, 0.3)
except RendezvousError:
    print("told")
client.close()
"""


def test_a_process_ends_though_the_name_service_hangs() -> None:
    command = [sys.executable, "-c", PROGRAM]
    environment = with_own_path(os.environ)
    done = subprocess.run(command, check=False, capture_output=True, env=environment, timeout=30.0)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"told\n", b"")
