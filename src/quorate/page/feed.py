"""What viewers of the page are sent without asking: server-sent events, the same for all.

One `Feed` looks at the coordinator's runs, at most twice a second and only at those that have
changed, and hands what is new to every viewer of that run. The format is that of the HTML
standard, "Server-sent events".
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from typing import Any

import msgspec

from quorate.clock import Clock
from quorate.coordinator.engine.glimpse import glimpse
from quorate.coordinator.engine.parts import PART_NODES, Parts
from quorate.coordinator.runs.run import Run
from quorate.coordinator.server import CoordinatorServer
from quorate.errors import RendezvousLimitError
from quorate.page.timeline import Timeline

__all__ = ["LOOK_S", "TIMELINES_MAX", "VIEWERS_MAX", "Feed", "Viewer"]

# How often the runs are looked at.
LOOK_S = 0.5

# After each part of what takes long, so that agents are served meanwhile.
PAUSE_S = 0.001

VIEWERS_MAX = 64

# The runs that changed last are shown; a timeline of 4,000 nodes takes some megabytes.
TIMELINES_MAX = 200

# What is kept for a viewer that does not read; one that is further behind fetches everything.
UNREAD_BYTES_MAX = 1024 * 1024

_BRIEF = ("run", "phase", "round", "held", "lost", "waiting_for")


class Viewer:
    """Somebody who looks at the page.

    Args:
        run_id: The run whose changes it is sent; empty for none.
    """

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self._unread: deque[bytes] = deque()
        self._unread_bytes = 0
        self._news = asyncio.Event()

    def send(self, event: bytes) -> None:
        """Add an event; a viewer that has too many of them is told that it is behind."""
        if self._unread_bytes + len(event) > UNREAD_BYTES_MAX:
            self._unread.clear()
            self._unread_bytes = 0
            event = encoded("behind", {})
        self._unread.append(event)
        self._unread_bytes += len(event)
        self._news.set()

    async def take(self, timeout_s: float) -> bytes:
        """Return what is to be sent now; a comment if there was nothing for some seconds."""
        try:
            await asyncio.wait_for(self._news.wait(), timeout_s)
        except TimeoutError:
            return b":\n\n"
        self._news.clear()
        events = b"".join(self._unread)
        self._unread.clear()
        self._unread_bytes = 0
        return events


class Feed:
    """Follows the runs of a coordinator for all viewers.

    Args:
        server: The coordinator.
        clock: The time that people are told.
    """

    def __init__(self, server: CoordinatorServer, clock: Clock) -> None:
        self._server = server
        self._clock = clock
        self._timelines: dict[str, Timeline] = {}
        self._revisions: dict[str, int] = {}
        self._viewers: set[Viewer] = set()
        self._hindrance = ""
        self._looking = asyncio.Lock()

    def attach(self, run_id: str) -> Viewer:
        """Return a new viewer, which knows the runs from the first event on; detach it later.

        Raises:
            RendezvousLimitError: There are as many as there may be.
        """
        if len(self._viewers) >= VIEWERS_MAX:
            raise RendezvousLimitError(
                f"{VIEWERS_MAX} viewers already look at this coordinator: try again later."
            )
        viewer = Viewer(run_id)
        self._viewers.add(viewer)
        viewer.send(self._greeting())
        viewer.send(encoded("runs", [_brief(timeline) for timeline in self._timelines.values()]))
        timeline = self._timelines.get(run_id)
        if timeline is not None:
            version = {"run": run_id, "timeline": timeline.name, "version": timeline.version}
            viewer.send(encoded("version", version))
        return viewer

    def detach(self, viewer: Viewer) -> None:
        """Send nothing more to a viewer."""
        self._viewers.discard(viewer)

    def version(self, run_id: str) -> tuple[str, int]:
        """Return which timeline of a run there is, and its version; `("", 0)` if there is none."""
        timeline = self._timelines.get(run_id)
        return (timeline.name, timeline.version) if timeline is not None else ("", 0)

    async def snapshot(self, run_id: str) -> bytes | None:
        """Return the timeline of a run as JSON; `None` if there is no such run here.

        As for `look`, whoever begins must go on to the end.
        """
        async with self._looking:
            await self._look()
            timeline = self._timelines.get(run_id)
            return await _made(timeline.snapshot(self._now_s())) if timeline is not None else None

    async def follow(self) -> None:
        """Look at the runs until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Take note of what has changed since the last look, and tell the viewers.

        Whoever begins must go on to the end: see `Timeline`.
        """
        async with self._looking:
            await self._look()

    async def _look(self) -> None:
        for run_id in self._timelines.keys() - self._server.runs.keys():
            self._drop(run_id)
        for run_id in self._revisions.keys() - self._server.runs.keys():
            del self._revisions[run_id]
        for run_id, run in list(self._server.runs.items()):
            if self._revisions.get(run_id) != run.revision:
                self._revisions[run_id] = run.revision
                await self._observe(self._timelines.get(run_id) or _new_timeline(run_id), run)
        self._drop_the_oldest()
        hindrance = self._server.hindrance()
        if self._hindrance != hindrance:
            self._hindrance = hindrance
            self._broadcast(self._greeting())

    async def _observe(self, timeline: Timeline, run: Run) -> None:
        version = timeline.version
        for _ in timeline.observe(glimpse(run), self._now_s()):
            await asyncio.sleep(PAUSE_S)
        # Viewers who come meanwhile are not shown a new one that is half done. The last in the
        # dictionary is the one that changed last.
        self._timelines.pop(run.run_id, None)
        self._timelines[run.run_id] = timeline
        if timeline.version != version:
            await self._tell(timeline)

    async def _tell(self, timeline: Timeline) -> None:
        self._broadcast(encoded("run", _brief(timeline)))
        run_id = timeline.head["run"]
        if any(viewer.run_id == run_id for viewer in self._viewers):
            event = framed("diff", await _made(timeline.diff(self._now_s())))
            # Others may have come or gone meanwhile; who has this version already ignores it.
            for viewer in self._viewers:
                if viewer.run_id == run_id:
                    viewer.send(event)

    def _drop_the_oldest(self) -> None:
        """Keep no more timelines than may be kept; those that somebody looks at are."""
        surplus = max(len(self._timelines) - TIMELINES_MAX, 0)
        watched = {viewer.run_id for viewer in self._viewers}
        unwatched = [run_id for run_id in self._timelines if run_id not in watched]
        for run_id in unwatched[:surplus]:
            self._drop(run_id)

    def _drop(self, run_id: str) -> None:
        del self._timelines[run_id]
        self._broadcast(encoded("gone", {"run": run_id}))

    def _broadcast(self, event: bytes) -> None:
        for viewer in self._viewers:
            viewer.send(event)

    def _greeting(self) -> bytes:
        hindrance = self._server.hindrance()
        content = {"name": self._server.name, "hindrance": hindrance, "now": self._now_s()}
        return encoded("coordinator", content)

    def _now_s(self) -> float:
        return round(self._clock.now().timestamp(), 3)


def _new_timeline(run_id: str) -> Timeline:
    return Timeline(run_id, secrets.token_hex(8))


async def _made(parts: Parts) -> bytes:
    """Return JSON that is made in parts; everybody else is served in between."""
    made = bytearray()
    for weight, part in parts:
        made += part
        if weight >= PART_NODES:
            await asyncio.sleep(PAUSE_S)
    return bytes(made)


def encoded(event: str, content: object) -> bytes:
    """Return an event with some content."""
    return framed(event, msgspec.json.encode(content))


def framed(event: str, json: bytes) -> bytes:
    """Return an event with content that is JSON already, which has no line breaks."""
    return b"event: " + event.encode() + b"\ndata: " + json + b"\n\n"


def _brief(timeline: Timeline) -> dict[str, Any]:
    head = timeline.head
    return {key: head[key] for key in _BRIEF} | {"nodes": sum(head["counts"].values())}
