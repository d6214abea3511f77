"""A coordinator with its page, and agents that are no more than words in its own loop.

Thousands of them cost nothing: they have no sockets, beat never and are not missed for it. What
they say goes through the engine as everybody's words do.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, TypeVar

from quorate.clock import Clock, SystemClock
from quorate.coordinator.runs.run import Run
from quorate.coordinator.server import CoordinatorServer
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.settings import PROTOCOL_VERSION, RendezvousSettings, RendezvousTimeout
from quorate.core.state import WorldName
from quorate.identity import Endpoint
from quorate.page.access import Access
from quorate.page.app import Page
from quorate.wire.messages import ROLE_AGENT, Hello, Join, Leave, Request
from tests.served import LOOPBACK, ThreadedCoordinator

__all__ = ["RUN", "FastClock", "Stage"]

RUN = "job17"
JOIN_TIMEOUT_S = 1000.0
PATIENCE_S = 15.0

# These agents never beat.
SILENT_S = 1000.0

Result = TypeVar("Result")


class FastClock(SystemClock):
    """A clock for people's eyes whose hours are seconds; its moments are the same in every run."""

    def __init__(self, speed: float, begin: datetime = datetime(2026, 3, 2, 9, tzinfo=UTC)) -> None:
        self._speed = speed
        self._begin_s = begin.timestamp()
        self._from_s = self.monotonic()

    def now(self) -> datetime:
        passed_s = (self.monotonic() - self._from_s) * self._speed
        return datetime.fromtimestamp(self._begin_s + passed_s, UTC)


class Stage:
    """A coordinator in a thread, its page, and its agents.

    Attributes:
        url: Where the page is, without a slash at the end.
        names: The agents, by name.
    """

    def __init__(
        self,
        access: Access | None = None,
        min_nodes: int = 1,
        max_nodes: int = 8,
        clock: Clock | None = None,
        last_call_s: float = 0.2,
    ) -> None:
        listener = socket.create_server((LOOPBACK, 0), backlog=100)
        self.endpoint = Endpoint(LOOPBACK, listener.getsockname()[1])
        self.url = f"http://{self.endpoint}"
        self.settings = RendezvousSettings(
            run_id=RUN,
            min_nodes=min_nodes,
            max_nodes=max_nodes,
            timeout=RendezvousTimeout(last_call=timedelta(seconds=last_call_s)),
            keep_alive_interval=timedelta(seconds=SILENT_S),
            reconnect_grace=timedelta(seconds=0.1),
        )
        self.numbers = count(1_000_000)
        self.connections: dict[str, int] = {}
        self.nodes: dict[str, NodeDesc] = {}
        self._coordinator = ThreadedCoordinator(
            companion=lambda server: Page(server, access or Access(), clock=clock).serve(
                [listener]
            ),
            clock=clock,
        )
        # Its one thread is there from the beginning: no test is blamed for it.
        executor = ThreadPoolExecutor(1, "stage")
        executor.submit(int).result()
        self._do(lambda: asyncio.get_running_loop().set_default_executor(executor))

    @property
    def server(self) -> CoordinatorServer:
        return self._coordinator.server

    def run(self, run_id: str = RUN) -> Run:
        return self.server.runs[run_id]

    def attach(
        self,
        names: Iterable[str],
        labels: Callable[[str], dict[str, str]] = lambda name: {},
        run_id: str = RUN,
    ) -> None:
        """Let agents come."""
        self._do(lambda: [self._attach(name, labels(name), run_id) for name in names])

    def join(self, names: Iterable[str] | None = None) -> None:
        """Let agents ask for the next round; all of them if none are named."""
        named = list(self.connections) if names is None else list(names)
        self._do(lambda: [self._join(name) for name in named])

    def end(self, names: Iterable[str]) -> None:
        """Let agents' processes end: they are lost after the grace."""
        self._do(lambda: [self._close(name, True) for name in names])

    def cut(self, names: Iterable[str]) -> None:
        """Cut agents' connections, which is no loss yet."""
        self._do(lambda: [self._close(name, False) for name in names])

    def leave(self, names: Iterable[str]) -> None:
        """Let agents leave in order."""
        self._do(lambda: [self._say(name, Leave(2, "enough")) for name in names])

    def forget(self, run_id: str = RUN) -> None:
        """Let the coordinator forget a run and its agents, as one that ended long ago."""
        nodes = self.run(run_id).sessions
        self.connections = {n: c for n, c in self.connections.items() if self.nodes[n] not in nodes}
        self._do(lambda: self._engine.runs.pop(run_id))

    def close(self) -> None:
        """End the coordinator and its page."""
        self._coordinator.stop()

    def _attach(self, name: str, labels: dict[str, str], run_id: str) -> None:
        number = self.connections[name] = next(self.numbers)
        session = f"{name}-{number}"
        node = self.nodes[name] = NodeDesc(name, 4711, 0, session)
        profile = NodeProfile(labels=labels)
        self._engine.opened(number)
        hello = Hello(
            PROTOCOL_VERSION, ROLE_AGENT, run_id, session, node, profile, self.settings.agreed
        )
        self._say(name, hello)

    def _join(self, name: str) -> None:
        run = self._run_of(name)
        world = run.state.world
        session = run.sessions.get(self.nodes[name])
        known = world is not None and self.nodes[name] in world.members
        after = WorldName(*world.name) if known and world is not None else None
        profile = session.profile if session is not None else NodeProfile()
        self._say(name, Join(next(self.numbers), after, JOIN_TIMEOUT_S, profile))

    def _run_of(self, name: str) -> Run:
        node = self.nodes[name]
        return next(run for run in self.server.runs.values() if node in run.sessions)

    def _close(self, name: str, finished: bool) -> None:
        self._engine.closed(self.connections.pop(name), finished)

    def _say(self, name: str, message: Request) -> None:
        self._engine.receive(self.connections[name], message)

    @property
    def _engine(self) -> Any:
        # What connections do in the loop of the coordinator, these agents do there too.
        return self.server._engine

    def _do(self, action: Callable[[], Result]) -> Result:
        done = threading.Event()
        results: list[Result] = []

        def act() -> None:
            results.append(action())
            self.server._plan_flush()
            asyncio.get_running_loop().call_soon(done.set)

        self._coordinator.do(act)
        assert done.wait(PATIENCE_S)
        return results[0]
