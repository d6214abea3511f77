"""One coordinator and all its agents in one process, in virtual time and without sockets.

    python -m quorate.bench.simulation NODES quorate|memory

It is for sizes that no machine at hand can serve. The coordinator is the real engine with the real
journal (`memory`: without one), and every message is encoded, framed, put together and decoded as
on its way through a socket; agents are just the bytes that they send, and what they check of the
answers. CPU is that of the coordinator's side alone. What the kernel and the event loop take for
each message is not in it: `quorate bench join` and `steady` measure both together.

The figures are printed as JSON, see `quorate.bench.figures.MEASURES`.
"""

from __future__ import annotations

import gc
import json
import os
import random
import resource
import sys
import tempfile
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from quorate.backends.journal import Journal
from quorate.bench.usage import resident_bytes, thread_cpu_s
from quorate.coordinator.engine import Engine
from quorate.coordinator.entrance.door import Door, Keys
from quorate.coordinator.process import collect_seldom
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.settings import PROTOCOL_VERSION, RendezvousSettings
from quorate.core.state import WorldName
from quorate.testing.clock import ManualClock
from quorate.wire.frames import FRAME_BYTES_MAX, FrameReader, frame
from quorate.wire.messages import (
    ROLE_AGENT,
    ROLE_OPERATOR,
    Changed,
    GetWorld,
    Hello,
    Join,
    Joined,
    Ping,
    Pong,
    Reply,
    Report,
    Request,
    Status,
    Waiting,
    Welcome,
    WorldRecord,
    decode_reply,
    decode_word,
    encode,
)

__all__ = ["main", "simulate"]

RUN = "simulation"

TICK_S = 0.25

# About as many as one coordinator can take in; a real one is slower while its machine is busy.
ARRIVALS_PER_S = 5000

# Agents that have lost their coordinator dial again at once; it has to take them in within the
# time that a node may be silent.
RETURNS_PER_S = 10_000

# How many connections have something to read in one turn of the loop.
TURN = 256

# Agents beat at half the keep-alive interval of 5 s.
TICKS_PER_BEAT = 10

STEADY_S = 10.0

# The grace is 2 s.
LOSS_TICKS_MAX = 12

COMPRESSION_LEVEL = 1

Kind = TypeVar("Kind", bound=Reply)


class _Ledger(Protocol):
    """The part of `quorate.coordinator.ledgers.base.Ledger` that is used here."""

    def load(self) -> dict[str, bytes]: ...

    def commit(self, changes: Mapping[str, bytes | None], durable: bool = True) -> None: ...

    def close(self) -> None: ...


class _MemoryLedger:
    """Keys and bytes that live as long as the simulation."""

    def __init__(self) -> None:
        self._records: dict[str, bytes] = {}

    def load(self) -> dict[str, bytes]:
        return dict(self._records)

    def commit(self, changes: Mapping[str, bytes | None], durable: bool = True) -> None:
        del durable
        for key, value in changes.items():
            if value is None:
                self._records.pop(key, None)
            else:
                self._records[key] = value

    def close(self) -> None:
        pass


@dataclass
class _Spent:
    """What one step has cost the coordinator.

    Args:
        cpu_s: CPU time without the ledger's.
        ledger_cpu_s: CPU time of the ledger, which has a thread of its own.
        longest_s: The longest turn of the loop, in which nobody else is answered; CPU time.
        up: Messages from agents, and their bytes.
        down: Messages to agents, and their bytes.
        stored_bytes: What was written to the ledger.
    """

    cpu_s: float = 0.0
    ledger_cpu_s: float = 0.0
    longest_s: float = 0.0
    up: int = 0
    up_bytes: int = 0
    down: int = 0
    down_bytes: int = 0
    stored_bytes: int = 0

    def figures(self, step: str, nodes: int) -> dict[str, float]:
        """Return it as figures, whose names begin with that of the step."""
        return {
            f"{step}_cpu_s": self.cpu_s,
            f"{step}_longest_s": self.longest_s,
            f"{step}_up_per_node": self.up / nodes,
            f"{step}_down_per_node": self.down / nodes,
            f"{step}_up_bytes_per_node": self.up_bytes / nodes,
            f"{step}_down_bytes_per_node": self.down_bytes / nodes,
        }

    def ledger_figures(self, step: str, nodes: int) -> dict[str, float]:
        """Return what was stored as figures."""
        return {
            f"{step}_ledger_cpu_s": self.ledger_cpu_s,
            f"{step}_stored_bytes_per_node": self.stored_bytes / nodes,
        }


class _Coordinator:
    """What `quorate.coordinator.server` is to real connections; a turn is one of its loop.

    Args:
        ledger: Where runs are kept.
        clock: The virtual time.
        take: Gets every message that is let out, as a frame, and the connections it is for.
    """

    def __init__(
        self,
        ledger: _Ledger,
        clock: ManualClock,
        take: Callable[[tuple[int, ...], bytes], None],
    ) -> None:
        self.spent = _Spent()
        self._ledger = ledger
        self._take = take
        self._door = Door(Keys(), b"")
        self._readers: dict[int, FrameReader] = {}
        began_s = thread_cpu_s()
        epochs = (f"{number:08x}" for number in count(1))
        self._engine = Engine(ledger.load(), clock, lambda: next(epochs))
        self._spend(began_s)

    def opened(self, connection: int) -> None:
        """Note a new connection."""
        self._readers[connection] = FrameReader()
        self._engine.opened(connection)

    def closed(self, connection: int, finished: bool) -> None:
        """Note that a connection is gone."""
        del self._readers[connection]
        self._engine.closed(connection, finished)

    def turn(self, packets: Iterable[tuple[int, bytes]]) -> None:
        """Take what has come in on some connections, and let out what follows from it."""
        read = list(packets)
        self.spent.up_bytes += sum(len(data) for _, data in read)
        began_s = thread_cpu_s()
        for connection, data in read:
            reader = self._readers[connection]
            for body in reader.feed(data):
                request = self._door.enter(decode_word(body), body).request
                assert request is not None
                if isinstance(request, Hello):
                    reader.bytes_max = FRAME_BYTES_MAX
                self._engine.receive(connection, request)
                self.spent.up += 1
        self._spend(began_s, self._flush())

    def tick(self) -> None:
        """Let the engine's time pass."""
        began_s = thread_cpu_s()
        self._engine.tick()
        self._spend(began_s, self._flush())

    def finish_chores(self) -> None:
        """Do what takes long, a slice in each turn."""
        while self._engine.has_chores:
            began_s = thread_cpu_s()
            self._engine.carry_on()
            self._spend(began_s, self._flush())

    def take_spent(self) -> _Spent:
        """Return what was spent since the last call."""
        spent, self.spent = self.spent, _Spent()
        return spent

    def _flush(self) -> float:
        """Store and let out what there is; return the CPU time that was not the coordinator's."""
        other_s = 0.0
        while True:
            batch = self._engine.take_batch()
            other_s += self._let_out()
            self._engine.take_events()
            if batch is None:
                return other_s
            began_s = thread_cpu_s()
            self._ledger.commit(batch.changes, batch.durable)
            ledger_s = thread_cpu_s() - began_s
            self.spent.ledger_cpu_s += ledger_s
            other_s += ledger_s
            self.spent.stored_bytes += sum(
                len(key) + len(value or b"") for key, value in batch.changes.items()
            )
            self._engine.settle(batch)

    def _let_out(self) -> float:
        sends = self._engine.take_sends()
        framed = []
        for send in sends:
            assert send.message is not None
            framed.append((send.connections, frame(encode(send.message))))
        began_s = thread_cpu_s()
        for connections, data in framed:
            self.spent.down += len(connections)
            self.spent.down_bytes += len(connections) * len(data)
            self._take(connections, data)
        return thread_cpu_s() - began_s

    def _spend(self, began_s: float, other_s: float = 0.0) -> None:
        took_s = thread_cpu_s() - began_s - other_s
        self.spent.cpu_s += took_s
        self.spent.longest_s = max(self.spent.longest_s, took_s)


class _Agents:
    """All agents of the run: what they say, and what they have been told.

    Args:
        nodes: How many there are.

    Attributes:
        ranks: The rank that each was given last, -1 before.
        worlds: The worlds that were given since `forget`, with their digests.
        told: How many were told since then that their world should change.
        resumed: How many were welcomed since then as those that they were before.
        others: The answers that are not for agents, by connection.
    """

    def __init__(self, nodes: int) -> None:
        self.nodes = nodes
        self.ranks = array("i", [-1]) * nodes
        self.first_connection = 0
        self.others: dict[int, Reply] = {}
        self._seed = random.Random(nodes).getrandbits(64)
        settings = RendezvousSettings(RUN, max(nodes - 1, 1), nodes)
        self._agreed = settings.agreed
        self.forget()

    def forget(self) -> None:
        """Begin to count anew."""
        self.worlds: set[tuple[WorldName, str]] = set()
        self.joined = self.told = self.resumed = 0

    @property
    def world(self) -> WorldName:
        """The one world that all were given."""
        ((name, _),) = self.worlds
        return name

    def hello(self, number: int, holding: WorldName | None = None) -> bytes:
        """Return what an agent says first."""
        session = f"{random.Random(self._seed + number).getrandbits(64):016x}"
        addr = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        node = NodeDesc(addr, 1000 + number % 30000, 0, session)
        hello = Hello(
            PROTOCOL_VERSION,
            ROLE_AGENT,
            RUN,
            session,
            node,
            self._profile(number),
            self._agreed,
            holding,
        )
        return frame(encode(hello))

    def join(self, number: int, request_id: int, after: WorldName | None = None) -> bytes:
        """Return an agent's request for a place."""
        return frame(encode(Join(request_id, after, 600.0, self._profile(number))))

    def take(self, connections: tuple[int, ...], data: bytes) -> None:
        """Read a message; what is for many says the same to each."""
        (body,) = FrameReader(FRAME_BYTES_MAX).feed(data)
        reply = decode_reply(body)
        if isinstance(reply, Joined):
            (connection,) = connections
            self.joined += 1
            self.ranks[connection - self.first_connection] = reply.place.rank
            self.worlds.add((reply.place.world, reply.place.digest))
        elif isinstance(reply, Changed):
            # Who comes back is told also that nothing has changed.
            self.told += len(connections) if reply.waiting or reply.closed else 0
        elif isinstance(reply, Welcome):
            self.resumed += reply.resumed
        elif not isinstance(reply, (Pong, Waiting)):
            (connection,) = connections
            self.others[connection] = reply

    def _profile(self, number: int) -> NodeProfile:
        return NodeProfile(port=30000 + number % 20000, slots=8, release="0.1.0")


class _Simulation:
    """The steps, in their order; each returns its figures.

    Args:
        nodes: How many agents there are.
        open_ledger: Opens the ledger, whose content outlives a coordinator.
    """

    def __init__(self, nodes: int, open_ledger: Callable[[], _Ledger]) -> None:
        self._nodes = nodes
        self._open_ledger = open_ledger
        self._ledger = open_ledger()
        self._clock = ManualClock()
        self._agents = _Agents(nodes)
        self._ticks = 0
        self._last_world: WorldName | None = None
        # Those who came in the same tick beat in the same one.
        self._groups: list[tuple[int, range]] = []
        gc.collect()
        self._before_bytes = resident_bytes(os.getpid())
        self._coordinator = _Coordinator(self._ledger, self._clock, self._agents.take)

    def run(self) -> dict[str, float]:
        """Return the figures of all steps."""
        figures: dict[str, float] = {}
        for step in (
            self._join,
            self._steady,
            self._look,
            self._world,
            self._loss,
            self._regroup,
            self._restart,
        ):
            figures |= step()
        self._ledger.close()
        return figures

    def _join(self) -> dict[str, float]:
        agents = self._agents
        for number in range(self._nodes):
            self._coordinator.opened(number)
        self._let_come(
            range(self._nodes), lambda n: agents.hello(n) + agents.join(n, 1), ARRIVALS_PER_S
        )
        self._require_world(self._nodes)
        spent = self._coordinator.take_spent()
        gc.collect()
        held_bytes = resident_bytes(os.getpid()) - self._before_bytes
        return (
            spent.figures("join", self._nodes)
            | spent.ledger_figures("join", self._nodes)
            | {"held_bytes_per_node": held_bytes / self._nodes}
            | self._state()
        )

    def _state(self) -> dict[str, float]:
        records = self._ledger.load()
        size = sum(map(len, records.values()))
        compressed = len(zlib.compress(msgspec.msgpack.encode(records), COMPRESSION_LEVEL))
        return {
            "state_bytes_per_node": size / self._nodes,
            "state_compressed_bytes_per_node": compressed / self._nodes,
        }

    def _steady(self) -> dict[str, float]:
        for _ in range(round(STEADY_S / TICK_S)):
            self._pass_tick()
        spent = self._coordinator.take_spent()
        assert not spent.stored_bytes
        return {
            "steady_cpu_percent": 100 * spent.cpu_s / STEADY_S,
            "steady_longest_s": spent.longest_s,
            "steady_up_per_node_per_s": spent.up / self._nodes / STEADY_S,
            "steady_up_bytes_per_node_per_s": spent.up_bytes / self._nodes / STEADY_S,
            "steady_down_bytes_per_node_per_s": spent.down_bytes / self._nodes / STEADY_S,
        }

    def _look(self) -> dict[str, float]:
        connection = -1
        hello = Hello(PROTOCOL_VERSION, ROLE_OPERATOR, RUN, "operator")
        self._coordinator.opened(connection)
        self._coordinator.turn([(connection, frame(encode(hello)))])
        self._coordinator.take_spent()
        told = self._ask(connection, Status(1, RUN), Report)
        assert len(json.loads(told.text())["runs"][0]["nodes"]) == self._nodes
        spent = self._coordinator.take_spent()
        self._coordinator.closed(connection, finished=True)
        return {
            "look_cpu_s": spent.cpu_s,
            "look_longest_s": spent.longest_s,
            "look_bytes": spent.down_bytes,
        }

    def _world(self) -> dict[str, float]:
        known = parts = 0
        while not parts or known < self._nodes:
            parts += 1
            record = self._ask(0, GetWorld(1 + parts, known), WorldRecord)
            assert record.world is not None
            known += len(record.world.members)
        spent = self._coordinator.take_spent()
        return {
            "world_cpu_s": spent.cpu_s,
            "world_longest_s": spent.longest_s,
            "world_parts": parts,
            "world_bytes": spent.down_bytes,
        }

    def _loss(self) -> dict[str, float]:
        """Let the process of the last agent end, and the others be told."""
        self._coordinator.closed(self._nodes - 1, finished=True)
        self._groups = [
            (at, range(g.start, min(g.stop, self._nodes - 1))) for at, g in self._groups
        ]
        self._agents.forget()
        for _ in range(LOSS_TICKS_MAX):
            self._advance()
        if self._agents.told < self._nodes - 1:
            raise AssertionError(f"{self._agents.told} of {self._nodes - 1} were told of a loss")
        spent = self._coordinator.take_spent()
        return spent.figures("loss", self._nodes)

    def _regroup(self) -> dict[str, float]:
        agents, left = self._agents, self._nodes - 1
        after = self._last_world
        self._agents.forget()
        self._let_come(range(left), lambda n: agents.join(n, 10_000, after), ARRIVALS_PER_S)
        self._require_world(left)
        spent = self._coordinator.take_spent()
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return (
            spent.figures("regroup", self._nodes)
            | spent.ledger_figures("regroup", self._nodes)
            | {"peak_bytes_per_node": (peak_bytes - self._before_bytes) / self._nodes}
        )

    def _restart(self) -> dict[str, float]:
        """Start the coordinator again from what is stored; all agents come back."""
        agents, left = self._agents, self._nodes - 1
        del self._coordinator
        self._ledger.close()
        began_s = thread_cpu_s()
        self._ledger = self._open_ledger()
        opened_s = thread_cpu_s() - began_s
        self._coordinator = _Coordinator(self._ledger, self._clock, agents.take)
        loaded = self._coordinator.take_spent()
        agents.forget()
        agents.first_connection = self._nodes
        for number in range(left):
            self._coordinator.opened(self._nodes + number)
        self._let_come(range(left), lambda n: agents.hello(n, self._last_world), RETURNS_PER_S)
        if (agents.resumed, agents.told) != (left, 0):
            raise AssertionError(f"{agents.resumed} of {left} have come back, {agents.told} moved")
        spent = self._coordinator.take_spent()
        return {"load_cpu_s": opened_s + loaded.cpu_s} | spent.figures("reattach", self._nodes)

    def _let_come(self, numbers: range, say: Callable[[int], bytes], per_s: int) -> None:
        """Let agents say something, so many in a second; those that have said it beat."""
        self._groups = []
        for group in _pieces(numbers, round(per_s * TICK_S)):
            self._say(group, say)
            self._groups.append((self._ticks, group))
            self._pass_tick()

    def _pass_tick(self) -> None:
        ping = frame(encode(Ping(1)))
        for since, group in self._groups:
            if self._ticks > since and (self._ticks - since) % TICKS_PER_BEAT == 0:
                self._say(group, lambda _: ping)
        self._advance()

    def _advance(self) -> None:
        self._ticks += 1
        self._clock.advance(TICK_S)
        self._coordinator.tick()

    def _say(self, numbers: range, say: Callable[[int], bytes]) -> None:
        first = self._agents.first_connection
        for some in _pieces(numbers, TURN):
            self._coordinator.turn([(first + number, say(number)) for number in some])

    def _ask(self, connection: int, request: Request, kind: type[Kind]) -> Kind:
        self._coordinator.turn([(connection, frame(encode(request)))])
        self._coordinator.finish_chores()
        answer = self._agents.others.pop(connection)
        assert isinstance(answer, kind), answer
        return answer

    def _require_world(self, size: int) -> None:
        """Refuse figures of a round that was none."""
        agents = self._agents
        if agents.joined != size or sorted(agents.ranks[:size]) != list(range(size)):
            raise AssertionError(f"{agents.joined} of {size} agents have their places")
        self._last_world = agents.world


def _pieces(numbers: range, size: int) -> Iterator[range]:
    return (numbers[start : start + size] for start in range(0, len(numbers), size))


def simulate(nodes: int, backend: str) -> dict[str, float]:
    """Return the figures of a run.

    Args:
        nodes: How many agents there are; at least 2, for one of them is lost.
        backend: `quorate` for a coordinator with a journal, `memory` for one without.

    Raises:
        AssertionError: The agents were not told what they should have been.
    """
    if backend == "memory":
        ledger = _MemoryLedger()
        return _Simulation(nodes, lambda: ledger).run()
    with tempfile.TemporaryDirectory(prefix="quorate-bench-") as folder:
        path = Path(folder) / "coordinator.journal"
        return _Simulation(nodes, lambda: Journal(path)).run()


def main() -> None:
    """Run the program."""
    collect_seldom()
    print(json.dumps(simulate(int(sys.argv[1]), sys.argv[2])))


if __name__ == "__main__":
    main()
