"""The coordinator is killed or frozen, with its journal and without."""

from __future__ import annotations

import signal

import pytest

from tests.conftest import wait_until
from tests.e2e.cluster import Agent, Cluster, assert_agree, assert_ranks

pytestmark = pytest.mark.timeout(150)

# Long enough for another regroup to be noticed, were there one.
QUIET_S = 1.5


def world_of(agents: list[Agent], reason: str = "") -> list[dict[str, object]]:
    """Let all agents meet, if a reason is given after they were told of it."""
    for agent in agents:
        if reason:
            assert reason in agent.next("told")["reason"]
    joined = [agent.next("joined") for agent in agents]
    assert_agree(joined)
    return joined


def resumed_at_another(cluster: Cluster, former_pid: int, members: int) -> bool:
    """Return whether a new coordinator has all members of a complete round connected."""
    status = cluster.status()
    if status["coordinator"].endswith(f":{former_pid}") or not status["runs"]:
        return False
    nodes = [node for node in status["runs"][0]["nodes"] if node["state"] == "participant"]
    return len(nodes) == members and all(node["connected"] for node in nodes)


def wait_until_resumed(cluster: Cluster, former_pid: int, members: int) -> None:
    wait_until(
        lambda: resumed_at_another(cluster, former_pid, members),
        timeout_s=15.0,
        what="the members to resume",
    )


def test_with_its_journal_it_costs_nothing(cluster: Cluster) -> None:
    """R11, R14: an agent starts it again; world and store stand; a later regroup works."""
    agents = cluster.agents(3, "2:3")
    before = world_of(agents)
    agents[0].set("checkpoint", "step 7")
    for _ in range(2):
        wait_until_resumed(cluster, cluster.kill_coordinator(), members=3)
    for agent in agents:
        assert agent.get("checkpoint") == "step 7"
        agent.assert_quiet()
    assert cluster.run_status()["round"] == 0

    leaver = agents.pop()
    leaver.leave("enough")
    after = world_of(agents, "left: enough")
    assert (after[0]["epoch"], after[0]["round"]) == (before[0]["epoch"], 1)


def test_an_agent_that_dies_with_it_is_still_missed(cluster: Cluster) -> None:
    """R8, R9: loaded nodes get a full window, and who does not use it is lost."""
    agents = cluster.agents(3, "2:3", "keep_alive_interval=0.5,keep_alive_max_attempt=4")
    world_of(agents)
    coordinator_pid = cluster.coordinator_pid()
    agents.pop(0).kill()
    cluster.kill_coordinator(coordinator_pid)
    world_of(agents, "lost: it was silent")


def test_without_a_journal_there_is_one_regroup_in_a_new_epoch(cluster: Cluster) -> None:
    """R2: the names of the old worlds never come again."""
    coordinator = cluster.serve("--memory")
    agents = cluster.agents(3, "2:3", "is_host=no")
    before = world_of(agents)
    coordinator.kill()
    cluster.serve("--memory")
    after = world_of(agents, "started anew")
    assert after[0]["epoch"] != before[0]["epoch"]
    assert after[0]["round"] == 0
    for agent in agents:
        agent.assert_quiet(QUIET_S / len(agents))


def test_a_newcomer_that_starts_it_again_from_its_journal_waits_as_a_spare(
    cluster: Cluster,
) -> None:
    """R6, R11: the world stands, though its members come last."""
    agents = cluster.agents(3, "2:3")
    world_of(agents)
    for agent in agents:
        agent.send(signal.SIGSTOP)
    former_pid = cluster.kill_coordinator()
    newcomer = cluster.agent("2:3")
    newcomer.next("connected")
    for agent in agents:
        agent.send(signal.SIGCONT)
    wait_until_resumed(cluster, former_pid, members=3)
    nodes = cluster.run_status()["nodes"]
    assert [node["pid"] for node in nodes if node["state"] == "spare"] == [newcomer.pid]
    for agent in (*agents, newcomer):
        agent.assert_quiet(QUIET_S / 4)

    agents.pop().leave("its place is free")
    for agent in agents:
        agent.next("told")
    after = world_of([*agents, newcomer])
    assert after[0]["round"] == 1


def test_a_newcomer_that_meets_an_empty_one_first_shares_the_new_epoch(cluster: Cluster) -> None:
    """R2, R4: one regroup, after which all four agree."""
    conf = "is_host=no,last_call_timeout=3"
    coordinator = cluster.serve("--memory")
    agents = cluster.agents(3, "2:4", conf)
    before = world_of(agents)
    for agent in agents:
        agent.send(signal.SIGSTOP)
    coordinator.kill()
    cluster.serve("--memory")
    newcomer = cluster.agent("2:4", conf)
    newcomer.next("connected")
    for agent in agents:
        agent.send(signal.SIGCONT)
    for agent in agents:
        assert "started anew" in agent.next("told")["reason"]
    agents.append(newcomer)
    after = world_of(agents)
    assert after[0]["epoch"] != before[0]["epoch"]
    for agent in agents:
        agent.assert_quiet(QUIET_S / len(agents))


@pytest.mark.parametrize("journal", [True, False])
def test_it_may_die_while_agents_wait_for_a_round(cluster: Cluster, journal: bool) -> None:
    """R11, R14: what was asked of the old one is asked again of the new one."""
    kept = () if journal else ("--memory",)
    coordinator = cluster.serve(*kept)
    agents = cluster.agents(2, "3:3", "is_host=no")
    wait_until(
        lambda: "1 more node" in cluster.run_status()["waiting_for"],
        timeout_s=10.0,
        what="both agents to wait",
    )
    coordinator.kill()
    cluster.serve(*kept)
    agents += cluster.agents(1, "3:3", "is_host=no")
    world_of(agents)


@pytest.mark.timeout(150)
def test_frozen_for_twenty_seconds_it_loses_nobody(cluster: Cluster) -> None:
    """R9, with default settings: its own absence is not taken for that of the others."""
    agents = cluster.agents(3, "2:3")
    world_of(agents)
    coordinator_pid = cluster.coordinator_pid()
    cluster.signal(coordinator_pid, signal.SIGSTOP)
    agents[0].assert_quiet(20.0)
    cluster.signal(coordinator_pid, signal.SIGCONT)

    def all_back() -> bool:
        nodes = cluster.run_status()["nodes"]
        return all(node["connected"] and node["heard_s_ago"] < 3 for node in nodes)

    wait_until(all_back, timeout_s=15.0, what="all agents to be heard again")
    assert cluster.coordinator_pid() == coordinator_pid
    for agent in agents:
        agent.assert_quiet(QUIET_S / len(agents))
    status = cluster.run_status()
    assert (status["round"], status["state"], len(status["nodes"])) == (0, "complete", 3)
    assert_ranks(
        [event for agent in agents for event in agent.events if event["event"] == "joined"]
    )
