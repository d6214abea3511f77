"""Programs of a test as processes of their own on this machine, and their end in every case.

Every process that a test starts, and all that come from it (coordinators, wardens, workers),
inherits one environment variable with a value of that test's own: that is how they are found at
the end, whoever their parent was.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import pytest

from tests.conftest import freeze, kill_when_read, wait_until

AGENT_PROGRAM = Path(__file__).with_name("agent_program.py")
WORKER_PROGRAM = Path(__file__).with_name("worker_program.py")

MARK = "QUORATE_TEST_CLUSTER"

# Starting Python is what takes longest: ten times as long on a machine that is busy.
TIMEOUT_S = 40.0


ProgramKind = TypeVar("ProgramKind", bound="Program")
ClusterKind = TypeVar("ClusterKind", bound="Cluster")


class Line(NamedTuple):
    """One line of output; `at_s` is when it was read, on the machine's monotonic clock."""

    at_s: float
    text: str


class Program:
    """A running program and what it has printed so far, by stream."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str], folder: Path):
        self.name = name
        self.out: list[Line] = []
        self.err: list[Line] = []
        self._changed = threading.Condition()
        self._process = subprocess.Popen(
            command,
            env=environment,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._open_streams = 2
        self._readers = [
            threading.Thread(target=self._read, args=(stream, lines))
            for stream, lines in (
                (self._process.stdout, self.out),
                (self._process.stderr, self.err),
            )
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def stdout(self) -> list[str]:
        return [line.text for line in self.out]

    @property
    def stderr(self) -> list[str]:
        return [line.text for line in self.err]

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def line(self, pattern: str, timeout_s: float = TIMEOUT_S) -> re.Match[str]:
        """Wait for a line, of either stream, that contains a match."""
        return self.lines(pattern, 1, timeout_s)[0]

    def lines(self, pattern: str, number: int, timeout_s: float = TIMEOUT_S) -> list[re.Match[str]]:
        """Wait for several such lines."""

        def found() -> list[re.Match[str]]:
            texts = self.stdout + self.stderr
            return [match for text in texts if (match := re.search(pattern, text))]

        self.wait_for(lambda: len(found()) >= number, f"{number} x {pattern!r}", timeout_s)
        return found()

    def wait_for(self, condition: Callable[[], Any], what: str, timeout_s: float) -> None:
        """Wait for something that depends on the output; fail as soon as it cannot come."""
        with self._changed:
            self._changed.wait_for(lambda: condition() or not self._open_streams, timeout_s)
            if not condition():
                pytest.fail(f"{self.name}: no {what} within {timeout_s:g} s\n{self.report()}")

    def quiet(self, condition: Callable[[], Any], seconds: float) -> bool:
        """Return whether something stays false for so long."""
        with self._changed:
            return not self._changed.wait_for(condition, seconds)

    def exit_code(self, timeout_s: float = TIMEOUT_S) -> int:
        """Wait for the end, and for everything that was printed."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{self.name} did not end within {timeout_s:g} s\n{self.report()}")
        for reader in self._readers:
            reader.join(timeout_s)
        return code

    def send(self, number: signal.Signals) -> float:
        """Send a signal; return when. One that is to stop it has done so on return."""
        at_s = time.monotonic()
        if number == signal.SIGSTOP:
            freeze(self._process.pid)
        else:
            self._process.send_signal(number)
        return at_s

    def kill(self) -> float:
        """Kill -9 and collect the process, if it has not ended yet; return when."""
        at_s = time.monotonic()
        if self.running:
            kill_when_read(self._process.pid)
        self._process.wait()
        return at_s

    def write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def end(self) -> None:
        """Kill it if it still runs, and release its pipes."""
        if self.running:
            self._process.kill()
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):
            assert self._process.stdin is not None
            self._process.stdin.close()

    def release(self) -> None:
        """Wait for the readers: whoever else held the pipes must be gone."""
        for reader in self._readers:
            reader.join(TIMEOUT_S)
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()

    def report(self) -> str:
        code = self._process.poll()
        state = "is running" if code is None else f"ended with {code}"
        lines = sorted([*self.out, *self.err])
        texts = "\n".join(f"  {line.at_s:.3f} {line.text}" for line in lines)
        return f"--- {self.name} (process {self.pid}) {state}; it printed:\n{texts}"

    def _read(self, stream: IO[str] | None, lines: list[Line]) -> None:
        assert stream is not None
        for text in stream:
            with self._changed:
                lines.append(Line(time.monotonic(), text.rstrip("\n")))
                self._changed.notify_all()
        with self._changed:
            self._open_streams -= 1
            self._changed.notify_all()


class Agent(Program):
    """An `agent_program`, whose standard output is one event a line."""

    _read_events = 0

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(text) for text in self.stdout]

    def next(self, kind: str, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
        """Wait for the next event, which must be of a kind: none is passed over."""
        number = self._read_events
        self.wait_for(lambda: len(self.out) > number, f"event {kind!r}", timeout_s)
        event = self.events[number]
        assert event["event"] == kind, f"{event} where {kind!r} was due\n{self.report()}"
        self._read_events += 1
        return event

    @property
    def last_at_s(self) -> float:
        """When the event that was read last was seen, on the clock of the test's machine."""
        return self.out[self._read_events - 1].at_s

    def assert_quiet(self, seconds: float = 0.0) -> None:
        """Nothing has happened since the last event that was read, and nothing does for so long."""
        number = self._read_events
        assert self.quiet(lambda: len(self.out) > number, seconds), self.report()
        assert self.running, self.report()

    def set(self, key: str, value: str) -> None:
        self.write(json.dumps(["set", key, value]))
        self.next("set")

    def get(self, key: str) -> str:
        self.write(json.dumps(["get", key]))
        return str(self.next("got")["value"])

    def leave(self, reason: str) -> float:
        at_s = time.monotonic()
        self.write(json.dumps(["leave", reason]))
        return at_s


class Cluster:
    """What one test runs: programs that meet at one endpoint, with a state folder of their own."""

    def __init__(self, folder: Path, port: int, host: str = "127.0.0.1") -> None:
        self.folder = folder
        self.endpoint = f"{host}:{port}"
        self.port = port
        self.state_folder = folder / "state" / "quorate"
        self.programs: list[Program] = []
        self._mark = secrets.token_hex(16)
        self._environment = os.environ | {
            MARK: self._mark,
            "XDG_STATE_HOME": str(folder / "state"),
            "PYTHONFAULTHANDLER": "1",
        }

    def quorate(self, *arguments: str, name: str = "", **variables: str) -> Program:
        """Start a command of quorate, with variables of its own in its environment."""
        command = [sys.executable, "-m", "quorate", *arguments]
        return self._start(Program, name or arguments[0], command, variables)

    def run(
        self, nodes: str, *arguments: str, name: str = "run", conf: str = "", **variables: str
    ) -> Program:
        """Start `quorate run` as one node of the run `job`; it says what it must, no more."""
        where = ("--rdzv-endpoint", self.endpoint, "--rdzv-id", "job", "--nnodes", nodes)
        quiet = ("--log-level", "warning", "--rdzv-conf", conf)
        return self.quorate("run", *where, *quiet, *arguments, name=name, **variables)

    def agent(self, nodes: str, conf: str = "", run_id: str = "job", name: str = "") -> Agent:
        """Start an agent that prints what happens to it."""
        command = [sys.executable, str(AGENT_PROGRAM), self.endpoint, run_id, nodes, conf]
        return self._start(Agent, name or f"agent {len(self.programs)}", command)

    def agents(self, number: int, nodes: str, conf: str = "") -> list[Agent]:
        """Start several agents, the next when the one before is connected: the first one hosts."""
        agents = []
        for _ in range(number):
            agents.append(self.agent(nodes, conf))
            agents[-1].next("connected")
        return agents

    def serve(self, *arguments: str) -> Program:
        """Start a coordinator in the foreground, and wait until it listens."""
        program = self.quorate("serve", "--endpoint", self.endpoint, *arguments)
        program.line("listening on")
        return program

    def status(self) -> dict[str, Any]:
        """Ask the coordinator for its status."""
        program = self.quorate("status", "--json", "--endpoint", self.endpoint, name="status")
        assert program.exit_code() == 0, program.report()
        status: dict[str, Any] = json.loads(program.stdout[0])
        return status

    def run_status(self, run_id: str = "job") -> dict[str, Any]:
        """Return the status of one run."""
        runs: list[dict[str, Any]] = self.status()["runs"]
        return next(run for run in runs if run["run_id"] == run_id)

    def closed_reason(self) -> str:
        """Return why a run was closed, from the logs: an embedded coordinator soon forgets it."""
        logs = [path.read_text() for path in self.state_folder.glob("*.log")]
        found = re.search(r": closed: (.*)", "\n".join(logs))
        return found[1] if found else ""

    def coordinator_pid(self) -> int:
        """Return the process id of the coordinator."""
        return int(self.status()["coordinator"].rpartition(":")[2])

    def kill_coordinator(self, pid: int | None = None) -> int:
        """Kill -9 a coordinator, by default the one that answers now; return its process id."""
        pid = pid or self.coordinator_pid()
        self.signal(pid, signal.SIGKILL)
        wait_until(lambda: not alive(pid), what=f"the end of the coordinator {pid}")
        return pid

    def signal(self, pid: int, number: signal.Signals) -> None:
        """Send a signal to a process of this test, and to no other."""
        assert pid in self.processes(), f"process {pid} is not of this test"
        os.kill(pid, number)

    def processes(self) -> set[int]:
        """Return every process that comes from this test."""
        mark = f"{MARK}={self._mark}".encode()
        found = set()
        for name in filter(str.isdecimal, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if mark in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                    found.add(int(name))
        return found

    def report(self) -> str:
        """Return everything that was printed, for a test that has failed."""
        logs = [
            f"--- {path.name}:\n{path.read_text(errors='replace')}"
            for path in sorted(self.state_folder.glob("*.log"))
        ]
        return "\n".join([program.report() for program in self.programs] + logs)

    def end(self) -> None:
        """End everything that was started, and all that came from it."""
        for program in self.programs:
            program.end()

        def gone() -> bool:
            left = self.processes()
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not left

        wait_until(gone, what="the end of all processes")
        for program in self.programs:
            program.release()

    def assert_one_world_per_name(self) -> None:
        """R2, over the whole test: one (epoch, round) never names two worlds."""
        places: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
        for agent in self.programs:
            if isinstance(agent, Agent):
                for event in agent.events:
                    if event["event"] == "joined":
                        places[event["epoch"], event["round"]].append(event)
        for name, joined in places.items():
            assert len({place["digest"] for place in joined}) == 1, f"R2: {name}: {joined}"
            assert_ranks(joined)

    def _start(
        self,
        kind: type[ProgramKind],
        name: str,
        command: list[str],
        variables: Mapping[str, str] | None = None,
    ) -> ProgramKind:
        program = kind(name, command, self._environment | (variables or {}), self.folder)
        self.programs.append(program)
        return program


def assert_ranks(places: list[dict[str, Any]]) -> None:
    """Ranks are distinct and within the size that all name."""
    ranks = [place["rank"] for place in places]
    sizes = {place["size"] for place in places}
    assert len(sizes) == 1, places
    assert len(set(ranks)) == len(ranks), places
    assert set(ranks) <= set(range(sizes.pop())), places


def assert_agree(places: list[dict[str, Any]]) -> None:
    """These are all members of one world: same name and digest, ranks 0 to n-1."""
    names = {(place["epoch"], place["round"], place["digest"], place["size"]) for place in places}
    assert len(names) == 1, places
    assert sorted(place["rank"] for place in places) == list(range(len(places))), places
    assert names.pop()[3] == len(places), places


def alive(pid: int) -> bool:
    """Return whether a process runs; one that has ended and waits to be collected does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat.rpartition(b")")[2].split()[0] not in (b"Z", b"X")


def parent(pid: int) -> int:
    """Return the process id of a process's parent."""
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])


@contextlib.contextmanager
def running_cluster(folder: Path, port: int) -> Iterator[Cluster]:
    """Yield a cluster; at the end nothing of it is left, and R2 held all the time."""
    with ending(Cluster(folder, port)) as cluster:
        yield cluster


@contextlib.contextmanager
def ending(cluster: ClusterKind) -> Iterator[ClusterKind]:
    """Yield a cluster; at the end nothing of it is left, and R2 held all the time."""
    try:
        yield cluster
        cluster.assert_one_world_per_name()
    finally:
        cluster.end()
