"""The load processes of one measurement, as the command sees them: one crowd, in several parts."""

from __future__ import annotations

import contextlib
import multiprocessing
import resource
import secrets
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from quorate.bench.subjects import without_name_service
from quorate.bench.tasks import (
    Begin,
    Close,
    Done,
    Join,
    Places,
    Report,
    Task,
    Trouble,
    decode_report,
    encode,
)
from quorate.clock import Clock, SystemClock
from quorate.errors import RendezvousConnectionError, RendezvousError
from quorate.launch.wards import Wards
from quorate.program import command_of, with_own_path

__all__ = ["Fleet", "shares"]

Kind = TypeVar("Kind", bound=Report)

# What a load process may take beyond the limit of what it was told to do.
ANSWER_SLACK_S = 30.0

# To start Python, import torch where it is needed, and make the agents.
BEGIN_TIMEOUT_S = 120.0

# Sockets of a load process, and some for everything else.
SPARE_DESCRIPTORS = 256

GRACE_S = 1.0


def shares(nodes: int, processes: int) -> list[range]:
    """Return which agents each load process holds: all, evenly."""
    bounds = [nodes * number // processes for number in range(processes + 1)]
    return [range(first, last) for first, last in pairwise(bounds)]


class Fleet:
    """Load processes that are started for one measurement, and killed at the end.

    Args:
        kind: The kind of agents, see `quorate.bench.load`.
        parts: The numbers of the agents of each process.
        limit_s: How long blocking agents may try to join.
        environment: The environment of the processes; it may name a token and the files of TLS.
        clock: Measures how long answers take.

    Raises:
        RendezvousConnectionError: A process may not open so many sockets.
    """

    def __init__(
        self,
        kind: str,
        parts: Sequence[range],
        limit_s: float,
        environment: Mapping[str, str],
        clock: Clock | None = None,
    ) -> None:
        _require_descriptors(max(map(len, parts)))
        self._kind = kind
        self._endpoints: list[str] = []
        self._parts = list(parts)
        self._limit_s = limit_s
        self._environment = without_name_service(environment)
        self._clock = clock or SystemClock()
        self._closing = contextlib.ExitStack()
        self._loads: list[_Load] = []

    def __enter__(self) -> Self:
        """Start the processes."""
        folder = self._closing.enter_context(tempfile.TemporaryDirectory(prefix="quorate-load-"))
        wards = self._closing.enter_context(Wards(GRACE_S))
        try:
            for number in range(len(self._parts)):
                log = Path(folder) / f"{number}.log"
                self._loads.append(_Load(self._kind, self._limit_s, log, wards, self._environment))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Kill the processes."""
        for load in self._loads:
            load.kill()
        self._closing.close()

    @property
    def pids(self) -> list[int]:
        """The load processes that live."""
        return [load.pid for load in self._loads]

    def meet_at(self, endpoints: list[str]) -> None:
        """Tell where the agents connect; call it before anything else."""
        self._endpoints = endpoints

    def begin(self, nodes: int, min_nodes: int) -> None:
        """Make all agents of a new run; a second call is for a run of its own.

        Args:
            nodes: The size of the run's first world.
            min_nodes: The least size of a later one.
        """
        self._begin(self._parts, nodes, min_nodes)

    def rehearse(self, nodes: int, limit_s: float) -> None:
        """Let a few agents join a run and close it, so that nobody does it for the first time.

        Args:
            nodes: About how many.
            limit_s: How long it may take.
        """
        each = -(-nodes // len(self._parts))
        parts = [range(part.start, part.start + min(each, len(part))) for part in self._parts]
        self._begin(parts, sum(map(len, parts)), 1)
        self.ask(Join(limit_s), Places, limit_s)
        self.ask(Close(), Done, limit_s)

    def _begin(self, parts: Sequence[range], nodes: int, min_nodes: int) -> None:
        run_id = f"bench-{secrets.token_hex(4)}"
        for load, part in zip(self._loads, parts, strict=True):
            load.tell(Begin(run_id, self._endpoints, nodes, min_nodes, part.start, len(part)))
        self.answers(Done, BEGIN_TIMEOUT_S)

    def ask(self, task: Task, kind: type[Kind], timeout_s: float) -> list[Kind]:
        """Let all processes do something, and return their reports.

        Args:
            task: What to do.
            kind: The kind of the reports.
            timeout_s: How long it may take by itself.

        Raises:
            RendezvousError: One of them could not.
        """
        self.tell(task)
        return self.answers(kind, timeout_s)

    def tell(self, task: Task) -> None:
        """Let all processes do something; `answers` has their reports."""
        for load in self._loads:
            load.tell(task)

    def answers(self, kind: type[Kind], timeout_s: float) -> list[Kind]:
        """Return the reports on what was told; arguments and errors as for `ask`."""
        deadline_s = self._clock.monotonic() + timeout_s + ANSWER_SLACK_S
        reports: list[Kind] = []
        for load in self._loads:
            report = load.answer(deadline_s - self._clock.monotonic())
            if isinstance(report, Trouble):
                raise RendezvousError(f"The agents could not do their part: {report.message}")
            assert isinstance(report, kind), report
            reports.append(report)
        return reports

    def kill_last(self) -> None:
        """Kill -9 the last process, with its agents."""
        self._loads.pop().kill()
        self._parts.pop()


class _Load:
    """One load process."""

    def __init__(
        self, kind: str, limit_s: float, log: Path, wards: Wards, environment: Mapping[str, str]
    ) -> None:
        self._log = log
        self._wards = wards
        self._connection, theirs = multiprocessing.Pipe()
        descriptor = theirs.fileno()
        command = command_of("quorate.bench.load", str(descriptor), kind, str(limit_s))
        with theirs, log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[descriptor],
                start_new_session=True,
                env=with_own_path(environment),
            )
        self.pid = self._process.pid
        wards.add(self.pid)

    def tell(self, task: Task) -> None:
        """Give it something to do."""
        with self._translating():
            self._connection.send_bytes(encode(task))

    def answer(self, timeout_s: float) -> Report:
        """Return its next report.

        Raises:
            RendezvousConnectionError: It has ended, or does not answer.
        """
        with self._translating():
            if not self._connection.poll(max(timeout_s, 0.0)):
                raise TimeoutError("no answer in time")
            return decode_report(self._connection.recv_bytes())

    def kill(self) -> None:
        """Kill -9 and collect it."""
        self._process.kill()
        self._process.wait()
        self._connection.close()
        self._wards.remove(self.pid)

    @contextlib.contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError) as error:
            last_word = self._log.read_text(errors="replace").rstrip().rpartition("\n")[2]
            raise RendezvousConnectionError(
                f"A load process is of no use any more ({error or 'it has ended'}): {last_word}"
            ) from error


def _require_descriptors(agents: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < agents + SPARE_DESCRIPTORS:
        raise RendezvousConnectionError(
            f"{agents} agents in one process need {agents + SPARE_DESCRIPTORS} open files, and it "
            f"may have {hard}: raise the limit (ulimit -Hn), ask for fewer nodes, or for more "
            f"--load-processes."
        )
