"""`quorate bench`: it runs, and its figures are sound. How good they are is not judged here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quorate.bench.figures import FORMAT, MEASURES
from quorate.etcd.server import EtcdServer
from tests.e2e.cluster import Cluster

pytestmark = pytest.mark.timeout(150)


def measured(cluster: Cluster, bench: str, *arguments: str) -> list[dict[str, Any]]:
    """Run a benchmark; return its rows, whose figures are those of its samples."""
    program = cluster.quorate("bench", bench, *arguments, "--json", name="bench")
    assert program.exit_code(50.0) == 0, program.report()
    assert not program.stderr, program.report()
    (line,) = program.stdout
    made: dict[str, Any] = json.loads(line)
    assert made["quorate_bench"] == FORMAT
    assert made["bench"] == bench
    rows: list[dict[str, Any]] = made["rows"]
    names = {measure.name for measure in MEASURES[bench]}
    for row in rows:
        assert row["in_time"]
        assert row["figures"].keys() <= names
        assert row["samples"]
    return rows


def test_a_join_is_compared_with_the_floor_and_the_direct_way(cluster: Cluster) -> None:
    backends = ("--backend", "floor", "--backend", "memory", "--backend", "file")
    rows = measured(cluster, "join", "--nodes", "4", "--repeat", "1", *backends)
    assert [(row["backend"], row["nodes"]) for row in rows] == [
        (backend, 4) for backend in ("floor", "memory", "file")
    ]
    for row in rows:
        seconds = row["figures"]["seconds"]
        assert 0 < seconds["min"] <= seconds["median"] <= seconds["max"]
        assert row["figures"]["load_cpu_s"]["min"] > 0
    floor, memory = rows[0]["figures"], rows[1]["figures"]
    assert floor["sent_bytes_per_agent"]["median"] == 100
    assert 100 < memory["sent_bytes_per_agent"]["median"] < 1000
    assert memory["server_cpu_s"]["min"] > 0


def test_agents_in_several_processes_join_with_a_token(cluster: Cluster, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("a-shared-secret-of-ours")
    token.chmod(0o600)
    options = ("--connected", "--load-processes", "2", "--token-file", str(token))
    (row,) = measured(cluster, "join", "--nodes", "20", "--repeat", "1", *options)
    assert row["figures"]["journal_bytes"]["median"] > 0


@pytest.mark.torch
def test_torchs_own_rendezvous_is_measured(cluster: Cluster) -> None:
    backend = ("--backend", "torch-c10d")
    (row,) = measured(cluster, "join", "--nodes", "3", "--repeat", "1", *backend)
    assert row["backend"] == "torch-c10d"
    assert row["figures"]["seconds"]["median"] > 0
    assert row["figures"]["sent_bytes_per_agent"]["median"] > 100
    assert row["figures"]["received_bytes_per_agent"]["median"] > 100


def test_a_dead_agent_is_told_after_the_grace(cluster: Cluster) -> None:
    (row,) = measured(cluster, "regroup", "--nodes", "5", "--repeat", "1")
    figures = row["figures"]
    assert 2.0 <= figures["told_median_s"]["median"] <= figures["told_s"]["median"] < 10.0
    assert 0 < figures["world_median_s"]["median"] <= figures["world_s"]["median"] < 10.0
    (values,) = (sample["values"] for sample in row["samples"])
    assert values["world_per_join"] == pytest.approx(values["world_s"] / values["join_s"])


def test_idle_agents_are_watched(cluster: Cluster) -> None:
    (row,) = measured(cluster, "steady", "--nodes", "20", "--period", "4")
    figures = row["figures"]
    assert 0 < figures["cpu_percent"]["median"] < 100
    # Agents beat at half the keep-alive interval of 5 s, and look every quarter of it.
    assert figures["sent_bytes_per_agent_per_s"]["median"] > 1
    assert figures["journal_bytes"]["median"] == 0


def test_the_store_is_measured_by_operation(cluster: Cluster) -> None:
    (row,) = measured(cluster, "store", "--nodes", "3", "--repeat", "1", "--operations", "5")
    for operation in ("set", "get", "wait", "add"):
        figures = row["figures"]
        assert figures[f"{operation}_per_s"]["median"] > 0
        p50, p99 = (figures[f"{operation}_p{share}_s"]["median"] for share in (50, 99))
        assert 0 < p50 <= p99


def test_agents_come_back_to_a_coordinator_that_was_killed(cluster: Cluster) -> None:
    (row,) = measured(cluster, "reattach", "--nodes", "20", "--repeat", "1")
    figures = row["figures"]
    assert 0 < figures["first_s"]["median"] <= figures["seconds"]["median"]
    assert figures["changed"]["max"] == 0


def test_a_coordinator_is_simulated(cluster: Cluster) -> None:
    backends = ("--backend", "quorate", "--backend", "memory")
    rows = measured(cluster, "simulate", "--nodes", "10,100", *backends)
    assert [(row["backend"], row["nodes"]) for row in rows] == [
        (backend, nodes) for nodes in (10, 100) for backend in ("quorate", "memory")
    ]
    for row in rows:
        assert row["figures"].keys() == {measure.name for measure in MEASURES["simulate"]}


@pytest.mark.etcd
def test_two_coordinators_on_an_etcd_write_batches_and_leave_nothing(cluster: Cluster) -> None:
    with EtcdServer() as server, server.get_client() as client:
        client.put(b"/quorate/others", b"x")
        url = f"etcd://{server.get_endpoint()}"
        (row,) = measured(cluster, "join", "--nodes", "200", "--repeat", "1", "--backend", url)
        assert row["backend"] == "etcd (2 coordinators)"
        # The busier the machine, the smaller the batches; without any it is a write for each node.
        assert 0 < row["figures"]["etcd_writes"]["median"] < 100
        assert [pair.key for pair in client.range(b"\0", b"\0").kvs] == [b"/quorate/others"]


@pytest.mark.parametrize(
    ("bench", "backend", "message"),
    [
        ("join", "paper", "The backend 'paper' is unknown: use"),
        ("join", "etcd://127.0.0.1:1", "a majority"),
        ("steady", "floor", "'floor' is none: choose among"),
    ],
)
def test_what_cannot_be_measured_is_told_in_a_line(
    cluster: Cluster, bench: str, backend: str, message: str
) -> None:
    program = cluster.quorate("bench", bench, "--nodes", "1", "--backend", backend)
    assert program.exit_code() > 0
    (line,) = program.stderr
    assert message in line


def test_for_people_there_is_a_table(cluster: Cluster) -> None:
    bench = cluster.quorate("bench", "join", "--nodes", "20", "--repeat", "1", name="bench")
    assert bench.exit_code() == 0, bench.report()
    head, row = bench.stdout
    assert head.split()[:2] == ["nodes", "backend"]
    assert row.split()[:2] == ["20", "quorate"]
    assert not bench.stderr
