"""Many agents in one process of the test: they join, come back to every regroup, leave and die."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import os
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from quorate.coordinator.agent.client import Client
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.settings import PROTOCOL_VERSION, RendezvousSettings
from quorate.core.state import Place, WorldName
from quorate.credentials import Token
from quorate.errors import RendezvousError
from quorate.identity import Endpoint
from quorate.tls import TlsContexts
from quorate.wire.messages import (
    ROLE_AGENT,
    ROLE_STORE,
    AddNumber,
    Answer,
    Hello,
    Join,
    Joined,
    Leave,
    Number,
)

JOIN_TIMEOUT_S = 120.0
STEP_S = 0.02
ASK_S = 60.0


class Guards(NamedTuple):
    """What the coordinator asks for and shows, as its agents need it."""

    token: Token | None = None
    tls: TlsContexts | None = None


class _Client(Client):
    """A client whose owner hears of it when something was received."""

    heard: Callable[[], None]

    def received(self, connection: object, data: bytes) -> None:
        super().received(connection, data)  # type: ignore[arg-type]
        self.heard()


class Agent:
    """One session, and all the places that it was given."""

    def __init__(
        self,
        number: int,
        endpoints: Sequence[Endpoint],
        settings: RendezvousSettings,
        loop: asyncio.AbstractEventLoop,
        guards: Guards,
        heard: Callable[[Agent], None],
    ) -> None:
        session = secrets.token_hex(8)
        self.node = NodeDesc(f"node{number}", os.getpid(), number, session)
        self.places: list[Place] = []
        self.placed_s = 0.0
        self.errors: list[RendezvousError] = []
        self.told: set[str] = set()
        self.joining: concurrent.futures.Future[Answer] | None = None
        hello = Hello(
            PROTOCOL_VERSION,
            ROLE_AGENT,
            settings.run_id,
            session,
            self.node,
            NodeProfile(),
            settings.agreed,
        )
        interval_s = settings.keep_alive_interval.total_seconds()
        self.client = _Client(
            endpoints, lambda *_: hello, interval_s, loop=loop, token=guards.token, tls=guards.tls
        )
        self.client.heard = lambda: heard(self)
        self.client.start()
        self.join()

    @property
    def world(self) -> WorldName | None:
        return self.places[-1].world if self.places else None

    def join(self) -> None:
        after = self.world
        self.joining = self.client.submit(lambda id: Join(id, after, JOIN_TIMEOUT_S, NodeProfile()))

    def step(self) -> None:
        """Note an answer, and join again if the world should change."""
        told = self.client.attachment
        if told.explanation is not None:
            self.told.add(told.explanation.reason)
        if self.joining is None:
            if told.waiting > 0 or told.error is not None:
                self.join()
        elif self.joining.done():
            try:
                answer = self.joining.result()
            except RendezvousError as error:
                self.errors.append(error)
                return
            assert isinstance(answer, Joined)
            self.places.append(answer.place)
            self.placed_s = time.monotonic()
            self.joining = None


class Load:
    """The agents of one run, each of which does what it must as soon as it hears something.

    What they do not hear of, such as the end of a session, is looked for now and then.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        settings: RendezvousSettings,
        loop: asyncio.AbstractEventLoop,
        guards: Guards | None = None,
    ) -> None:
        self._endpoints = endpoints
        self._settings = settings
        self._loop = loop
        self._guards = guards or Guards()
        self._count = 0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self.living: list[Agent] = []
        self.gone: list[Agent] = []
        self._thread = threading.Thread(target=self._run, name="load")
        self._thread.start()

    def add(self, number: int) -> None:
        for _ in range(number):
            agent = Agent(
                self._count, self._endpoints, self._settings, self._loop, self._guards, self._heard
            )
            self._count += 1
            with self._lock:
                self.living.append(agent)

    def leave(self) -> None:
        """Let the agent that is longest there leave."""
        agent = self._take()
        if agent.joining is not None:
            agent.joining.cancel()
        # It says so for as long as it takes, and ends then.
        left = agent.client.submit(lambda id: Leave(id, "enough"))
        left.add_done_callback(lambda _: agent.client.close())

    def die(self) -> str:
        """Let the agent that is longest there end without a word."""
        agent = self._take()
        agent.client.close()
        return str(agent.node)

    def are_together(self) -> bool:
        """Whether all living agents are the members of one world that should not change."""
        with self._lock:
            worlds = {agent.world for agent in self.living}
            return (
                len(worlds) == 1
                and None not in worlds
                and all(
                    agent.joining is None and not agent.client.attachment.waiting
                    for agent in self.living
                )
                and self.living[0].places[-1].size == len(self.living)
            )

    def placed_s(self) -> float:
        """When the last of the living was given its place, on the monotonic clock."""
        with self._lock:
            return max(agent.placed_s for agent in self.living)

    def errors(self) -> list[RendezvousError]:
        return [error for agent in self.living + self.gone for error in agent.errors]

    def check_rules(self) -> int:
        """R1, R2: every name is one world, its ranks are distinct; return how many worlds."""
        worlds: dict[WorldName, list[Place]] = defaultdict(list)
        for agent in self.living + self.gone:
            rounds = [place.round for place in agent.places]
            assert rounds == sorted(set(rounds)), f"R2: {agent.node} was in rounds {rounds}"
            for place in agent.places:
                worlds[place.world].append(place)
        assert len({name.epoch for name in worlds}) == 1, "R2: the run has started anew"
        for name, places in worlds.items():
            assert len({place.digest for place in places}) == 1, f"R1: {name} is two worlds"
            (size,) = {place.size for place in places}
            ranks = [place.rank for place in places]
            assert len(set(ranks)) == len(ranks), f"R2: {name} gave a rank twice"
            assert set(ranks) <= set(range(size)), f"R2: {name} has {size} ranks: {ranks}"
        return len(worlds)

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        for agent in self.living + self.gone:
            agent.client.close()

    def _take(self) -> Agent:
        with self._lock:
            agent = self.living.pop(0)
            self.gone.append(agent)
        return agent

    def _heard(self, agent: Agent) -> None:
        with self._lock:
            if agent in self.living:
                agent.step()

    def _run(self) -> None:
        while not self._ended.wait(STEP_S):
            with self._lock:
                for agent in self.living:
                    agent.step()


class Stall(NamedTuple):
    """The longest time between two changes of a store, and when it began."""

    seconds: float
    at_s: float


class Counter:
    """A worker that counts in the store of a world: what it was answered is never lost (R14)."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        run_id: str,
        world: WorldName,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        session = secrets.token_hex(8)
        hello = Hello(PROTOCOL_VERSION, ROLE_STORE, run_id, session)
        self._world = world
        self._client = Client(endpoints, lambda *_: hello, 2.0, loop=loop)
        self._client.start()
        self._ended = threading.Event()
        self.answers: list[int] = []
        self.times_s = [time.monotonic()]
        self._thread = threading.Thread(target=self._run, name="counter")
        self._thread.start()

    def longest_stall(self, since_s: float) -> Stall:
        """Return the longest time without an answer that ended since then."""
        times_s = [*self.times_s, time.monotonic()]
        pairs = itertools.pairwise(times_s)
        return max(Stall(after - before, before) for before, after in pairs if after >= since_s)

    def counted_since(self, at_s: float) -> bool:
        return self.times_s[-1] > at_s

    def close(self) -> None:
        """End it; every number was answered once, in order."""
        self._ended.set()
        self._thread.join()
        self._client.close()
        assert self.answers == list(range(1, len(self.answers) + 1)), self.answers

    def _run(self) -> None:
        space = (self._world.epoch, self._world.round)
        while not self._ended.wait(0.1):
            answer = self._client.call(lambda id: AddNumber(id, space, "count", 1), ASK_S)
            assert isinstance(answer, Number)
            self.answers.append(answer.value)
            self.times_s.append(time.monotonic())


@contextmanager
def load_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop in a thread of its own, for all sessions of a test."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="load-loop")
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
