"""From samples to figures: medians, ratios, growth, and who was the bottleneck. Pure.

The document that `quorate bench --json` prints is defined here.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

__all__ = [
    "FORMAT",
    "LOAD",
    "MACHINE",
    "MEASURES",
    "NOBODY",
    "SERVER",
    "Measure",
    "Row",
    "Sample",
    "Summary",
    "bottleneck",
    "document",
    "growth_exponent",
    "percentile",
    "series",
]

# Counts the forms that the document has had.
FORMAT = 1

# A process that uses this much of a core has hardly been waiting for another one.
BUSY_SHARE = 0.8

# One that could have run, and had no core for this much of the time, was held up by others.
CROWDED_SHARE = 0.2

SERVER = "server"
LOAD = "load generator"
MACHINE = "machine"
NOBODY = "nobody"


class Measure(NamedTuple):
    """Something that is measured.

    Args:
        name: Its key in the document, with the unit last.
        title: What people read.
        unit: As people write it.
    """

    name: str
    title: str
    unit: str


# What the processes have used of the machine.
USAGE = (
    Measure("server_cpu_s", "server CPU", "s"),
    Measure("load_cpu_s", "load CPU", "s"),
    Measure("core_wait_s", "wait for a core", "s"),
)

# What the backend has stored meanwhile; each backend has one of them at most.
STORED = (
    Measure("journal_bytes", "journal", "B"),
    Measure("etcd_writes", "writes to etcd", ""),
)


def _latencies(operation: str) -> tuple[Measure, ...]:
    return (
        Measure(f"{operation}_per_s", operation, "/s"),
        Measure(f"{operation}_p50_s", "p50", "s"),
        Measure(f"{operation}_p99_s", "p99", "s"),
    )


def _step(step: str, title: str) -> tuple[Measure, ...]:
    """Return what a simulated step costs the coordinator."""
    return (
        Measure(f"{step}_cpu_s", f"{title}: CPU", "s"),
        Measure(f"{step}_longest_s", f"{title}: longest turn", "s"),
        Measure(f"{step}_up_per_node", f"{title}: messages up", "/node"),
        Measure(f"{step}_down_per_node", f"{title}: messages down", "/node"),
        Measure(f"{step}_up_bytes_per_node", f"{title}: bytes up", "B/node"),
        Measure(f"{step}_down_bytes_per_node", f"{title}: bytes down", "B/node"),
    )


def _ledger(step: str, title: str) -> tuple[Measure, ...]:
    return (
        Measure(f"{step}_stored_bytes_per_node", f"{title}: written", "B/node"),
        Measure(f"{step}_ledger_cpu_s", f"{title}: CPU of the ledger", "s"),
    )


# What each benchmark measures. The first of each is what backends are compared by.
MEASURES: Mapping[str, tuple[Measure, ...]] = {
    "join": (
        Measure("seconds", "until all have joined", "s"),
        *USAGE,
        Measure("sent_bytes_per_agent", "sent", "B/agent"),
        Measure("received_bytes_per_agent", "received", "B/agent"),
        *STORED,
    ),
    "regroup": (
        Measure("world_s", "told to new world", "s"),
        Measure("world_median_s", "the same, median agent", "s"),
        Measure("join_s", "first join, connected", "s"),
        Measure("world_per_join", "new world / first join", ""),
        Measure("told_s", "killed to told", "s"),
        Measure("told_median_s", "the same, median agent", "s"),
        *USAGE,
        *STORED,
    ),
    "steady": (
        Measure("cpu_percent", "server CPU", "% of a core"),
        Measure("resident_bytes_per_agent", "memory", "B/agent"),
        Measure("sent_bytes_per_agent_per_s", "sent", "B/agent/s"),
        Measure("received_bytes_per_agent_per_s", "received", "B/agent/s"),
        Measure("load_cpu_percent", "load CPU", "% of a core"),
        Measure("core_wait_s", "wait for a core", "s"),
        *STORED,
    ),
    "store": (
        *_latencies("set"),
        *_latencies("get"),
        *_latencies("wait"),
        *_latencies("add"),
        *STORED,
    ),
    "reattach": (
        Measure("seconds", "killed to all attached", "s"),
        Measure("first_s", "killed to first attached", "s"),
        *USAGE,
        Measure("changed", "agents told of a change", ""),
    ),
    "simulate": (
        *_step("join", "cold join"),
        *_ledger("join", "cold join"),
        Measure("held_bytes_per_node", "memory", "B/node"),
        Measure("state_bytes_per_node", "all that is stored", "B/node"),
        Measure("state_compressed_bytes_per_node", "all that is stored, compressed", "B/node"),
        Measure("steady_cpu_percent", "nothing to do: CPU", "% of a core"),
        Measure("steady_longest_s", "nothing to do: longest turn", "s"),
        Measure("steady_up_per_node_per_s", "nothing to do: messages each way", "/node/s"),
        Measure("steady_up_bytes_per_node_per_s", "nothing to do: bytes up", "B/node/s"),
        Measure("steady_down_bytes_per_node_per_s", "nothing to do: bytes down", "B/node/s"),
        Measure("look_cpu_s", "a look at all nodes: CPU", "s"),
        Measure("look_longest_s", "a look at all nodes: longest turn", "s"),
        Measure("look_bytes", "a look at all nodes: answer", "B"),
        Measure("world_cpu_s", "the world's record: CPU", "s"),
        Measure("world_longest_s", "the world's record: longest turn", "s"),
        Measure("world_parts", "the world's record: parts", ""),
        Measure("world_bytes", "the world's record: answers", "B"),
        *_step("loss", "told of a loss"),
        *_step("regroup", "regroup"),
        *_ledger("regroup", "regroup"),
        Measure("peak_bytes_per_node", "memory at its greatest", "B/node"),
        Measure("load_cpu_s", "coordinator restarted: CPU to load", "s"),
        *_step("reattach", "all come back"),
    ),
}


@dataclass(frozen=True)
class Sample:
    """One measurement.

    Args:
        values: What was measured, by the names of `MEASURES`; empty if it did not end in time.
        limited_by: Who was the bottleneck.
    """

    values: Mapping[str, float]
    limited_by: str = NOBODY


class Summary(NamedTuple):
    """The median, the least and the greatest of several values."""

    median: float
    least: float
    greatest: float


@dataclass
class Row:
    """The samples of one backend at one size.

    Args:
        backend: Its name.
        nodes: How many agents there were.
        samples: In the order in which they were taken.
    """

    backend: str
    nodes: int
    samples: list[Sample]

    @property
    def is_over(self) -> bool:
        """Whether a sample was not done in time: another one would not be either."""
        return self.late > 0

    @property
    def late(self) -> int:
        """How many samples were not done in time."""
        return sum(not sample.values for sample in self.samples)

    @property
    def limited_by(self) -> str:
        """Who was the bottleneck most of the times."""
        return statistics.mode(sample.limited_by for sample in self.samples)

    def summary(self, name: str) -> Summary | None:
        """Return the figures of one measure, `None` if it was not measured.

        A row with a sample that was not done in time has none: those of its other samples would be
        of the quick ones alone.
        """
        if self.is_over:
            return None
        values = [sample.values[name] for sample in self.samples if name in sample.values]
        if not values:
            return None
        return Summary(statistics.median(values), min(values), max(values))


def bottleneck(servers: Sequence[float], loads: Sequence[float], core_wait: float) -> str:
    """Return who was the bottleneck.

    Args:
        servers: For each server process, its CPU time as a share of the time that passed.
        loads: The same for each load process.
        core_wait: The share in which one of them could have run and had no core: more processes
            than cores, or other programs.
    """
    if core_wait >= CROWDED_SHARE:
        return MACHINE
    server, load = max(servers, default=0.0), max(loads, default=0.0)
    if max(server, load) >= BUSY_SHARE:
        return SERVER if server >= load else LOAD
    return NOBODY


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that a share of all values does not exceed."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def series(rows: Sequence[Row], name: str) -> dict[str, list[tuple[int, Summary]]]:
    """Return the figures of one measure by backend, each with its number of nodes, which grows.

    Args:
        rows: The samples, in any order; backends stay in theirs.
        name: The name of the measure; rows that do not have it are passed over.
    """
    found: dict[str, list[tuple[int, Summary]]] = {row.backend: [] for row in rows}
    for row in sorted(rows, key=lambda row: row.nodes):
        summary = row.summary(name)
        if summary is not None:
            found[row.backend].append((row.nodes, summary))
    return found


def growth_exponent(smaller: tuple[int, float], larger: tuple[int, float]) -> float:
    """Return with which power of the number of nodes a value grows.

    Args:
        smaller: A number of nodes, and the value there.
        larger: The same for more nodes.
    """
    return math.log(larger[1] / smaller[1]) / math.log(larger[0] / smaller[0])


def document(
    bench: str, options: Mapping[str, Any], machine: Mapping[str, Any], rows: Sequence[Row]
) -> dict[str, Any]:
    """Return everything that was measured, as the JSON document has it.

    Args:
        bench: Its name, one of `MEASURES`.
        options: What it was asked for.
        machine: What it ran on.
        rows: The samples.
    """
    return {
        "quorate_bench": FORMAT,
        "bench": bench,
        "options": dict(options),
        "machine": dict(machine),
        "rows": [_row(bench, row) for row in rows],
    }


def _row(bench: str, row: Row) -> dict[str, Any]:
    figures = {}
    for measure in MEASURES[bench]:
        summary = row.summary(measure.name)
        if summary is not None:
            figures[measure.name] = {
                "median": summary.median,
                "min": summary.least,
                "max": summary.greatest,
            }
    return {
        "backend": row.backend,
        "nodes": row.nodes,
        "limited_by": row.limited_by,
        "in_time": not row.is_over,
        "figures": figures,
        "samples": [asdict(sample) for sample in row.samples],
    }
