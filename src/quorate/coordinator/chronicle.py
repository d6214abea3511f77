"""Tells the log and the sinks of events what has happened in the runs of a coordinator."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable

from quorate import events
from quorate.coordinator.runs.history import Event
from quorate.logs import fields

__all__ = ["tell"]

# What every node does in every round would fill the log of a large run.
_QUIET = {"joined", "returned", "waiting", "spare", "promoted", "left"}


def tell(logger: logging.Logger, happened: Iterable[tuple[str, Event]]) -> None:
    """Log what has happened, and hand it to the sinks.

    Args:
        logger: The coordinator's.
        happened: The events, each with its run.
    """
    for run_id, event in happened:
        level = logging.DEBUG if event.kind in _QUIET else logging.INFO
        extra = fields(run_id, event.round, event.node, event.rank)
        logger.log(level, "run %s: %s", run_id, event.text, extra=extra)
        if events.has_sinks():
            events.publish(_structured(run_id, event))


def _structured(run_id: str, event: Event) -> events.RendezvousEvent:
    failed = event.kind in {"lost", "evicted"}
    done = event.kind in {"completed", "closed"}
    state = events.EventState.FAILED if failed else events.EventState.RUNNING
    return events.RendezvousEvent(
        name="coordinator",
        run_id=run_id,
        message=event.text,
        state=events.EventState.SUCCEEDED if done else state,
        hostname=socket.gethostname(),
        pid=os.getpid(),
        time=event.at,
        rank=event.rank,
        round=event.round,
        node=event.node,
        kind=event.kind,
    )
