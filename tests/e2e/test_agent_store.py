"""The kinds of rendezvous in which rank 0's agent serves the workers' store, with workers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, Program

pytestmark = [pytest.mark.torch, pytest.mark.timeout(300)]

SUM_PROGRAM = str(Path(__file__).with_name("sum_program.py"))

STARTED_WITHIN_S = 120.0
SUM = r"rank (\d): sum (\d), port (\d+), agent's True"


def torchrun(cluster: Cluster, kind: str, rank: int) -> Program:
    """Start a node under torchrun."""
    conf = f"kind={kind}" + (f",rank={rank}" if kind == "static" else ",last_call_timeout=1")
    where = (f"--rdzv-endpoint={cluster.endpoint}", "--rdzv-id=job", f"--rdzv-conf={conf}")
    flags = ("--rdzv-backend=quorate", "--nnodes=2", "--max-restarts=3", "--monitor-interval=0.1")
    program = (SUM_PROGRAM, str(cluster.folder))
    command = [sys.executable, "-m", "torch.distributed.run", *where, *flags, *program]
    return cluster._start(Program, f"torchrun {rank}", command)


def quorate_run(cluster: Cluster, kind: str, rank: int) -> Program:
    """Start a node under `quorate run`."""
    flags = ("--rdzv-backend", kind, "--node-rank", str(rank), "--max-restarts", "3")
    return cluster.run("2", *flags, SUM_PROGRAM, str(cluster.folder), name=f"run {rank}")


@pytest.mark.parametrize("kind", ["c10d", "static"])
@pytest.mark.parametrize("launch", [torchrun, quorate_run])
def test_workers_meet_and_meet_again_after_a_failure(
    cluster: Cluster, launch: Callable[[Cluster, str, int], Program], kind: str
) -> None:
    """In each round at another port: what the failed ones have left there is seen by nobody."""
    nodes = [launch(cluster, kind, rank) for rank in (0, 1)]
    for node in nodes:
        assert node.exit_code(STARTED_WITHIN_S) == 0, cluster.report()
    ports: dict[str, list[str]] = {"0": [], "1": []}
    for node in nodes:
        for found in node.lines(SUM, 2):
            assert found[2] == "1"
            ports[found[1]].append(found[3])
    assert ports["0"] == ports["1"]
    assert len(set(ports["0"])) == 2
