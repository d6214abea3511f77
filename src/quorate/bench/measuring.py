"""How each benchmark takes one sample: which tasks the agents get, and what is read before, after.

Every function takes a subject, a number of nodes and the options, and returns one `Sample`.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from quorate.bench.figures import Sample, bottleneck, percentile
from quorate.bench.fleet import Fleet, shares
from quorate.bench.subjects import Service, Subject
from quorate.bench.tasks import (
    Connect,
    Join,
    Moments,
    Places,
    Reattach,
    Regroup,
    Traffic,
    Usage,
    Work,
)
from quorate.bench.threads import PEERS
from quorate.bench.usage import core_wait_s, cpu_s, resident_bytes
from quorate.clock import Clock, SystemClock
from quorate.errors import RendezvousConnectionError, RendezvousError
from quorate.program import command_of, with_own_path

__all__ = ["BENCHES", "COORDINATED_ONLY", "SIMULATED", "Options", "cores"]

# A first round, which nobody measures: whoever takes part has then done everything once.
WARM_UP_NODES = 32

# More agents than this in one load process are put into another one, if there is a core for it.
AGENTS_PER_PROCESS = 1000

# The same for agents that have a thread each.
THREADS_PER_PROCESS = 64

OPERATIONS = ("set", "get", "wait", "add")

USAGE_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Options:
    """What the user asks for beside subjects and numbers of nodes.

    Args:
        limit_s: How long each step may take.
        connected: `join`: connect before, and measure the rest.
        period_s: `steady`: how long is watched.
        operations: `store`: how many operations of a kind each agent does.
        load_processes: How many load processes there are; by default as many as are of use.
        environment: The environment of servers and load; it may name a token and the files of TLS.
        clock: The time.
    """

    limit_s: float = 300.0
    connected: bool = False
    period_s: float = 20.0
    operations: int = 20
    load_processes: int | None = None
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    clock: Clock = field(default_factory=SystemClock)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


class _Meter:
    """Reads CPU clocks before and after."""

    def __init__(self, service: Service, fleet: Fleet, clock: Clock) -> None:
        self._clock = clock
        self._servers, self._loads = service.pids, fleet.pids
        self._service = service
        self._written = service.written()
        self._began = {pid: cpu_s(pid) for pid in [*self._servers, *self._loads]}
        self._waited = {pid: core_wait_s(pid) for pid in self._began}
        self._began_s = clock.monotonic()
        self.server_cpu_s = self.load_cpu_s = self.core_wait_s = 0.0
        self.limited_by = ""
        self.elapsed_s = 0.0

    def stop(self) -> None:
        """Read them again."""
        self.elapsed_s = self._clock.monotonic() - self._began_s
        used = {pid: cpu_s(pid) - began for pid, began in self._began.items()}
        servers = [used[pid] for pid in self._servers]
        loads = [used[pid] for pid in self._loads]
        self.server_cpu_s, self.load_cpu_s = sum(servers), sum(loads)
        self.core_wait_s = max(core_wait_s(pid) - before for pid, before in self._waited.items())
        self.limited_by = bottleneck(
            [each / self.elapsed_s for each in servers],
            [each / self.elapsed_s for each in loads],
            self.core_wait_s / self.elapsed_s,
        )

    def cpu(self) -> dict[str, float]:
        """Return the CPU times, and what was stored meanwhile, as figures."""
        return {
            "server_cpu_s": self.server_cpu_s,
            "load_cpu_s": self.load_cpu_s,
            "core_wait_s": self.core_wait_s,
        } | self.written()

    def written(self) -> dict[str, float]:
        """Return what was stored meanwhile."""
        after = self._service.written()
        return {name: after[name] - before for name, before in self._written.items()}


def join(subject: Subject, nodes: int, options: Options) -> Sample:
    """Time a join: cold from the first connection, or on open connections, to the last answer."""
    with _crowd(subject, nodes, options) as (service, fleet):
        fleet.begin(nodes, nodes)
        if options.connected:
            _connect(fleet, nodes, options)
        meter = _Meter(service, fleet, options.clock)
        reports = fleet.ask(Join(options.limit_s), Places, options.limit_s)
        meter.stop()
        took_s = _took_s(reports, nodes)
        if took_s is None:
            return Sample({}, meter.limited_by)
        _require_one_world(reports, nodes)
        return Sample({"seconds": took_s} | meter.cpu() | _traffic(fleet, nodes), meter.limited_by)


def regroup(subject: Subject, nodes: int, options: Options) -> Sample:
    """Kill one of N agents; time until the others are told, and until they have their new world.

    Their first join, on open connections, is what the second one is compared with.
    """
    with _crowd(subject, nodes, options, apart=1) as (service, fleet):
        fleet.begin(nodes, max(nodes - 1, 1))
        _connect(fleet, nodes, options)
        join_s = _join_all(fleet, nodes, options)
        fleet.tell(Regroup(options.limit_s))
        fleet.kill_last()
        killed_s = options.clock.monotonic()
        meter = _Meter(service, fleet, options.clock)
        reports = fleet.answers(Moments, options.limit_s)
        told_s = sorted(told for report in reports for told in report.told_s)
        joined_s = [joined for report in reports for joined in report.ended_s]
        meter.stop()
        if len(joined_s) < nodes - 1 or len(told_s) < nodes - 1:
            return Sample({}, meter.limited_by)
        each_s = [
            joined - told
            for report in reports
            for told, joined in zip(report.told_s, report.ended_s, strict=True)
        ]
        world_s = max(joined_s) - told_s[0]
        figures = {
            "world_s": world_s,
            "join_s": join_s,
            "world_per_join": world_s / join_s,
            "world_median_s": statistics.median(each_s),
            "told_s": told_s[-1] - killed_s,
            "told_median_s": statistics.median(told_s) - killed_s,
        }
        return Sample(figures | meter.cpu(), meter.limited_by)


def steady(subject: Subject, nodes: int, options: Options) -> Sample:
    """Watch a coordinator while N agents are in a world and have nothing to do."""
    with _crowd(subject, nodes, options) as (service, fleet):
        before_bytes = sum(map(resident_bytes, service.pids))
        fleet.begin(nodes, nodes)
        _join_all(fleet, nodes, options)
        # The first beats are as close together as the joins were; they stay so, which is harder.
        held_bytes = sum(map(resident_bytes, service.pids)) - before_bytes
        before = _traffic(fleet, nodes)
        meter = _Meter(service, fleet, options.clock)
        options.clock.sleep(options.period_s)
        meter.stop()
        after = _traffic(fleet, nodes)
        per_s = {f"{name}_per_s": (after[name] - before[name]) / meter.elapsed_s for name in after}
        figures = {
            "cpu_percent": 100 * meter.server_cpu_s / meter.elapsed_s,
            "load_cpu_percent": 100 * meter.load_cpu_s / meter.elapsed_s,
            "core_wait_s": meter.core_wait_s,
            "resident_bytes_per_agent": held_bytes / nodes,
        }
        return Sample(figures | per_s | meter.written(), meter.limited_by)


def store(subject: Subject, nodes: int, options: Options) -> Sample:
    """Let N agents use the store of their round, each one operation after another."""
    with _crowd(subject, nodes, options) as (service, fleet):
        fleet.begin(nodes, nodes)
        _join_all(fleet, nodes, options)
        meter = _Meter(service, fleet, options.clock)
        figures: dict[str, float] = {}
        for operation in OPERATIONS:
            task = Work(operation, options.operations, options.limit_s)
            reports = fleet.ask(task, Moments, options.limit_s)
            durations_s = [duration for report in reports for duration in report.durations_s]
            if len(durations_s) < nodes * options.operations:
                return Sample({})
            took_s = max(max(r.ended_s) for r in reports) - min(r.began_s for r in reports)
            figures |= {
                f"{operation}_per_s": len(durations_s) / took_s,
                f"{operation}_p50_s": percentile(durations_s, 0.5),
                f"{operation}_p99_s": percentile(durations_s, 0.99),
            }
        meter.stop()
        return Sample(figures | meter.written(), meter.limited_by)


def reattach(subject: Subject, nodes: int, options: Options) -> Sample:
    """Kill the coordinator under N agents and start it again; time until all are attached."""
    with _crowd(subject, nodes, options) as (service, fleet):
        fleet.begin(nodes, nodes)
        _join_all(fleet, nodes, options)
        fleet.tell(Reattach(options.limit_s))
        killed_s = options.clock.monotonic()
        service.restart()
        meter = _Meter(service, fleet, options.clock)
        reports = fleet.answers(Moments, options.limit_s)
        meter.stop()
        attached_s = [attached for report in reports for attached in report.ended_s]
        if len(attached_s) < nodes:
            return Sample({}, meter.limited_by)
        figures = {
            "seconds": max(attached_s) - killed_s,
            "first_s": min(attached_s) - killed_s,
            "changed": float(sum(len(report.told_s) for report in reports)),
        }
        return Sample(figures | meter.cpu(), meter.limited_by)


def simulate(subject: Subject, nodes: int, options: Options) -> Sample:
    """Play a coordinator and N agents in virtual time; see `quorate.bench.simulation`."""
    command = command_of("quorate.bench.simulation", str(nodes), subject.name)
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            check=False,
            env=with_own_path(options.environment),
            timeout=options.limit_s,
        )
    except subprocess.TimeoutExpired:
        return Sample({})
    if done.returncode:
        last_word = done.stderr.decode(errors="replace").rstrip().rpartition("\n")[2]
        raise RendezvousError(f"The simulation of {nodes} nodes has failed: {last_word}")
    return Sample(json.loads(done.stdout))


BENCHES: Mapping[str, Callable[[Subject, int, Options], Sample]] = {
    "join": join,
    "regroup": regroup,
    "steady": steady,
    "store": store,
    "reattach": reattach,
    "simulate": simulate,
}

# The coordinators that a simulation has.
SIMULATED = ("quorate", "memory")

# What only agents of a coordinator can do.
COORDINATED_ONLY = BENCHES.keys() - {"join"}


@contextlib.contextmanager
def _crowd(
    subject: Subject, nodes: int, options: Options, apart: int = 0
) -> Iterator[tuple[Service, Fleet]]:
    """Start a service and its load, and let them do everything once.

    Args:
        subject: What is measured.
        nodes: How many agents there are.
        options: How many load processes.
        apart: How many of the agents, the last ones, have a process of their own.
    """
    together = nodes - apart
    each = THREADS_PER_PROCESS if subject.load in PEERS else AGENTS_PER_PROCESS
    processes = options.load_processes or max(min(cores() - 1, -(-together // each)), 1)
    parts = shares(together, min(processes, together))
    if apart:
        parts.append(range(together, nodes))
    with (
        Fleet(subject.load, parts, options.limit_s, options.environment) as fleet,
        subject.serving(nodes, options.environment) as service,
    ):
        fleet.meet_at(service.endpoints)
        if subject.is_rehearsed:
            fleet.rehearse(WARM_UP_NODES, options.limit_s)
        yield service, fleet


def _connect(fleet: Fleet, nodes: int, options: Options) -> None:
    reports = fleet.ask(Connect(options.limit_s), Moments, options.limit_s)
    if sum(len(report.ended_s) for report in reports) < nodes:
        raise RendezvousConnectionError(
            f"Not all of {nodes} agents were connected within {options.limit_s:g} s: raise --limit."
        )


def _join_all(fleet: Fleet, nodes: int, options: Options) -> float:
    """Let all join, and return how long that took."""
    reports = fleet.ask(Join(options.limit_s), Places, options.limit_s)
    took_s = _took_s(reports, nodes)
    if took_s is None:
        raise RendezvousConnectionError(
            f"Not all of {nodes} agents had joined within {options.limit_s:g} s: raise --limit."
        )
    _require_one_world(reports, nodes)
    return took_s


def _took_s(reports: list[Places], nodes: int) -> float | None:
    ended_s = [ended for report in reports for ended in report.ended_s]
    if len(ended_s) < nodes:
        return None
    return max(ended_s) - min(report.began_s for report in reports)


def _require_one_world(reports: list[Places], nodes: int) -> None:
    """Refuse a figure of a round that was none."""
    ranks = sorted(rank for report in reports for rank in report.ranks)
    worlds = {world for report in reports for world in report.worlds}
    if ranks != list(range(nodes)) or len(worlds) != 1:
        raise RendezvousConnectionError(
            "The agents did not all get their place in one world: this is a bug, please report it."
        )


def _traffic(fleet: Fleet, nodes: int) -> dict[str, float]:
    reports = fleet.ask(Usage(), Traffic, USAGE_TIMEOUT_S)
    sent = sum(report.sent_bytes for report in reports)
    received = sum(report.received_bytes for report in reports)
    if not received:
        return {}
    return {
        "sent_bytes_per_agent": sent / nodes,
        "received_bytes_per_agent": received / nodes,
    }
