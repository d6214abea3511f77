"""A walk through what an operator can do to a running job, and see of it.

A coordinator with its page and up to six agents run on this machine, as processes of their own. One
agent is drained, one is evicted, the run is held and released, scaled from 4 nodes to 6, one agent
is killed, and the run is closed. After each step all views must say the same:

    quorate status --json    quorate history --json    /status.json    /history.json    /metrics
    /timeline.json, which is what the page draws

From a checkout, in half a minute:

    pip install '.[server]'
    python examples/operators_walk.py             # or with --slowly, and a browser beside it
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

RUN = "job17"
NODES = "2:6"
QUORATE = [sys.executable, "-m", "quorate"]

# A worker: it says who it is, and works until the gate is opened.
WORKER = ["sh", "-c", 'echo "rank $RANK of $WORLD_SIZE"; exec cat "$0"']

# An agent that was killed is lost after 2 s; all else takes as long as the machine is slow.
PATIENCE_S = 60.0
LOOK_S = 0.1

# What passes between two looks although nothing happens.
PASSING = {"time", "connections", "heard_s_ago", "waiting_since_s", "left_s"}

# What a run's status and the page call alike.
SAME = (
    *("epoch", "round", "closed_reason", "waiting_for", "held"),
    *("desired_nodes", "min_nodes", "max_nodes", "node_unit"),
)

# What the page has to show one by one, however much happens at once.
TOLD = {"completed", "lost", "held", "released", "scaled", "drained", "evicted", "closed"}

# By what figures are told apart, in the order in which this script names them.
LABELS = ("run", "cause", "state")

Condition = Callable[[dict[str, Any]], bool]


@dataclass
class Views:
    """What an operator is told in each way, at one moment."""

    status_command: dict[str, Any]
    history_command: dict[str, Any]
    status_page: dict[str, Any]
    history_page: dict[str, Any]
    timeline: dict[str, Any]
    metrics: dict[tuple[str, ...], float]

    @property
    def run(self) -> dict[str, Any]:
        """The run, as `quorate status` tells it."""
        (run,) = self.status_command["runs"]
        return dict(run)

    def differences(self) -> list[str]:
        """Return where the views do not agree."""
        pairs = {
            "/status.json": (steady(self.status_command), steady(self.status_page)),
            "/history.json": (self.history_command, self.history_page),
            "the figures": (self._expected_figures(), self._figures()),
            "the head of the page": self._heads(),
            "the lanes of the page": (self._places(), self._lanes()),
            "the rounds of the page": self._rounds(),
            "the events of the page": self._events(),
        }
        return [
            f"{name}: {told} where {expected} was expected"
            for name, (expected, told) in pairs.items()
            if told != expected
        ]

    def _expected_figures(self) -> dict[str, Any]:
        nodes = self.run["nodes"]
        return {
            "deciding": 1,
            "runs": 1,
            "connections": sum(node["connected"] for node in nodes),
            "held requests": sum(node["waiting_since_s"] is not None for node in nodes),
            "world size": sum(node["rank"] is not None for node in nodes),
            "states": states(self.run),
            "came and did not go": len(nodes),
            "rounds": sum(entry["completed_at"] is not None for entry in self._history_rounds()),
            "lost": self._happened()["lost"],
            "evicted": self._happened()["evicted"],
            "commits": True,
        }

    def _figures(self) -> dict[str, Any]:
        of_run = {name: value for name, value in self.metrics.items() if name[1:2] == (RUN,)}
        losses = {n[2]: v for n, v in of_run.items() if n[0] == "quorate_losses_total"}
        return {
            "deciding": self.metrics["quorate_deciding",],
            "runs": self.metrics["quorate_runs",],
            "connections": self.metrics["quorate_connections",],
            "held requests": self.metrics["quorate_held_requests",],
            "world size": of_run["quorate_world_size_nodes", RUN],
            "states": {n[2]: v for n, v in of_run.items() if n[0] == "quorate_nodes"},
            "came and did not go": of_run["quorate_joins_total", RUN] - sum(losses.values()),
            "rounds": of_run["quorate_rounds_completed_total", RUN],
            "lost": losses.get("ended", 0) + losses.get("silent", 0),
            "evicted": losses.get("evicted", 0),
            "commits": self.metrics["quorate_commit_seconds_count",] > 0,
        }

    def _heads(self) -> tuple[dict[str, Any], dict[str, Any]]:
        run, head = self.run, self.timeline["head"]
        expected = {key: run[key] for key in SAME} | {
            "run": run["run_id"],
            "phase": run["state"],
            "counts": states(run),
            "lost": len(run["departed"]),
            "bans": len(run["bans"]),
        }
        return expected, {key: head[key] for key in expected}

    def _places(self) -> dict[str, tuple[Any, ...]]:
        return {
            node["node"]: (node["state"], node["rank"], node["connected"], node["draining"] or "")
            for node in self.run["nodes"]
        }

    def _lanes(self) -> dict[str, tuple[Any, ...]]:
        last = {lane["node"]: (lane["steps"][-1], lane["marks"]) for lane in self.timeline["lanes"]}
        return {
            node: (state, rank, *marks)
            for node, ((_, state, rank, _), marks) in last.items()
            if state not in ("lost", "gone")
        }

    def _rounds(self) -> tuple[list[Any], list[Any]]:
        told = ("round", "world_size", "completed_because", "ended_because")
        drawn = ("round", "size", "why", "end")
        return (
            [[entry[key] for key in told] for entry in self._history_rounds()],
            [[entry[key] for key in drawn] for entry in self.timeline["rounds"]],
        )

    def _events(self) -> tuple[Counter[str], Counter[str]]:
        kinds = Counter(event["kind"] for event in self.timeline["events"])
        return self._happened(), Counter({kind: kinds[kind] for kind in TOLD & kinds.keys()})

    def _happened(self) -> Counter[str]:
        kinds = (event["kind"] for event in self.history_command["events"])
        return Counter(kind for kind in kinds if kind in TOLD)

    def _history_rounds(self) -> list[dict[str, Any]]:
        rounds: list[dict[str, Any]] = self.history_command["rounds"]
        return rounds


@dataclass
class Step:
    """What was done, and what all views say after it."""

    title: str
    views: Views


class Job:
    """A coordinator and the agents of one run.

    Args:
        folder: Where the journal, the logs and the workers' gate are.

    Attributes:
        endpoint: Where agents find the coordinator.
        page: Where its page is, without a slash at the end.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._gate = folder / "gate"
        os.mkfifo(self._gate)
        # As long as somebody could write, who reads waits.
        self._latch = os.open(self._gate, os.O_RDWR)
        self._programs: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Job:
        where = ("--endpoint", "127.0.0.1:0", "--http", "127.0.0.1:0")
        self._start("coordinator", "serve", *where, "--state-dir", str(self._folder))
        self.endpoint = self._said("coordinator", r"listening on (127\.0\.0\.1:\d+)")
        self.page = self._said("coordinator", r"status page at (\S+)/")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.open_gate()
        for program in self._programs.values():
            program.terminate()
        for program in self._programs.values():
            try:
                program.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()

    def start(self, *names: str) -> None:
        """Start agents."""
        where = ("--rdzv-endpoint", self.endpoint, "--rdzv-id", RUN, "--nnodes", NODES)
        for name in names:
            node = ("--node-id", name, "--local-addr", name)
            self._start(name, "run", *where, *node, "--", *WORKER, str(self._gate))

    def kill(self, name: str) -> None:
        """Kill an agent as `kill -9` does."""
        self._programs[name].kill()

    def exit_code(self, name: str) -> int:
        """Wait for the end of an agent."""
        return self._programs[name].wait(PATIENCE_S)

    def open_gate(self) -> None:
        """Let the workers finish, those too that have not come to the gate yet."""
        if self._latch >= 0:
            opened = self._folder / "opened"
            opened.touch()
            opened.replace(self._gate)
            os.close(self._latch)
            self._latch = -1

    def act(self, command: str, *arguments: str) -> str:
        """Run an operator's command; return what it prints."""
        process = self._ask(command, RUN, *arguments)
        text = process.communicate(timeout=PATIENCE_S)[0].strip()
        if process.returncode != 0:
            raise RuntimeError(f"quorate {command} ended with {process.returncode}")
        return text

    def step(self, title: str, reached: Condition) -> Step:
        """Wait until the run is as it should be, and all views agree."""
        what = f"the run, where {title}"
        self._until(lambda: any(reached(run) for run in self._get("status.json")["runs"]), what)
        views = self._views()
        deadline_s = time.monotonic() + PATIENCE_S
        # They are looked at one after the other: something may change in between.
        while (differences := views.differences()) or not reached(views.run):
            if time.monotonic() > deadline_s:
                raise RuntimeError("\n".join([f"{title}: the views differ", *differences]))
            views = self._views()
        return Step(title, views)

    def _views(self) -> Views:
        asked = [self._ask(command, RUN, "--json") for command in ("status", "history")]
        status, history = (json.loads(p.communicate(timeout=PATIENCE_S)[0]) for p in asked)
        return Views(
            status_command=status,
            history_command=history,
            status_page=in_order(self._get("status.json", RUN)),
            history_page=self._get("history.json", RUN),
            timeline=self._get("timeline.json", RUN),
            metrics=figures(self._read("metrics")),
        )

    def _ask(self, *arguments: str) -> subprocess.Popen[str]:
        command = [*QUORATE, *arguments, "--endpoint", self.endpoint]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def _get(self, path: str, run_id: str = "") -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._read(f"{path}?run={quote(run_id)}"))
        return answer

    def _read(self, path: str) -> str:
        with urlopen(f"{self.page}/{path}", timeout=PATIENCE_S) as answer:
            return str(answer.read(), "utf-8")

    def _start(self, name: str, *arguments: str) -> None:
        with (self._folder / f"{name}.log").open("wb") as log:
            self._programs[name] = subprocess.Popen(
                [*QUORATE, *arguments], stdout=log, stderr=log, cwd=self._folder
            )

    def _said(self, name: str, pattern: str) -> str:
        """Wait for a line in a program's log; return the part that is asked for."""
        log = self._folder / f"{name}.log"
        found = self._until(lambda: re.search(pattern, log.read_text()), f"{pattern} in {log}")
        return str(found[1])

    def _until(self, condition: Callable[[], Any], what: str) -> Any:
        deadline_s = time.monotonic() + PATIENCE_S
        while not (value := condition()):
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"waited {PATIENCE_S:g} s for {what}")
            time.sleep(LOOK_S)
        return value


def in_order(status: dict[str, Any]) -> dict[str, Any]:
    """Return a status with the nodes sorted, as the command has them; the page leaves them."""
    for run in status["runs"]:
        run["nodes"].sort(key=lambda node: node["node_id"])
    return status


def steady(status: Any) -> Any:
    """Return a status without what passes."""
    if isinstance(status, dict):
        return {key: steady(value) for key, value in status.items() if key not in PASSING}
    return [steady(value) for value in status] if isinstance(status, list) else status


def figures(text: str) -> dict[tuple[str, ...], float]:
    """Return the figures of a coordinator, by their names and the values of their labels."""
    return {
        (
            sample.name,
            *(sample.labels[name] for name in LABELS if name in sample.labels),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "le" not in sample.labels
    }


def states(run: dict[str, Any]) -> Counter[str]:
    """Return how many nodes of a run are in which state."""
    return Counter(node["state"] for node in run["nodes"])


def stands(number: int, size: int) -> Condition:
    """Return whether a round is complete, with so many nodes."""
    expected = ("complete", number, size)
    return lambda run: (run["state"], run["round"], run["world_size"]) == expected


def in_state(state: str, count: int) -> Condition:
    """Return whether so many nodes are in a state."""
    return lambda run: states(run)[state] == count


def both(one: Condition, other: Condition) -> Condition:
    """Return whether both are so."""
    return lambda run: one(run) and other(run)


def walk(job: Job) -> Iterator[Step]:
    """Take the steps, one whenever the next one is asked for."""
    job.start("n0", "n1", "n2", "n3", "n4", "n5")
    yield job.step("six nodes have met", stands(0, 6))

    job.act("drain", "n5", "--reason", "new disks")
    yield job.step(
        "one is drained: it stays until the next regroup",
        lambda run: stands(0, 6)(run) and any(node["draining"] for node in run["nodes"]),
    )

    job.act("evict", "n4", "--for", "10m", "--reason", "a bad network card")
    yield job.step("one is evicted: the others regroup, without the drained one", stands(1, 4))
    assert job.exit_code("n5") == 0, "it was drained"
    assert job.exit_code("n4") == 80, "it was evicted"

    job.act("hold", "--reason", "data is being copied")
    job.start("n6", "n7")
    yield job.step(
        "the run is held: two newcomers wait", both(stands(1, 4), in_state("waiting", 2))
    )

    job.act("scale", "4")
    job.act("release")
    yield job.step(
        "it is scaled to 4 and released: the newcomers are spares",
        both(stands(1, 4), in_state("spare", 2)),
    )

    job.act("scale", "6")
    yield job.step("it is scaled to 6: the spares are in", stands(2, 6))

    job.kill("n0")
    yield job.step("one was killed: the others regroup", stands(3, 5))

    job.act("close", "--reason", "moved to another cluster")
    yield job.step(
        "the run is closed: workers may finish",
        lambda run: run["state"] == "closed" and len(run["nodes"]) == 5,
    )

    job.open_gate()
    yield job.step("the workers have finished", lambda run: not run["nodes"])
    assert {job.exit_code(name) for name in ("n1", "n2", "n3", "n6", "n7")} == {0}


@contextmanager
def running_job() -> Iterator[Job]:
    """Run a coordinator for as long as the block lasts, and end what was started at its end."""
    with tempfile.TemporaryDirectory() as folder, Job(Path(folder)) as job:
        yield job


def main() -> None:
    """Walk, and say what was seen."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--slowly", action="store_true", help="take a step when Enter is pressed")
    slowly = parser.parse_args().slowly
    with running_job() as job:
        print(f"coordinator at {job.endpoint}, page at {job.page}/")
        for step in walk(job):
            run = step.views.run
            told = ", ".join(f"{n} {state}" for state, n in states(run).items()) or "nobody"
            print(f"{step.title}\n    round {run['round']} {run['state']}: {told}; all views agree")
            if slowly:
                input("    Enter goes on ")


if __name__ == "__main__":
    main()
