"""torchrun's agents as processes of their own, training `examples/torch_ddp.py` on gloo.

torch's agents say at their log level INFO when a round is complete and when they are told of a
change; that is what the tests read. The training keeps to a slow pace until a test releases it, so
that no test depends on how fast this machine is.
"""

from __future__ import annotations

import contextlib
import re
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from tests.conftest import wait_until
from tests.e2e.cluster import Cluster, Program, alive, parent
from tests.e2e.ddp_program import EXAMPLE

DDP_PROGRAM = Path(__file__).with_name("ddp_program.py")
TORCHRUN_PROGRAM = Path(__file__).with_name("torchrun_program.py")

# Importing torch takes seconds, and several processes do it at once on a machine that has others
# to serve as well.
STARTED_WITHIN_S = 120.0

STEPS = 120
STEP_TIME_MS = 500

_FIELD = re.compile(r"\b(restart_count|group_rank|group_world_size)=(\d+)")
_LOGGED = re.compile(r"(\S+ \S+),(\d{3}) \w+ \S+ (.*)")


class World(NamedTuple):
    """A round as one agent reports it.

    Attributes:
        at_s: When it was reported, on the machine's monotonic clock.
        restarts: How many restarts this agent has spent by then.
        rank: Its rank among the agents.
        size: The number of agents.
    """

    at_s: float
    restarts: int
    rank: int
    size: int


class TorchAgent(Program):
    """One torchrun."""

    @property
    def worlds(self) -> list[World]:
        """The rounds that this agent was in."""
        worlds, fields = [], {}
        for line in self.err:
            if found := _FIELD.search(line.text):
                fields[found[1]] = int(found[2])
                if found[1] == "group_world_size":
                    size = fields["group_world_size"]
                    worlds.append(
                        World(line.at_s, fields["restart_count"], fields["group_rank"], size)
                    )
        return worlds

    def world(self, number: int, timeout_s: float = STARTED_WITHIN_S) -> World:
        """Wait for this agent's round of a number, from 0."""
        self.wait_for(lambda: len(self.worlds) > number, f"world {number}", timeout_s)
        return self.worlds[number]

    def trains(self, workers: int) -> None:
        """Wait until rank 0, in a worker of this agent, has done steps with so many workers."""
        self.line(rf"loss .* world {workers}$", STARTED_WITHIN_S)

    def told_at_s(self) -> float:
        """Wait until this agent notices that the world should change; return when."""
        self.line("Detected")
        return next(line.at_s for line in self.err if "Detected" in line.text)


class TorchrunCluster:
    """What one test runs: torchrun's agents of the run `job`, beside a cluster's other programs.

    Args:
        cluster: Starts the processes, and ends them.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.checkpoint = cluster.folder / "digits.pt"
        self._release = cluster.folder / "release"
        cluster._environment |= {"LOGLEVEL": "INFO", "OMP_NUM_THREADS": "1"}

    def torchrun(
        self,
        nodes: str,
        *program: str,
        conf: str = "",
        max_restarts: int = 10,
        fault: tuple[str, int] | None = None,
    ) -> TorchAgent:
        """Start an agent; without a program of its own it trains, see `training`.

        A fault is one of `torchrun_program`.
        """
        launcher = ["-m", "torch.distributed.run"]
        if fault is not None:
            launcher = [str(TORCHRUN_PROGRAM), *map(str, fault)]
        flags = [
            "--rdzv-backend=quorate",
            f"--rdzv-endpoint={self.cluster.endpoint}",
            "--rdzv-id=job",
            f"--nnodes={nodes}",
            f"--max-restarts={max_restarts}",
            "--monitor-interval=0.1",
            f"--rdzv-conf={conf}",
        ]
        command = [sys.executable, *launcher, *flags, *(program or self.training())]
        name = f"torchrun {len(self.cluster.programs)}"
        return self.cluster._start(TorchAgent, name, command)

    def agents(self, number: int, nodes: str, *program: str, **options: Any) -> list[TorchAgent]:
        """Start several agents at once; return them by rank once they are in a world."""
        agents = [self.torchrun(nodes, *program, **options) for _ in range(number)]
        return by_rank(agents, 0)

    def training(self, *more: str) -> list[str]:
        """Return the program that trains slowly until it is released, with a checkpoint."""
        arguments = ["--release", str(self._release), "--checkpoint", str(self.checkpoint)]
        pace = ["--steps", str(STEPS), "--step-time-ms", str(STEP_TIME_MS)]
        return [str(DDP_PROGRAM), *arguments, *pace, "--checkpoint-every=1", *more]

    def example(self, steps: int) -> list[str]:
        """Return the example as it is."""
        return [str(EXAMPLE), "--steps", str(steps)]

    def release(self) -> None:
        """Let the training hurry to its end."""
        self._release.touch()

    def workers(self, agent: TorchAgent) -> list[int]:
        """Return the processes that an agent trains in."""
        found = []
        for pid in self.cluster.processes():
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
                if parent(pid) == agent.pid and str(DDP_PROGRAM) in command[:3]:
                    found.append(pid)
        return found

    def kill_worker(self, agent: TorchAgent) -> float:
        """Kill -9 an agent's worker; return when."""
        (pid,) = self.workers(agent)
        at_s = time.monotonic()
        self.cluster.signal(pid, signal.SIGKILL)
        return at_s

    def kill_machine(self, agent: TorchAgent) -> float:
        """Kill -9 an agent and its workers, as the end of a machine or container does."""
        workers = self.workers(agent)
        at_s = agent.kill()
        for pid in workers:
            self.cluster.signal(pid, signal.SIGKILL)
        wait_until(lambda: not any(map(alive, workers)), what="the end of the workers")
        return at_s

    def wait_for_nodes(self, state: str, number: int) -> None:
        """Wait until the coordinator has so many nodes of the run in a state."""

        def found() -> bool:
            nodes = self.cluster.run_status()["nodes"]
            return sum(node["state"] == state for node in nodes) == number

        wait_until(found, STARTED_WITHIN_S, f"{number} node(s) in the state {state}")

    def coordinator_said(self, text: str) -> float | None:
        """Return the time, as of `time.time()`, of the coordinator's first log line with a text."""
        log = self.cluster.state_folder / f"coordinator-{self.cluster.port}.log"
        for line in log.read_text().splitlines():
            found = _LOGGED.match(line)
            if found and text in found[3]:
                second = time.mktime(time.strptime(found[1], "%Y-%m-%d %H:%M:%S"))
                return second + int(found[2]) / 1000
        return None


def by_rank(agents: Iterable[TorchAgent], number: int) -> list[TorchAgent]:
    """Return agents by their ranks in their world of a number; they are all of its members."""
    agents = list(agents)
    worlds = {agent: agent.world(number) for agent in agents}
    assert sorted(world.rank for world in worlds.values()) == list(range(len(agents))), worlds
    assert {world.size for world in worlds.values()} == {len(agents)}, worlds
    return sorted(agents, key=lambda agent: worlds[agent].rank)
