"""`quorate bench`: it runs, and its figures are sound. How good they are is not judged here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quorate.etcd.server import EtcdServer
from tests.e2e.cluster import Cluster

pytestmark = pytest.mark.timeout(60)


def two_hundred_agents_join(cluster: Cluster, backend: str, *flags: str) -> dict[str, Any]:
    bench = cluster.quorate(
        *("bench", "join", "--nodes", "200", "--repeat", "2", "--json", "--backend", backend),
        *flags,
    )
    assert bench.exit_code(50.0) == 0, bench.report()
    assert not bench.stderr
    (line,) = bench.stdout
    figures: dict[str, Any] = json.loads(line)
    assert figures["bench"] == "join"
    assert figures["nodes"] == 200
    seconds = figures["seconds"]
    assert len(seconds) == 2
    assert 0 < figures["min_s"] == min(seconds)
    assert figures["min_s"] <= figures["median_s"] <= figures["max_s"] == max(seconds)
    return figures


@pytest.mark.parametrize("backend", ["quorate", "memory"])
def test_two_hundred_agents_join(cluster: Cluster, backend: str, tmp_path: Path) -> None:
    """With a token, in memory."""
    token = tmp_path / "token"
    token.write_text("a-shared-secret-of-ours")
    token.chmod(0o600)
    flags = ("--token-file", str(token)) if backend == "memory" else ()
    figures = two_hundred_agents_join(cluster, backend, *flags)
    assert figures["backend"] == backend
    assert "writes" not in figures


@pytest.mark.etcd
def test_two_hundred_agents_join_through_two_coordinators_on_etcd(cluster: Cluster) -> None:
    """The writes are those of a few batches, not of two hundred agents."""
    figures = two_hundred_agents_join(cluster, "etcd")
    assert len(figures["writes"]) == 2
    assert 0 < figures["median_writes"] < 50


@pytest.mark.etcd
def test_an_etcd_that_is_given_is_left_as_it_was(cluster: Cluster) -> None:
    with EtcdServer() as server, server.get_client() as client:
        client.put(b"/quorate/others", b"x")
        bench = cluster.quorate(
            *("bench", "join", "--nodes", "20", "--repeat", "1"),
            *("--backend", f"etcd://{server.get_endpoint()}"),
        )
        assert bench.exit_code(50.0) == 0, bench.report()
        assert "writes to etcd" in bench.stdout[0]
        assert [pair.key for pair in client.range(b"\0", b"\0").kvs] == [b"/quorate/others"]


@pytest.mark.parametrize(
    ("backend", "message"),
    [("paper", "The backend 'paper' is unknown: use"), ("etcd://127.0.0.1:1", "a majority")],
)
def test_a_backend_that_is_none_is_told(cluster: Cluster, backend: str, message: str) -> None:
    bench = cluster.quorate("bench", "join", "--nodes", "1", "--backend", backend)
    assert bench.exit_code() > 0
    (line,) = bench.stderr
    assert message in line


def test_for_people_the_figures_are_in_one_line(cluster: Cluster) -> None:
    bench = cluster.quorate("bench", "join", "--nodes", "20", "--repeat", "1", name="bench")
    assert bench.exit_code() == 0, bench.report()
    assert len(bench.stdout) == 1
    assert "20" in bench.stdout[0]
    assert "Traceback" not in bench.report()
