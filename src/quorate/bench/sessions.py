"""Agents of a coordinator: thousands of sessions in one loop, each the agents' real client."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import secrets
import time

from quorate.bench.crowd import DIALING_MAX, Countdown
from quorate.bench.tasks import (
    Begin,
    Moments,
    Places,
    Reattach,
    Regroup,
    Report,
    Task,
    Traffic,
    Work,
)
from quorate.bench.usage import traffic
from quorate.coordinator.agent.client import Client
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.settings import PROTOCOL_VERSION, RendezvousSettings
from quorate.core.state import Place
from quorate.credentials import Token, token_from
from quorate.errors import RendezvousSettingsError, RendezvousTimeoutError
from quorate.identity import Endpoint, parse_rendezvous_endpoint
from quorate.tls import TlsContexts, TlsFiles, client_contexts
from quorate.wire.messages import (
    ROLE_AGENT,
    AddNumber,
    Answer,
    Close,
    GetValue,
    Hello,
    Join,
    Joined,
    Leave,
    Request,
    SetValue,
    WaitKeys,
)

__all__ = ["SessionCrowd"]

# Of the size of an address and a port, which is what workers exchange most.
STORE_VALUE = b"x" * 64

CLOSE_TIMEOUT_S = 30.0


class _Agent(Client):
    """A client that notes when it is attached, told and answered."""

    def __init__(
        self,
        number: int,
        endpoints: list[Endpoint],
        settings: RendezvousSettings,
        counted: Countdown,
        dialing: asyncio.Semaphore,
        token: Token | None,
        tls: TlsContexts | None,
    ) -> None:
        session = secrets.token_hex(8)
        hello = Hello(
            PROTOCOL_VERSION,
            ROLE_AGENT,
            settings.run_id,
            session,
            NodeDesc(f"node{number}", os.getpid(), number, session),
            NodeProfile(),
            settings.agreed,
        )
        interval_s = settings.keep_alive_interval.total_seconds()
        super().__init__(
            endpoints,
            lambda *_: hello,
            interval_s,
            loop=asyncio.get_running_loop(),
            dialing=dialing,
            token=token,
            tls=tls,
        )
        self.number = number
        self.place: Place | None = None
        self.joined_s: float | None = None
        self.told_s: float | None = None
        self.attached_s: list[float] = []
        self.durations_s: list[float] = []
        self.regroups_for_s: float | None = None
        self.transport: asyncio.Transport | None = None
        self._counted = counted
        self._started = False

    def connect(self) -> None:
        """Begin to connect, once."""
        if not self._started:
            self._started = True
            self.start()

    def join(self, timeout_s: float) -> None:
        """Ask for a place in the next world."""
        after = self.place.world if self.place is not None else None
        self.connect()
        future = self.submit(lambda id: Join(id, after, timeout_s, NodeProfile()))
        future.add_done_callback(self._joined)

    def regroup(self, timeout_s: float) -> None:
        """Join again as soon as this agent is told of a change, or at once if it was."""
        self.joined_s = None
        self.regroups_for_s = timeout_s
        if self.told_s is not None:
            self.join(timeout_s)

    def work(self, task: Work) -> None:
        """Use the store of the round, one operation after another."""
        self.durations_s = []
        self._step(task)

    def made(self, connection: object) -> None:
        """See base class."""
        self.transport = getattr(connection, "transport", None)
        super().made(connection)  # type: ignore[arg-type]

    def received(self, connection: object, data: bytes) -> None:
        """See base class."""
        was_attached = self.attachment.attached
        super().received(connection, data)  # type: ignore[arg-type]
        if self.attachment.error is not None:
            self._counted.fail(self.attachment.error)
        if self.attachment.attached and not was_attached:
            self.attached_s.append(time.monotonic())
            self._counted.note("attached")
        if self.attachment.waiting and self.told_s is None:
            self.told_s = time.monotonic()
            if self.regroups_for_s is not None:
                self.join(self.regroups_for_s)

    def _joined(self, future: concurrent.futures.Future[Answer]) -> None:
        if future.cancelled():
            return
        error = future.exception()
        if isinstance(error, Exception):
            # Not to be in time is a result, and not a failure.
            if not isinstance(error, RendezvousTimeoutError):
                self._counted.fail(error)
            return
        answer = future.result()
        assert isinstance(answer, Joined)
        self.place, self.joined_s = answer.place, time.monotonic()
        self._counted.note("joined")

    def _step(self, task: Work) -> None:
        began_s = time.monotonic()
        future = self.submit(lambda id: self._operation(id, task))

        def done(future: concurrent.futures.Future[Answer]) -> None:
            error = future.exception()
            if isinstance(error, Exception):
                self._counted.fail(error)
                return
            self.durations_s.append(time.monotonic() - began_s)
            if len(self.durations_s) < task.count:
                self._step(task)
            else:
                self._counted.note("worked")

        future.add_done_callback(done)

    def _operation(self, id: int, task: Work) -> Request:
        assert self.place is not None
        space = self.place.world
        key = f"{self.number}/{len(self.durations_s)}"
        if task.operation == "set":
            return SetValue(id, space, key, STORE_VALUE)
        if task.operation == "get":
            return GetValue(id, space, key, task.timeout_s)
        if task.operation == "wait":
            return WaitKeys(id, space, (key,), task.timeout_s)
        return AddNumber(id, space, "count", 1)


class SessionCrowd:
    """Agents of a coordinator; see `Crowd`."""

    def __init__(self) -> None:
        self._agents: list[_Agent] = []
        self._counted = Countdown()

    async def begin(self, task: Begin) -> None:
        """See `Crowd`."""
        settings = RendezvousSettings(task.run_id, task.min_nodes, task.nodes)
        dialing = asyncio.Semaphore(DIALING_MAX)
        token = token_from()
        tls = client_contexts(TlsFiles.from_environment(os.environ))
        endpoints = [parse_rendezvous_endpoint(endpoint, 0) for endpoint in task.endpoints]
        self._agents = [
            _Agent(
                number, _rotated(endpoints, number), settings, self._counted, dialing, token, tls
            )
            for number in range(task.first, task.first + task.count)
        ]

    async def connect(self, timeout_s: float) -> Moments:
        """See `Crowd`."""
        began_s = time.monotonic()
        self._counted.start("attached", len(self._agents))
        for agent in self._agents:
            agent.connect()
        await self._counted.wait(timeout_s)
        return Moments(began_s, [agent.attached_s[0] for agent in self._agents if agent.attached_s])

    async def join(self, timeout_s: float) -> Places:
        """See `Crowd`."""
        began_s = time.monotonic()
        self._counted.start("joined", len(self._agents))
        for agent in self._agents:
            agent.join(timeout_s)
        await self._counted.wait(timeout_s)
        placed = [agent for agent in self._agents if agent.place is not None]
        places = [agent.place for agent in placed if agent.place is not None]
        return Places(
            began_s,
            [agent.joined_s for agent in placed if agent.joined_s is not None],
            [place.rank for place in places],
            sorted({f"{place.world}, {place.size} nodes, {place.digest}" for place in places}),
        )

    async def other(self, task: Task) -> Report:
        """See `Crowd`: regroup, reattach, and work with the store."""
        if isinstance(task, Regroup):
            return await self._regroup(task)
        if isinstance(task, Reattach):
            return await self._reattach(task)
        if isinstance(task, Work):
            return await self._work(task)
        raise RendezvousSettingsError(f"Agents of a coordinator cannot {type(task).__name__}.")

    def traffic(self) -> Traffic:
        """See `Crowd`."""
        transports = [agent.transport for agent in self._agents if agent.transport is not None]
        return traffic([t.get_extra_info("socket").fileno() for t in transports])

    async def close(self) -> None:
        """See `Crowd`."""
        reason = "the measurement is over"
        # Whoever leaves is not lost some seconds later, when the next round is being measured.
        asked = [agent.submit(lambda id: Close(id, reason)) for agent in self._agents[:1]]
        asked += [agent.submit(lambda id: Leave(id, reason)) for agent in self._agents]
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await asyncio.gather(*map(asyncio.wrap_future, asked))
        for agent in self._agents:
            agent.close()
        self._agents = []

    async def _regroup(self, task: Regroup) -> Moments:
        began_s = time.monotonic()
        self._counted.start("joined", len(self._agents))
        for agent in self._agents:
            agent.regroup(task.timeout_s)
        await self._counted.wait(task.timeout_s)
        done = [agent for agent in self._agents if agent.joined_s is not None]
        return Moments(
            began_s,
            [agent.joined_s for agent in done if agent.joined_s is not None],
            [agent.told_s for agent in done if agent.told_s is not None],
        )

    async def _reattach(self, task: Reattach) -> Moments:
        began_s = time.monotonic()
        self._counted.start("attached", sum(len(agent.attached_s) < 2 for agent in self._agents))
        await self._counted.wait(task.timeout_s)
        return Moments(
            began_s,
            [agent.attached_s[1] for agent in self._agents if len(agent.attached_s) > 1],
            [agent.told_s for agent in self._agents if agent.told_s is not None],
        )

    async def _work(self, task: Work) -> Moments:
        began_s = time.monotonic()
        self._counted.start("worked", len(self._agents))
        for agent in self._agents:
            agent.work(task)
        await self._counted.wait(task.timeout_s)
        durations_s = [duration for agent in self._agents for duration in agent.durations_s]
        return Moments(began_s, [time.monotonic()], [], durations_s)


def _rotated(endpoints: list[Endpoint], number: int) -> list[Endpoint]:
    """Let each agent begin with another one of several coordinators."""
    first = number % len(endpoints)
    return endpoints[first:] + endpoints[:first]
