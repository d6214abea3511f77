"""The figures of a coordinator for Prometheus: its text format, its conventions for names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from quorate.coordinator.engine.glimpse import PARTICIPANT, count_standings
from quorate.coordinator.runs.tally import OTHER_RUNS, Histogram, Tally
from quorate.coordinator.server import CoordinatorServer

__all__ = ["CONTENT_TYPE", "exposition"]


def exposition(server: CoordinatorServer) -> bytes:
    """Return the figures of a coordinator as text."""
    registry = CollectorRegistry()
    registry.register(_CoordinatorCollector(server))
    return generate_latest(registry)


class _CoordinatorCollector(Collector):
    """Reads what the coordinator has counted, and what is true now."""

    def __init__(self, server: CoordinatorServer) -> None:
        self._server = server

    def describe(self) -> Iterable[Metric]:
        """Promise nothing, so that nothing is read before it is asked for."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield the figures."""
        server = self._server
        yield _gauge(
            "quorate_deciding", "Whether this coordinator decides.", not server.hindrance()
        )
        yield _gauge("quorate_runs", "Runs that are known.", len(server.runs))
        yield _gauge("quorate_connections", "Connections that are open.", server.connections)
        yield _gauge(
            "quorate_held_requests",
            "Requests that wait for something that has not happened yet.",
            server.held_requests,
        )
        yield from _totals(server.tally)
        yield from _counted_by_run(server.tally)
        yield from _present(server)


def _totals(tally: Tally) -> Iterator[Metric]:
    for name, text, value in (
        ("quorate_connections_opened", "Connections that were opened.", tally.connections_opened),
        ("quorate_received_bytes", "Bytes that peers have sent.", tally.received_bytes),
        ("quorate_sent_bytes", "Bytes that peers were sent.", tally.sent_bytes),
    ):
        yield CounterMetricFamily(name, text, value)
    for name, text, histogram in (
        (
            "quorate_detection_seconds",
            "From the last sign of life of a node to its loss.",
            tally.detection,
        ),
        (
            "quorate_regroup_seconds",
            "From the first change of a world to the next world.",
            tally.regroup,
        ),
        ("quorate_commit_seconds", "How long the ledger took to store a batch.", tally.commit),
    ):
        yield _histogram(name, text, histogram)


def _counted_by_run(tally: Tally) -> Iterator[Metric]:
    rounds = CounterMetricFamily(
        "quorate_rounds_completed", "Rounds that were completed.", labels=["run"]
    )
    joins = CounterMetricFamily("quorate_joins", "Nodes that have come.", labels=["run"])
    losses = CounterMetricFamily(
        "quorate_losses", "Nodes that have gone, by cause.", labels=["run", "cause"]
    )
    for run_id, counted in tally.runs.items():
        rounds.add_metric([run_id], counted.rounds_completed)
        joins.add_metric([run_id], counted.joins)
        for cause, count in counted.losses.items():
            losses.add_metric([run_id, cause], count)
    yield from (rounds, joins, losses)


def _present(server: CoordinatorServer) -> Iterator[Metric]:
    """Yield how many nodes stand where now; runs that are not counted by name, together."""
    runs: dict[str, Counter[str]] = {}
    for run_id, run in server.runs.items():
        name = run_id if run_id in server.tally.runs else OTHER_RUNS
        runs.setdefault(name, Counter()).update(count_standings(run))
    size = GaugeMetricFamily(
        "quorate_world_size_nodes", "Nodes with a rank in the present world.", labels=["run"]
    )
    nodes = GaugeMetricFamily(
        "quorate_nodes", "Attached nodes, by where they stand.", labels=["run", "state"]
    )
    for name, counts in runs.items():
        size.add_metric([name], counts[PARTICIPANT])
        for state, count in counts.items():
            nodes.add_metric([name, state], count)
    yield from (size, nodes)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, float(value))


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    buckets: list[tuple[str, float]] = []
    total = 0
    for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        total += count
        buckets.append(("+Inf" if bound == float("inf") else str(bound), total))
    return HistogramMetricFamily(name, text, buckets, histogram.sum)
