"""torchrun with `--rdzv-backend=quorate`: real agents, and DDP on gloo in their workers."""

from __future__ import annotations

import re
import signal
import socket
import time

import pytest

from tests.conftest import busy_s, wait_until
from tests.e2e.cluster import Cluster, parent
from tests.e2e.recovery_loop import recover_from_crashes
from tests.e2e.torchrun_cluster import (
    STARTED_WITHIN_S,
    STEPS,
    TorchAgent,
    TorchrunCluster,
    by_rank,
)

pytestmark = [pytest.mark.torch, pytest.mark.timeout(300)]

# What is promised of an agent that is killed, with default settings.
TOLD_WITHIN_S = 3.0
REGROUPED_WITHIN_S = 6.0

ACCURACY_MIN = 0.9

AWAY_S = 10.0

# Nobody is to be told of an end by the end of its connection alone.
SLOW_TO_JUDGE = "reconnect_grace=45"


@pytest.fixture
def torch_cluster(cluster: Cluster) -> TorchrunCluster:
    return TorchrunCluster(cluster)


def assert_trained(*agents: TorchAgent, within_s: float = STARTED_WITHIN_S) -> str:
    """All agents end with 0, and their rank 0 has trained well; return what it ended with."""
    ends_at = time.monotonic() + within_s
    for agent in agents:
        code = agent.exit_code(max(ends_at - time.monotonic(), 0.0))
        assert code == 0, agent.report()
    output = [text for agent in agents for text in agent.stdout]
    (finished,) = [text for text in output if text.startswith("finished: ")]
    accuracy = re.search(r"accuracy (\S+)", finished)
    assert accuracy is not None
    assert float(accuracy[1]) > ACCURACY_MIN
    return finished


def assert_resumed(agent: TorchAgent, size: int) -> None:
    """The agent of rank 0 trains in a world of a size, and has not begun anew."""
    step = int(agent.line(rf"step (\d+)/{STEPS}: resumed .* world {size}$", STARTED_WITHIN_S)[1])
    assert step > 0


def closed_reason(torch_cluster: TorchrunCluster) -> str:
    return torch_cluster.cluster.closed_reason()


@pytest.mark.parametrize("late", [0, 1])
def test_two_agents_finish_in_any_order(torch_cluster: TorchrunCluster, late: int) -> None:
    program = torch_cluster.training("--linger", str(late))
    torch_cluster.release()
    agents = torch_cluster.agents(2, "2", *program)
    pid = int(agents[late].line(r"lingers as process (\d+)", STARTED_WITHIN_S)[1])
    agents[1 - late].line("Waiting .* seconds for other agents", STARTED_WITHIN_S)
    assert all(agent.running for agent in agents)
    torch_cluster.cluster.signal(pid, signal.SIGUSR1)
    assert_trained(*agents)
    assert [len(agent.worlds) for agent in agents] == [1, 1]
    assert closed_reason(torch_cluster).startswith("succeeded")


def test_an_agent_comes_and_its_machine_dies(torch_cluster: TorchrunCluster) -> None:
    """R8: both is told; the training goes on from the checkpoint each time."""
    conf = "last_call_timeout=2"
    first, second = torch_cluster.agents(2, "2:3", conf=conf)
    first.trains(2)
    newcomer = torch_cluster.torchrun("2:3", conf=conf)
    assert_resumed(first, 3)
    assert [first.world(1).rank, second.world(1).rank, newcomer.world(0).rank] == [0, 1, 2]
    assert first.world(1).restarts == 0

    died_at = time.time()
    died_at_s = torch_cluster.kill_machine(newcomer)
    for agent in (first, second):
        assert agent.world(2).at_s - died_at_s < REGROUPED_WITHIN_S + busy_s()
    lost_at = torch_cluster.coordinator_said(f"_{newcomer.pid}_0: its process ended")
    assert lost_at is not None
    assert lost_at - died_at < TOLD_WITHIN_S + busy_s()
    assert_resumed(first, 2)
    torch_cluster.release()
    assert_trained(first, second)
    assert [(world.rank, world.size) for world in first.worlds] == [(0, 2), (0, 3), (0, 2)]
    assert [(world.rank, world.size) for world in second.worlds] == [(1, 2), (1, 3), (1, 2)]


def test_a_crash_of_either_worker_costs_a_restart(torch_cluster: TorchrunCluster) -> None:
    assert recover_from_crashes(torch_cluster)


def test_the_agent_that_started_the_coordinator_may_be_killed(
    torch_cluster: TorchrunCluster,
) -> None:
    """R8, R3: its orphaned worker keeps the others busy; they are told, and keep their order."""
    agents = torch_cluster.agents(3, "2:3")
    agents[0].trains(3)
    host = parent(torch_cluster.cluster.coordinator_pid())
    (lost,) = [agent for agent in agents if agent.pid == host]
    killed_at_s = lost.kill()
    left = [agent for agent in agents if agent is not lost]
    assert max(agent.told_at_s() for agent in left) - killed_at_s < TOLD_WITHIN_S + busy_s()
    assert by_rank(left, 1) == left
    regrouped_at_s = max(agent.world(1).at_s for agent in left)
    assert regrouped_at_s - killed_at_s < REGROUPED_WITHIN_S + busy_s()
    assert {agent.world(1).restarts for agent in left} == {0}
    assert_resumed(left[0], 2)
    torch_cluster.release()
    assert_trained(*left)


def test_newcomers_that_are_ended_while_they_wait_disturb_nobody(
    torch_cluster: TorchrunCluster,
) -> None:
    """R7: one is killed, one gets a signal; both before the last call for them is over."""
    conf = "last_call_timeout=8"
    agents = torch_cluster.agents(2, "2:6", conf=conf)
    agents[0].trains(2)
    killed, ended = [torch_cluster.torchrun("2:6", conf=conf) for _ in range(2)]
    torch_cluster.wait_for_nodes("waiting", 2)
    killed.kill()
    ended.send(signal.SIGTERM)
    ended.exit_code()
    torch_cluster.wait_for_nodes("waiting", 0)
    torch_cluster.release()
    assert_trained(*agents)
    assert [len(agent.worlds) for agent in agents] == [1, 1]


def test_a_newcomer_that_runs_out_of_time_disturbs_nobody(torch_cluster: TorchrunCluster) -> None:
    """R7: it is not let in, since one agent has finished, and gives up before the other has."""
    conf = "join_timeout=9,last_call_timeout=1"
    program = torch_cluster.training("--linger", "1")
    torch_cluster.release()
    agents = torch_cluster.agents(2, "2:3", *program, conf=conf)
    pid = int(agents[1].line(r"lingers as process (\d+)", STARTED_WITHIN_S)[1])
    agents[0].line("Waiting .* seconds for other agents", STARTED_WITHIN_S)
    newcomer = torch_cluster.torchrun("2:3", conf=conf)
    assert newcomer.exit_code(STARTED_WITHIN_S) == 1
    newcomer.line("No round of the run 'job' was completed .* within 9 s: .* raise join_timeout")
    torch_cluster.cluster.signal(pid, signal.SIGUSR1)
    assert_trained(*agents)
    assert [len(agent.worlds) for agent in agents] == [1, 1]


def test_a_spare_is_promoted_and_one_that_is_not_needed_exits_with_0(
    torch_cluster: TorchrunCluster,
) -> None:
    """R6, and the agent that stays keeps rank 0 (R3)."""
    first, second = torch_cluster.agents(2, "2")
    spares = [torch_cluster.torchrun("2") for _ in range(2)]
    torch_cluster.wait_for_nodes("spare", 2)
    first.trains(2)
    killed_at_s = torch_cluster.kill_machine(second)
    assert first.world(1).at_s - killed_at_s < REGROUPED_WITHIN_S + busy_s()
    wait_until(lambda: any(spare.worlds for spare in spares), what="a spare to be promoted")
    (promoted,) = [spare for spare in spares if spare.worlds]
    (unneeded,) = [spare for spare in spares if spare is not promoted]
    assert promoted.worlds[0][2:] == (1, 2)
    assert first.world(1)[2:] == (0, 2)
    assert_resumed(first, 2)
    torch_cluster.release()
    assert_trained(first, promoted)
    assert unneeded.exit_code() == 0
    assert not unneeded.worlds
    assert "Traceback" not in "\n".join(unneeded.stderr)


def test_an_agent_that_gets_a_signal_leaves(torch_cluster: TorchrunCluster) -> None:
    """R8: it says so; the end of its connection alone would be judged only after the test."""
    agents = torch_cluster.agents(3, "2:3", conf=SLOW_TO_JUDGE)
    agents[0].trains(3)
    leaver = agents.pop(1)
    leaver.send(signal.SIGTERM)
    assert leaver.exit_code() != 0
    ended_at_s = time.monotonic()
    left = by_rank(agents, 1)
    assert max(agent.world(1).at_s for agent in left) - ended_at_s < TOLD_WITHIN_S + busy_s()
    assert_resumed(left[0], 2)
    torch_cluster.release()
    assert_trained(*left)


def test_the_training_ends_alike_under_quorate_run(torch_cluster: TorchrunCluster) -> None:
    """The same script and flags, and the same parameters at the end, bit for bit."""
    program = torch_cluster.example(60)
    agents = torch_cluster.agents(2, "2", *program)
    by_torchrun = assert_trained(*agents)
    flags = ("--max-restarts=10", "--monitor-interval=0.1", "--rdzv-id=other")
    runs = [torch_cluster.cluster.run("2", *flags, *program) for _ in range(2)]
    for run in runs:
        assert run.exit_code(STARTED_WITHIN_S) == 0, run.report()
    (by_quorate,) = [text for run in runs for text in run.stdout if "finished: " in text]
    assert by_quorate.endswith(by_torchrun)


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_any_rank_may_die_before_the_roles_are_exchanged(
    torch_cluster: TorchrunCluster, rank: int
) -> None:
    """R8: nobody waits in the round's store for one that is gone."""
    torch_cluster.release()
    agents = [torch_cluster.torchrun("2:3", fault=("die", rank)) for _ in range(3)]
    wait_until(
        lambda: any(not agent.running for agent in agents), STARTED_WITHIN_S, "one to be killed"
    )
    (lost,) = [agent for agent in agents if not agent.running]
    left = [agent for agent in agents if agent is not lost]
    assert_trained(*left)
    assert {agent.worlds[-1].size for agent in left} == {2}
    assert {agent.worlds[-1].restarts for agent in left} == {0}


def test_those_that_have_finished_do_not_wait_for_one_that_is_lost(
    torch_cluster: TorchrunCluster,
) -> None:
    """R7: its work was almost done; theirs is."""
    torch_cluster.release()
    program = torch_cluster.training("--linger", "2")
    agents = torch_cluster.agents(3, "2:3", *program)
    agents[2].line("lingers", STARTED_WITHIN_S)
    for agent in agents[:2]:
        agent.line("Waiting .* seconds for other agents", STARTED_WITHIN_S)
    torch_cluster.kill_machine(agents[2])
    assert_trained(*agents[:2], within_s=20.0)
    assert [len(agent.worlds) for agent in agents] == [1, 1, 1]


def test_a_coordinator_that_is_away_for_10_s_costs_nothing(
    torch_cluster: TorchrunCluster,
) -> None:
    """R11: it is killed, and its supervisor starts it again later."""
    serve = torch_cluster.cluster.serve()
    agents = torch_cluster.agents(2, "2", conf="is_host=0")
    agents[0].trains(2)
    serve.kill()
    assert agents[1].quiet(lambda: len(agents[1].worlds) > 1, AWAY_S)
    torch_cluster.cluster.serve()
    torch_cluster.release()
    assert_trained(*agents)
    assert [len(agent.worlds) for agent in agents] == [1, 1]


def test_a_worker_that_fails_for_good_ends_the_run(torch_cluster: TorchrunCluster) -> None:
    """R7: without restarts left, the run is closed with the reason, and nobody hangs."""
    agents = torch_cluster.agents(2, "2", max_restarts=0)
    agents[0].trains(2)
    torch_cluster.kill_worker(agents[1])
    for agent in agents:
        assert agent.exit_code() == 1, agent.report()
    assert closed_reason(torch_cluster).startswith("failed: ")


def test_without_restarts_a_dead_machine_ends_the_others_and_closes_nothing(
    torch_cluster: TorchrunCluster,
) -> None:
    """R7: torchrun gives up before anybody knows of the loss, and waits for the verdict only."""
    agents = torch_cluster.agents(3, "2:3", max_restarts=0, conf="reconnect_grace=6")
    agents[0].trains(3)
    torch_cluster.kill_machine(agents.pop())
    for agent in agents:
        assert agent.exit_code() == 1, agent.report()
        assert len(agent.worlds) == 1
    assert not closed_reason(torch_cluster)


def test_a_port_that_another_program_has_costs_a_restart(torch_cluster: TorchrunCluster) -> None:
    """The workers' store cannot be served there: nobody hangs, the next round has another port."""
    torch_cluster.release()
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        agents = torch_cluster.agents(2, "2", fault=("port", port))
        assert_trained(*agents)
    assert agents[0].worlds[-1].restarts == 1
    assert [agent.worlds[-1].rank for agent in agents] == [0, 1]


def test_a_run_without_trouble_prints_nothing_of_ours(
    torch_cluster: TorchrunCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = torch_cluster.example(5)
    del torch_cluster.cluster._environment["LOGLEVEL"]
    agents = [torch_cluster.torchrun("1:2", *program, conf="last_call_timeout=1")]
    assert agents[0].exit_code(STARTED_WITHIN_S) == 0
    assert agents[0].stderr == []
    assert [text.partition(":")[0] for text in agents[0].stdout] == ["step 0/5", "finished"]
