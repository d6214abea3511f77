"""Machines of their own for the programs of a test, and a network between them that fails.

A machine is a set of namespaces (network, mounts, clocks) that one process holds. They have no
name and nothing on the host changes: when the holder ends, as it does with the test's process
whatever becomes of that, the kernel removes all that was in them. Frames between machines pass
through `switch_program`, which delays and loses them. No two machines agree on what time it is.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from tests.e2e.cluster import AGENT_PROGRAM, Agent, Cluster, ProgramKind

SKEWED_PROGRAM = Path(__file__).with_name("skewed_program.py")
SWITCH_PROGRAM = Path(__file__).with_name("switch_program.py")

# Nothing outside the namespaces knows of it, whatever the host's own networks are.
ADDRESS_PREFIX = "10.83.0."
PORT = 29400

# Setting up takes milliseconds; an end that has not come by then never does.
COMMAND_TIMEOUT_S = 10.0

HOLD = "ip link set lo up && echo $$ && exec cat"

# By machine: how far its monotonic clock is ahead of that of the host, as after an earlier boot,
# and its wall clock ahead of what is right, in seconds.
CLOCKS = [(30 * 86_400, -3_600), (0, 10_800), (3_600, -2 * 86_400), (86_400, 0)]


class Holder:
    """A process that is there to be spoken to, and ends with its standard input."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.first_line = self._read()

    def ask(self, line: str) -> None:
        """Write a line, and wait for the answer."""
        print(line, file=self._pipe(self._process.stdin), flush=True)
        self._read()

    def end(self) -> None:
        """End it and all that depends on it."""
        self._pipe(self._process.stdin).close()
        self._process.wait(COMMAND_TIMEOUT_S)
        self._pipe(self._process.stdout).close()

    def _read(self) -> str:
        line = self._pipe(self._process.stdout).readline()
        assert line, f"{self._process.args!r} has ended"
        return line.strip()

    def _pipe(self, pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe


class Machine:
    """One set of namespaces.

    Args:
        number: Which machine of its network it is, from 0.
    """

    def __init__(self, number: int = 0) -> None:
        self.number = number
        ahead_s, self.wall_clock_error_s = CLOCKS[number]
        self.addr = f"{ADDRESS_PREFIX}{number + 1}"
        clocks = ["--time", "--monotonic", str(ahead_s), "--boottime", str(ahead_s)]
        spaces = ["unshare", "--net", "--mount", *clocks, "--fork"]
        self._holder = Holder([*spaces, "sh", "-c", HOLD])
        self.pid = self._holder.first_line

    @property
    def enter(self) -> list[str]:
        """What a command begins with that is to run on this machine."""
        return ["nsenter", "--target", self.pid, "--net", "--mount", "--time", "--"]

    def run(self, *command: str) -> None:
        """Run a command of the system on this machine."""
        subprocess.run([*self.enter, *command], check=True, timeout=COMMAND_TIMEOUT_S)

    def use_address(self, addr: str) -> None:
        """Have this address and no other, as after a new lease of DHCP."""
        self.run("ip", "addr", "flush", "dev", "eth0", "scope", "global")
        self.run("ip", "addr", "add", f"{addr}/24", "dev", "eth0")
        self.addr = addr

    def set_link(self, state: str) -> None:
        """Pull the cable (`down`), or put it in again (`up`)."""
        self.run("ip", "link", "set", "eth0", state)

    def mount_disk(self, folder: Path, size_bytes: int) -> None:
        """Let a folder be a disk of its own, of a certain size."""
        self.run("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder))

    def seen(self, path: Path) -> Path:
        """Return where a file of this machine is found by the test."""
        return Path(f"/proc/{self.pid}/root", *path.parts[1:])

    def end(self) -> None:
        self._holder.end()


class Network:
    """Machines that are connected with each other.

    Args:
        machines: The machines; their numbers count from 0.
    """

    def __init__(self, machines: Sequence[Machine]) -> None:
        self.machines = machines
        holders = [machine.pid for machine in machines]
        command = ["unshare", "--net", sys.executable, str(SWITCH_PROGRAM), *holders]
        self._switch = Holder(command)
        for machine in machines:
            machine.use_address(machine.addr)
            machine.set_link("up")
        self._arranged: set[tuple[int, int]] = set()

    def arrange(
        self, source: Machine, target: Machine, delay_s: float = 0.0, loss: float = 0.0
    ) -> None:
        """Say how frames get from one machine to another, in this direction."""
        self._switch.ask(f"{source.number} {target.number} {delay_s} {loss}")
        self._arranged.add((source.number, target.number))

    def cut(self, source: Machine, target: Machine) -> None:
        """Lose all that one machine sends to another, without a word to either."""
        self.arrange(source, target, loss=1.0)

    def isolate(self, machine: Machine) -> None:
        """Lose all that a machine sends and is sent."""
        for other in self.machines:
            if other is not machine:
                self.cut(machine, other)
                self.cut(other, machine)

    def heal(self) -> None:
        """Let all ways be as they were in the beginning."""
        for source, target in self._arranged:
            self._switch.ask(f"{source} {target} 0 0")
        self._arranged.clear()

    def end(self) -> None:
        self._switch.end()


@contextlib.contextmanager
def running_network(number: int) -> Iterator[Network]:
    """Yield a network of some machines; nothing of it is left."""
    with contextlib.ExitStack() as ending:
        machines = []
        for position in range(number):
            machines.append(Machine(position))
            ending.callback(machines[-1].end)
        network = Network(machines)
        ending.callback(network.end)
        yield network


class NetworkCluster(Cluster):
    """Programs on the machines of a network; the first machine is the coordinator's."""

    def __init__(self, folder: Path, network: Network) -> None:
        self.host, *self.others = network.machines
        super().__init__(folder, PORT, self.host.addr)
        self.network = network
        self._machine = self.host

    @contextlib.contextmanager
    def on(self, machine: Machine) -> Iterator[None]:
        """Start programs on another machine than the coordinator's."""
        self._machine = machine
        yield
        self._machine = self.host

    def agents_on(self, machines: Sequence[Machine], nodes: str, conf: str) -> list[Agent]:
        """Start an agent on each of some machines, and wait until all are connected."""
        agents = []
        for machine in machines:
            with self.on(machine):
                agents.append(self.agent(nodes, conf))
        for agent in agents:
            agent.next("connected")
        return agents

    def direct_agents_on(
        self, machines: Sequence[Machine], state: Path, nodes: str, conf: str
    ) -> list[Agent]:
        """Start agents that meet in a file, without a coordinator."""
        agents = []
        for machine in machines:
            with self.on(machine):
                command = [str(AGENT_PROGRAM), str(state), "job", nodes, conf, "file"]
                name = f"agent {len(self.programs)}"
                agents.append(self._start(Agent, name, [sys.executable, *command]))
        for agent in agents:
            agent.next("connected")
        return agents

    def _start(
        self,
        kind: type[ProgramKind],
        name: str,
        command: list[str],
        variables: Mapping[str, str] | None = None,
    ) -> ProgramKind:
        python, *program = command
        skewed = [python, str(SKEWED_PROGRAM), str(self._machine.wall_clock_error_s), *program]
        return super()._start(kind, name, [*self._machine.enter, *skewed], variables)
