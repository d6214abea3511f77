"""The show of `quorate demo`: agents of one job, one killed, one added, and what they make of it.

Everything is real: each agent is a `quorate run` of its own, the one that is killed is the one
that started the coordinator, and what is printed is what the agents say.
"""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from quorate.clock import Clock
from quorate.demo import TRAINING_SCRIPT
from quorate.errors import RendezvousError, RendezvousTimeoutError
from quorate.program import command_of, with_own_path

__all__ = ["Line", "Scene", "Show"]

ROUND = re.compile(r"round (\d+): node rank (\d+) in a world of (\d+) node")
STEP = re.compile(r"\[step (\d+)")

# The loss comes after the first progress, the newcomer some steps after the regroup.
STEP_OF_LOSS = 160
STEP_OF_NEWCOMER = 420
STEPS = 800

# The whole show takes about half a minute; this is when something must be wrong.
DEADLINE_S = 120.0


class Line(NamedTuple):
    """One line that an agent printed.

    Args:
        at_s: When, in seconds since the curtain.
        agent: The agent's name.
        text: The line; `None` when the agent has ended.
    """

    at_s: float
    agent: str
    text: str | None


class Scene(NamedTuple):
    """One entry of the timeline: what happened when."""

    at_s: float
    text: str


class Show:
    """Runs the agents and watches them.

    Args:
        folder: Where state, checkpoint and result are kept.
        endpoint: A free port of this machine, as `host:port`.
        clock: The time.
        print_line: Prints a line of an agent, or of the director (whose name is empty).
    """

    def __init__(
        self,
        folder: Path,
        endpoint: str,
        clock: Clock,
        print_line: Callable[[str, str], None],
    ) -> None:
        self._folder = folder
        self._endpoint = endpoint
        self._clock = clock
        self._print = print_line
        self._began_s = clock.monotonic()
        self._lines: queue.Queue[Line] = queue.Queue()
        self._agents: dict[str, subprocess.Popen[str]] = {}
        self._readers: list[threading.Thread] = []
        self._rounds: dict[str, int] = {}
        self._hosting = ""
        self._step = 0
        self.scenes: list[Scene] = []

    def run(self) -> tuple[str, str]:
        """Play the whole show.

        Returns:
            The results of the disturbed training and of an undisturbed one, as JSON.

        Raises:
            RendezvousError: Something did not happen in time, or an agent failed.
        """
        try:
            for name in "ABC":
                self._start(name)
            self._watch(lambda: self._in_round(0, "ABC"), "all three to meet")
            self._scene("round 0: A, B and C have met")
            self._watch(lambda: self._step >= STEP_OF_LOSS, "some training to be done")
            self._lose()
            self._watch(lambda: self._step >= STEP_OF_NEWCOMER, "the training to go on")
            self._add()
            self._watch(lambda: not self._agents, "the training to end")
            self._scene("the training has ended")
            return self._read_result("disturbed"), self._train_undisturbed()
        finally:
            self._end()

    def _lose(self) -> None:
        victim = self._host()
        killed_s = self._now_s()
        self._agents[victim].send_signal(signal.SIGKILL)
        self._scene(f"kill -9 of agent {victim}, which had started the coordinator")
        left = "".join(name for name in "ABC" if name != victim)
        told_s = self._watch_for("the world changes", "the loss to be told")
        self._scene(f"the others are told, {told_s - killed_s:.1f} s after the kill")
        self._watch(lambda: self._in_round(1, left), "the others to regroup")
        self._scene(
            f"round 1: {left[0]} and {left[1]} train on, {self._now_s() - killed_s:.1f} s after it"
        )

    def _add(self) -> None:
        added_s = self._now_s()
        self._start("D")
        self._scene("agent D is started")
        names = "".join(sorted(self._agents))
        self._watch(lambda: self._in_round(2, names), "D to be admitted")
        self._scene(
            f"round 2: {', '.join(names)} train on, {self._now_s() - added_s:.1f} s after its start"
        )

    def _start(self, name: str) -> None:
        result = ["--result", str(self._folder / "disturbed.json")]
        command = [
            *("run", "--nnodes", "2:3", "--rdzv-id", "demo", "--rdzv-endpoint", self._endpoint),
            *("--rdzv-conf", f"state_dir={self._folder}"),
            *(str(TRAINING_SCRIPT), "--steps", str(STEPS), *result),
            *("--checkpoint", str(self._folder / "digits.checkpoint")),
        ]
        agent = self._spawn(command)
        self._agents[name] = agent
        reader = threading.Thread(target=self._read, args=(name, agent), daemon=True)
        reader.start()
        self._readers.append(reader)

    def _spawn(self, arguments: list[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command_of("quorate", *arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=with_own_path(os.environ) | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )

    def _read(self, name: str, agent: subprocess.Popen[str]) -> None:
        assert agent.stdout is not None
        with agent.stdout:
            for text in agent.stdout:
                self._lines.put(Line(self._now_s(), name, text.rstrip()))
        self._lines.put(Line(self._now_s(), name, None))

    def _host(self) -> str:
        """Return the agent that has started the coordinator: it said so."""
        if self._hosting not in self._agents:
            raise RendezvousError("None of the agents said that it started the coordinator.")
        return self._hosting

    def _in_round(self, number: int, names: str) -> bool:
        return all(self._rounds.get(name) == number for name in names)

    def _watch(self, reached: Callable[[], bool], what: str) -> None:
        for _ in self._events(what):
            if reached():
                return

    def _watch_for(self, text: str, what: str) -> float:
        for line in self._events(what):
            if line.text is not None and text in line.text:
                return line.at_s
        raise AssertionError("events end with an error")

    def _events(self, what: str) -> Iterator[Line]:
        """Yield the agents' lines as they come, after their effect on what is known."""
        while True:
            try:
                line = self._lines.get(timeout=max(DEADLINE_S - self._now_s(), 0.01))
            except queue.Empty:
                raise RendezvousTimeoutError(
                    f"The demo waited for {what} until {DEADLINE_S:g} s had passed: see above what "
                    f"its agents said."
                ) from None
            self._note(line)
            yield line
            if not self._agents:
                raise RendezvousError(
                    f"All agents of the demo have ended while it waited for {what}: see above why."
                )

    def _note(self, line: Line) -> None:
        if line.text is None:
            self._note_end(line.agent)
            return
        if "started a coordinator" in line.text:
            self._hosting = line.agent
        elif match := ROUND.search(line.text):
            self._rounds[line.agent] = int(match[1])
        elif match := STEP.search(line.text):
            self._step = int(match[1])
        self._print(line.agent, line.text)

    def _note_end(self, name: str) -> None:
        exit_code = self._agents.pop(name).wait()
        self._rounds.pop(name, None)
        if exit_code not in {0, -signal.SIGKILL}:
            raise RendezvousError(f"Agent {name} ended with exit code {exit_code}: see above why.")

    def _train_undisturbed(self) -> str:
        """Train the same in one go, without a pause between the steps."""
        result = self._folder / "undisturbed.json"
        arguments = ["--steps", str(STEPS), "--step-time-ms", "0", "--result", str(result)]
        agent = self._spawn(["run", "--standalone", str(TRAINING_SCRIPT), *arguments])
        output, _ = agent.communicate(timeout=DEADLINE_S)
        if agent.returncode != 0:
            raise RendezvousError(f"The undisturbed training failed:\n{output}")
        return self._read_result("undisturbed")

    def _read_result(self, name: str) -> str:
        content = (self._folder / f"{name}.json").read_bytes()
        return msgspec.json.encode(msgspec.json.decode(content)).decode()

    def _scene(self, text: str) -> None:
        self.scenes.append(Scene(self._now_s(), text))
        self._print("", text)

    def _now_s(self) -> float:
        return self._clock.monotonic() - self._began_s

    def _end(self) -> None:
        self._end_agents()
        self._end_coordinator()

    def _end_coordinator(self) -> None:
        """End the coordinator now: it would wait for a minute whether anybody comes."""
        asking = self._spawn(["status", "--json", "--timeout", "2", "--endpoint", self._endpoint])
        report, _ = asking.communicate(timeout=DEADLINE_S)
        if asking.returncode == 0:
            name: str = msgspec.json.decode(report)["coordinator"]
            os.kill(int(name.rpartition(":")[2]), signal.SIGTERM)

    def _end_agents(self) -> None:
        for agent in self._agents.values():
            agent.terminate()
        for agent in self._agents.values():
            agent.wait()
        for reader in self._readers:
            reader.join()
