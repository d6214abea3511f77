"""How often do two agents recover from the crash of a worker? By hand, from the top of a checkout:

python -m tests.e2e.recovery_loop 10

Each time two torchruns train, the worker of each is killed once, and the training is to end well.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import pytest

from quorate.api import free_port
from tests.e2e.cluster import running_cluster
from tests.e2e.torchrun_cluster import STARTED_WITHIN_S, TorchrunCluster, by_rank

MAX_RESTARTS = 3


def recover_from_crashes(torch_cluster: TorchrunCluster) -> bool:
    """Train with two agents, kill each one's worker once; return whether all of it ended well."""
    agents = torch_cluster.agents(2, "2", max_restarts=MAX_RESTARTS)
    agents[0].trains(2)
    for round, victim in enumerate(agents, 1):
        torch_cluster.kill_worker(victim)
        agents = by_rank(agents, round)
        agents[0].lines("resumed .* world 2", round, STARTED_WITHIN_S)
    torch_cluster.release()
    return all(agent.exit_code(STARTED_WITHIN_S) == 0 for agent in agents)


def main() -> None:
    """Try as often as the command line asks for, and print the score."""
    tries = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    recovered = 0
    for number in range(1, tries + 1):
        started_at_s = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            try:
                with running_cluster(Path(folder), free_port()) as cluster:
                    recovered += recover_from_crashes(TorchrunCluster(cluster))
            except pytest.fail.Exception as failure:
                print(failure)
        took_s = time.monotonic() - started_at_s
        print(f"{recovered} of {number} runs recovered from 2 crashes each ({took_s:.0f} s)")


if __name__ == "__main__":
    main()
