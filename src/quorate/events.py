"""What happened in a rendezvous, as structured records, and where they go.

Every event is logged. Further sinks, such as `JsonLinesSink`, are added by the program.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable
from datetime import datetime
from enum import Enum
from pathlib import Path

import msgspec

from quorate.clock import SystemClock
from quorate.core.node import NodeDesc
from quorate.line_writer import LineWriter
from quorate.logs import fields

__all__ = [
    "EventState",
    "JsonLinesSink",
    "RendezvousEvent",
    "Sink",
    "add_sink",
    "has_sinks",
    "publish",
    "record",
    "remove_sink",
]

logger = logging.getLogger(__name__)


class EventState(Enum):
    """How the node was doing; the names are PyTorch's."""

    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


class RendezvousEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that happened.

    Args:
        name: What was being done, as in `DynamicRendezvousHandler.next_rendezvous`.
        run_id: The id of the run.
        message: What happened, for a person.
        state: How the node was doing.
        hostname: The address of the node.
        pid: The process id of its agent.
        local_id: Its number within that process.
        rank: Its rank, if it has one.
        round: The round, if it is known.
        node: The node, as logs name it.
        time: The moment, in UTC.
        kind: What kind of thing a coordinator tells, as in its history.
    """

    name: str
    run_id: str
    message: str
    state: EventState
    hostname: str
    pid: int
    time: datetime
    local_id: int | None = None
    rank: int | None = None
    round: int | None = None
    node: str = ""
    kind: str = ""


Sink = Callable[[RendezvousEvent], None]

LEVELS = {
    EventState.RUNNING: logging.DEBUG,
    EventState.SUCCEEDED: logging.INFO,
    EventState.FAILED: logging.WARNING,
}


def _log(event: RendezvousEvent) -> None:
    extra = fields(event.run_id, event.round, event.node, event.rank)
    words = (event.run_id, event.name, event.message)
    logger.log(LEVELS[event.state], "[%s] %s: %s", *words, extra=extra)


_sinks: list[Sink] = []
_sinks_lock = threading.Lock()


def add_sink(sink: Sink) -> None:
    """Send every further event to a sink too. It is called on the thread where things happen."""
    with _sinks_lock:
        _sinks.append(sink)


def remove_sink(sink: Sink) -> None:
    """Send no more events to a sink; one that was never added is ignored."""
    with _sinks_lock, contextlib.suppress(ValueError):
        _sinks.remove(sink)


def has_sinks() -> bool:
    """Return whether anybody wants to know of events."""
    return bool(_sinks)


def record(
    name: str,
    run_id: str,
    message: str,
    state: EventState = EventState.RUNNING,
    node: NodeDesc | None = None,
    rank: int | None = None,
    round_number: int | None = None,
    time: datetime | None = None,
) -> None:
    """Tell the log and all sinks what happened; it never raises, whatever a sink does.

    Args:
        name: What was being done.
        run_id: The id of the run.
        message: What happened, for a person.
        state: How the node was doing.
        node: The node; this machine and process if it has no name yet.
        rank: Its rank, if it has one.
        round_number: The round, if it is known.
        time: The moment; now if `None`.
    """
    event = RendezvousEvent(
        name=name,
        run_id=run_id,
        message=message,
        state=state,
        hostname=node.addr if node else socket.gethostname(),
        pid=node.pid if node else os.getpid(),
        time=time or SystemClock().now(),
        local_id=node.local_id if node else None,
        rank=rank,
        round=round_number,
        node=str(node) if node else "",
    )
    _log(event)
    publish(event)


def publish(event: RendezvousEvent) -> None:
    """Tell all sinks of an event that is logged already; it never raises, whatever a sink does."""
    with _sinks_lock:
        sinks = tuple(_sinks)
    for sink in sinks:
        try:
            sink(event)
        except Exception:
            logger.exception("The event sink %r has failed; the event is lost to it.", sink)


class JsonLinesSink:
    """Writes each event as one line of JSON, a moment later: whoever tells of it does not wait.

    See `LineWriter` for what happens while nobody reads, and at the end of the process.

    Args:
        path: The file to append to, or `-` for the standard output.

    Raises:
        OSError: The file cannot be written to.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._encoder = msgspec.json.Encoder()
        self._writer = LineWriter(None if os.fspath(path) == "-" else Path(path))

    def __call__(self, event: RendezvousEvent) -> None:
        """Have an event written."""
        self._writer.write(self._encoder.encode(event) + b"\n")

    def close(self) -> None:
        """Write what waits, and end; the end of the process does the same."""
        self._writer.close()
