"""A load process: holds agents of one kind, does what it is told, and reports.

    python -m quorate.bench.load DESCRIPTOR KIND LIMIT_S

The descriptor is one end of a socket pair; when the other end is closed, the process ends.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import sys
from multiprocessing.connection import Connection
from types import ModuleType

from quorate.bench.crowd import Crowd
from quorate.bench.floor import FloorCrowd
from quorate.bench.sessions import SessionCrowd
from quorate.bench.tasks import (
    Begin,
    Close,
    Connect,
    Done,
    Join,
    Report,
    Task,
    Trouble,
    Usage,
    decode_task,
    encode,
)
from quorate.bench.threads import PEERS, ThreadCrowd
from quorate.coordinator.process import collect_seldom
from quorate.errors import RendezvousError

__all__ = ["FLOOR", "FLOOR_UVLOOP", "SESSIONS", "event_loop", "main", "perform"]

SESSIONS = "sessions"
FLOOR = "floor"
FLOOR_UVLOOP = "floor+uvloop"


def event_loop(kind: str) -> asyncio.AbstractEventLoop:
    """Return a new loop for a kind of agents or for the server of a floor.

    It is uvloop's where quorate itself would use it, and where the floor asks for it.
    """
    uvloop = _uvloop() if kind in {SESSIONS, FLOOR_UVLOOP} else None
    if uvloop is None:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


async def perform(crowd: Crowd, task: Task) -> Report:
    """Let a crowd do one task."""
    try:
        return await _performed(crowd, task)
    except (RendezvousError, OSError, TimeoutError) as error:
        return Trouble(str(error) or type(error).__name__)


async def _performed(crowd: Crowd, task: Task) -> Report:
    if isinstance(task, Begin):
        await crowd.begin(task)
        gc.collect()
        return Done()
    if isinstance(task, Connect):
        return await crowd.connect(task.timeout_s)
    if isinstance(task, Join):
        return await crowd.join(task.timeout_s)
    if isinstance(task, Usage):
        return crowd.traffic()
    if isinstance(task, Close):
        await crowd.close()
        return Done()
    return await crowd.other(task)


def main(descriptor: int, kind: str, limit_s: float) -> None:
    """Serve tasks until the other end is closed."""
    # Agents have a process each, which is never so full.
    collect_seldom()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with asyncio.Runner(loop_factory=lambda: event_loop(kind)) as runner:
        runner.run(_serve(Connection(descriptor), kind, limit_s))


async def _serve(connection: Connection, kind: str, limit_s: float) -> None:
    crowd = _new_crowd(kind, limit_s)
    loop = asyncio.get_running_loop()
    while True:
        try:
            body = await loop.run_in_executor(None, connection.recv_bytes)
        except EOFError:
            # Threads that wait for others would keep the process for as long as they do.
            os._exit(0)
        report = await perform(crowd, decode_task(body))
        connection.send_bytes(encode(report))


def _new_crowd(kind: str, limit_s: float) -> Crowd:
    if kind == SESSIONS:
        return SessionCrowd()
    if kind in {FLOOR, FLOOR_UVLOOP}:
        return FloorCrowd()
    return ThreadCrowd(PEERS[kind], limit_s)


def _uvloop() -> ModuleType | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
