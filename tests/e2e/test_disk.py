"""A disk of 256 KiB that is full, under the coordinator's journal and under the file backend."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import Agent, assert_agree, ending
from tests.e2e.netns import Machine, NetworkCluster, running_network

pytestmark = [pytest.mark.netns, pytest.mark.timeout(150)]

DISK_BYTES = 256 * 1024
QUIET_S = 1.5

INTERVAL_S = 0.7
QUICK = f"keep_alive_interval={INTERVAL_S},keep_alive_max_attempt=3"


class Disk:
    """A folder with little space, as the programs of a test see it."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        self.folder = folder
        machine.mount_disk(folder, DISK_BYTES)
        self._filler = machine.seen(folder) / "filler"

    def fill(self) -> None:
        """Leave no byte."""
        with self._filler.open("wb", buffering=0) as file:
            while True:
                try:
                    file.write(bytes(4096))
                except OSError:
                    return

    def free(self) -> None:
        self._filler.unlink()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[NetworkCluster]:
    """Everything runs on one machine."""
    with running_network(1) as network, ending(NetworkCluster(tmp_path, network)) as cluster:
        yield cluster
        print(cluster.report())


@pytest.fixture
def disk(cluster: NetworkCluster, tmp_path: Path) -> Disk:
    folder = tmp_path / "disk"
    folder.mkdir()
    return Disk(cluster.host, folder)


def meet(agents: list[Agent]) -> int:
    """Let all agents join one world; return its round."""
    joined = [agent.next("joined") for agent in agents]
    assert_agree(joined)
    return int(joined[0]["round"])


def test_a_full_disk_under_the_journal_costs_time_only(cluster: NetworkCluster, disk: Disk) -> None:
    """R9, R14, R16: what was answered is stored, what is not stored is not answered."""
    kept = ("--state-dir", str(disk.folder))
    coordinator = cluster.serve(*kept)
    agents = cluster.agents(3, "3:4", f"is_host=no,last_call_timeout=1,{QUICK}")
    meet(agents)
    agents[0].set("before", "1")

    disk.fill()
    agents[0].write(json.dumps(["set", "during", "x" * 8192]))
    why = "No space left on device. Free space there"
    coordinator.line(f"Writing to the journal .* failed: {why}; agents wait")
    newcomer = cluster.agent("3:4", f"is_host=no,last_call_timeout=1,{QUICK}")
    newcomer.next("connected")
    newcomer.line(f"nothing can be stored: .*{why}")
    for agent in (*agents, newcomer):
        agent.assert_quiet(3 * INTERVAL_S / 4)

    disk.free()
    agents[0].next("set")
    for agent in agents:
        agent.next("told")
    assert meet([*agents, newcomer]) == 1


def test_what_was_answered_outlives_a_coordinator_that_dies_on_a_full_disk(
    cluster: NetworkCluster, disk: Disk
) -> None:
    """R14: values that were set are there, one that was not answered is there or not."""
    kept = ("--state-dir", str(disk.folder))
    coordinator = cluster.serve(*kept)
    agents = cluster.agents(2, "2:2", f"is_host=no,{QUICK}")
    meet(agents)
    agents[0].set("before", "1")
    disk.fill()
    agents[0].write(json.dumps(["set", "during", "x" * 8192]))
    coordinator.line("agents wait")
    coordinator.kill()
    coordinator = cluster.serve(*kept)
    coordinator.line("agents wait")
    agents[1].assert_quiet(QUIET_S)
    disk.free()
    agents[0].next("set")
    assert agents[1].get("before") == "1"
    assert agents[1].get("during") == "x" * 8192
    assert cluster.run_status()["round"] == 0


def test_a_full_disk_under_the_file_backend_costs_time_only(
    cluster: NetworkCluster, disk: Disk
) -> None:
    """R9: nobody's heartbeat can be stored, and nobody takes that for a death."""
    state = disk.folder / "state"
    agents = cluster.direct_agents_on([cluster.host] * 2, state, "2:2", QUICK)
    meet(agents)
    disk.fill()
    agents[0].assert_quiet(4 * INTERVAL_S)
    for agent in agents:
        agent.line("no heartbeat: .*No space left on device. Free space there")
    disk.free()
    agents[0].assert_quiet(3 * INTERVAL_S)
    agents[1].assert_quiet()
    agents[1].kill()
    agents[0].next("told")
