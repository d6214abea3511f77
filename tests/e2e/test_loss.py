"""One of three agents is lost: the others are told, and go on in a world of their own (R8)."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest

from tests.conftest import busy_s
from tests.e2e.cluster import Agent, Cluster, assert_agree, parent

pytestmark = pytest.mark.timeout(150)

# What is promised of a process that is killed, with default settings.
TOLD_WITHIN_S = 3.0
REGROUPED_WITHIN_S = 6.0

# What is promised of one that says that it leaves.
TOLD_AT_ONCE_S = 1.0


def three_in_a_world(cluster: Cluster, conf: str = "") -> list[Agent]:
    agents = cluster.agents(3, "2:3", conf)
    assert_agree([agent.next("joined") for agent in agents])
    return agents


def told_and_regrouped(agents: list[Agent], since_s: float, told_within_s: float) -> dict[str, Any]:
    """The agents are told and agree on the next world, all in time; return one's news."""
    told = [agent.next("told") for agent in agents]
    joined = [agent.next("joined") for agent in agents]
    slack_s = busy_s()
    assert max(event["at_s"] for event in told) - since_s < told_within_s + slack_s, told
    assert max(event["at_s"] for event in joined) - since_s < REGROUPED_WITHIN_S + slack_s, joined
    assert_agree(joined)
    assert {event["round"] for event in joined} == {1}
    return told[0]


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_any_agent_may_be_killed_the_one_that_started_the_coordinator_too(
    cluster: Cluster, victim: int
) -> None:
    """R8, R3: told within 3 s, and in a new world within 6 s."""
    agents = three_in_a_world(cluster)
    assert parent(cluster.coordinator_pid()) == agents[0].pid
    lost = agents.pop(victim)
    killed_s = lost.kill()
    told = told_and_regrouped(agents, killed_s, TOLD_WITHIN_S)
    assert "lost: its process ended" in told["reason"]
    assert f"_{lost.pid}_" in told["reason"]


def test_the_end_by_a_signal_is_told_at_once(cluster: Cluster) -> None:
    """R8: who says that it leaves is not waited for."""
    agents = three_in_a_world(cluster)
    leaver = agents.pop()
    told = told_and_regrouped(agents, leaver.send(signal.SIGTERM), TOLD_AT_ONCE_S)
    assert "left: the process has ended" in told["reason"]
    assert leaver.exit_code() == 128 + signal.SIGTERM


def test_an_agent_that_leaves_is_told_at_once_with_its_reason(cluster: Cluster) -> None:
    """R7: leaving closes nothing."""
    agents = three_in_a_world(cluster)
    leaver = agents.pop(1)
    told = told_and_regrouped(agents, leaver.leave("maintenance"), TOLD_AT_ONCE_S)
    assert "left: maintenance" in told["reason"]
    leaver.next("left")
    assert leaver.exit_code() == 0
    assert not cluster.run_status()["closed_reason"]


def test_a_machine_that_falls_silent_is_lost_and_may_come_back(cluster: Cluster) -> None:
    """R8: told within the window of silence (here 0.8 s x 3); R9, R11: not before."""
    window_s = 0.8 * 3
    agents = three_in_a_world(cluster, "keep_alive_interval=0.8,keep_alive_max_attempt=3")
    silent = agents.pop(0)
    stopped_s = silent.send(signal.SIGSTOP)
    told = told_and_regrouped(agents, stopped_s, window_s + TOLD_AT_ONCE_S + 1.0)
    assert "silent" in told["reason"]
    assert told["at_s"] - stopped_s > window_s - 0.8

    silent.send(signal.SIGCONT)
    assert "declared lost" in silent.next("told")["reason"]
    agents.append(silent)
    for agent in agents[:2]:
        # Who is told late hears of those who were told first.
        reason = agent.next("told")["reason"]
        assert "waiting to join" in reason or "come back to regroup" in reason
    joined = [agent.next("joined") for agent in agents]
    assert_agree(joined)
    assert {event["round"] for event in joined} == {2}


def test_an_agent_that_is_silent_for_a_moment_loses_nothing(cluster: Cluster) -> None:
    """R11: a blip is not a death."""
    agents = three_in_a_world(cluster, "keep_alive_interval=0.8,keep_alive_max_attempt=10")
    silent = agents[1]
    stopped_s = silent.send(signal.SIGSTOP)
    agents[0].assert_quiet(2.0)
    silent.send(signal.SIGCONT)
    assert time.monotonic() - stopped_s < 8.0
    for agent in agents:
        agent.assert_quiet(1.0 if agent is silent else 0.0)
    assert cluster.run_status()["round"] == 0
