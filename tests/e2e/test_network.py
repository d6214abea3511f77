"""Machines of their own, and a network between them that is cut, delayed, one-way, renumbered.

Every agent is on another machine than the coordinator, and the clocks of all machines differ by
hours and days (R9). What counts is what the agents are told.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quorate.backends.journal import FILE_HEADER
from tests.conftest import busy_s, wait_until
from tests.e2e.cluster import Agent, assert_agree, ending
from tests.e2e.netns import Network, NetworkCluster, running_network

pytestmark = [pytest.mark.netns, pytest.mark.timeout(150)]

INTERVAL_S = 0.7
SILENCE_S = 3 * INTERVAL_S
QUICK = f"is_host=no,keep_alive_interval={INTERVAL_S},keep_alive_max_attempt=3"

# The coordinator looks once a second who is silent.
TOLD_WITHIN_S = SILENCE_S + 1.0

QUIET_S = 1.0

# Who is told late hears of those who were told first.
NEWS_OF_A_NEWCOMER = ("waiting to join", "come back to regroup")


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with running_network(4) as network:
        yield network


@pytest.fixture
def cluster(tmp_path: Path, network: Network) -> Iterator[NetworkCluster]:
    """The coordinator runs on the first machine already."""
    with ending(NetworkCluster(tmp_path, network)) as cluster:
        try:
            cluster.serve()
            yield cluster
            print(cluster.report())
        finally:
            network.heal()


def meet(agents: list[Agent]) -> list[dict[str, Any]]:
    """Let all agents join one world; return their places."""
    joined = [agent.next("joined") for agent in agents]
    assert_agree(joined)
    return joined


def three_in_a_world(cluster: NetworkCluster, conf: str = QUICK) -> list[Agent]:
    agents = cluster.agents_on(cluster.others, "2:3", conf)
    meet(agents)
    return agents


def told(agents: list[Agent], *reasons: str) -> None:
    """All agents are told one of these reasons."""
    for agent in agents:
        told = agent.next("told")["reason"]
        assert any(reason in told for reason in reasons), agent.report()


def assert_in_time(agents: list[Agent], since_s: float) -> None:
    """What all have read last has come neither before the silence was over nor late."""
    slack_s = 1.0 + busy_s()
    for agent in agents:
        after_s = agent.last_at_s - since_s
        print(f"told after {after_s:.1f} s")
        assert SILENCE_S - INTERVAL_S < after_s < TOLD_WITHIN_S + slack_s, agent.report()


def lost_in_time(survivors: list[Agent], since_s: float) -> None:
    """The survivors are told of a silent member, neither early nor late, and go on without it."""
    told(survivors, "lost: it was silent")
    assert_in_time(survivors, since_s)
    assert {place["round"] for place in meet(survivors)} == {1}


def back_as_a_newcomer(lost: Agent, survivors: list[Agent]) -> None:
    told([lost], "declared lost")
    told(survivors, *NEWS_OF_A_NEWCOMER)
    assert {place["round"] for place in meet([lost, *survivors])} == {2}


def all_connected(cluster: NetworkCluster) -> bool:
    nodes = cluster.run_status()["nodes"]
    return all(node["connected"] and node["heard_s_ago"] < INTERVAL_S for node in nodes)


def assert_undisturbed(cluster: NetworkCluster, agents: list[Agent]) -> None:
    """Nobody has been told anything since, nor is now, and all are connected."""
    wait_until(lambda: all_connected(cluster), timeout_s=15.0, what="all agents to be heard")
    for agent in agents:
        agent.assert_quiet(QUIET_S / len(agents))
    status = cluster.run_status()
    assert (status["round"], status["state"], len(status["nodes"])) == (0, "complete", 3)


def test_a_member_that_is_cut_off_is_lost_and_comes_back_as_a_newcomer(
    cluster: NetworkCluster,
) -> None:
    """R8: told in time; R1, R2: its old world stands for it until it hears, and is never mended."""
    *survivors, lost = three_in_a_world(cluster)
    cut_s = time.monotonic()
    cluster.network.isolate(cluster.others[-1])
    lost_in_time(survivors, cut_s)
    lost.assert_quiet()
    cluster.network.heal()
    back_as_a_newcomer(lost, survivors)


@pytest.mark.parametrize("direction", ["to", "from"])
def test_a_way_that_is_lost_in_one_direction_is_lost(
    cluster: NetworkCluster, direction: str
) -> None:
    """R8: who is heard and hears nothing is no member either, nor who only hears."""
    lost, *survivors = three_in_a_world(cluster)
    machine = cluster.others[0]
    ends = (machine, cluster.host) if direction == "to" else (cluster.host, machine)
    cut_s = time.monotonic()
    cluster.network.cut(*ends)
    lost_in_time(survivors, cut_s)
    cluster.network.heal()
    back_as_a_newcomer(lost, survivors)


def test_a_machine_that_loses_its_power_is_lost_without_a_word(cluster: NetworkCluster) -> None:
    """R8: neither an end nor a reset of its connection is seen; who boots there is new."""
    agents = three_in_a_world(cluster)
    machine = cluster.others[1]
    victim = agents.pop(1)
    machine.set_link("down")
    lost_s = victim.kill()
    lost_in_time(agents, lost_s)
    machine.set_link("up")
    (newcomer,) = cluster.agents_on([machine], "2:3", QUICK)
    told(agents, *NEWS_OF_A_NEWCOMER)
    assert {place["round"] for place in meet([newcomer, *agents])} == {2}


def test_a_coordinator_that_nobody_reaches_declares_nobody_lost(cluster: NetworkCluster) -> None:
    """R9, R11: for longer than it would wait for one of them."""
    agents = three_in_a_world(cluster)
    cluster.network.isolate(cluster.host)
    agents[0].assert_quiet(2 * SILENCE_S)
    cluster.network.heal()
    assert_undisturbed(cluster, agents)


def test_a_coordinator_whose_machine_boots_again_finds_its_agents(cluster: NetworkCluster) -> None:
    """R11, R14: their connections are half open, and its journal ends in half a record."""
    agents = three_in_a_world(cluster)
    cluster.host.set_link("down")
    cluster.programs[0].kill()
    journal = cluster.state_folder / f"coordinator-{cluster.port}.journal"
    journal.write_bytes(journal.read_bytes() + journal.read_bytes()[FILE_HEADER.size :][:100])
    cluster.serve().line("the last 100 bytes of the journal were no whole record")
    cluster.host.set_link("up")
    assert_undisturbed(cluster, agents)


def test_a_slow_and_lossy_network_costs_time_only(cluster: NetworkCluster) -> None:
    """R11: 200 ms each way and 5 % of all packets lost."""
    for machine in cluster.others:
        cluster.network.arrange(machine, cluster.host, delay_s=0.2, loss=0.05)
        cluster.network.arrange(cluster.host, machine, delay_s=0.2, loss=0.05)
    conf = "is_host=no,keep_alive_interval=2,keep_alive_max_attempt=4"
    agents = three_in_a_world(cluster, conf)
    agents[0].assert_quiet(4.0)
    assert_undisturbed(cluster, agents)


def test_a_member_whose_address_changes_keeps_its_place(cluster: NetworkCluster) -> None:
    """R11: its session comes back from the new address, at which others reach it from then on."""
    agents = three_in_a_world(cluster)
    machine = cluster.others[0]
    former, new = machine.addr, "10.83.0.77"
    machine.use_address(new)
    try:
        assert_undisturbed(cluster, agents)
        agents.pop().leave("enough")
        told(agents, "left: enough")
        assert {place["leader_addr"] for place in meet(agents)} == {new}
    finally:
        machine.use_address(former)


def test_nodes_without_a_coordinator_need_no_common_clock_either(
    cluster: NetworkCluster, tmp_path: Path
) -> None:
    """R9: a last call ends, a silent member is lost, and nobody else is."""
    conf = f"keep_alive_interval={INTERVAL_S},keep_alive_max_attempt=3,last_call_timeout=1"
    agents = cluster.direct_agents_on(cluster.others, tmp_path / "state", "2:4", conf)
    meet(agents)
    agents[0].assert_quiet(SILENCE_S + INTERVAL_S)
    killed_s = agents.pop(0).kill()
    told(agents, "")
    assert_in_time(agents, killed_s)
    assert {place["round"] for place in meet(agents)} == {1}
