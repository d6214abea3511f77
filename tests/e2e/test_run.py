"""`quorate run`: whole jobs, each node a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import wait_until
from tests.e2e.cluster import WORKER_PROGRAM, Cluster, Program, alive

pytestmark = pytest.mark.timeout(150)

WORKER = str(WORKER_PROGRAM)

PLACE = r"^\[(\d+)\]:place (.*)$"


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """Workers that `wait` for it end when it is opened."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    return path


def open_gate(gate: Path) -> None:
    """Let all workers that wait now go on to their end."""
    with gate.open("wb"):
        return


def places(*programs: Program, each: int = 1, timeout_s: float = 15.0) -> list[dict[str, Any]]:
    """Wait for the places of the workers of some nodes; return them in the order of the output."""
    found = []
    for program in programs:
        for match in program.lines(PLACE, each, timeout_s):
            place = json.loads(match[2])
            assert place["RANK"] == match[1]
            found.append(place)
    return found


def exit_codes(*programs: Program) -> list[int]:
    return [program.exit_code() for program in programs]


# Starting a program


def test_a_job_of_one_machine_needs_no_endpoint(cluster: Cluster) -> None:
    node = cluster.quorate("run", "--standalone", "--nproc-per-node", "2", WORKER, "report", "--x")
    assert node.exit_code() == 0, node.report()
    first, second = sorted(places(node, each=2), key=lambda place: int(place["RANK"]))
    assert (first["RANK"], second["RANK"]) == ("0", "1")
    assert first["WORLD_SIZE"] == second["WORLD_SIZE"] == "2"
    assert first["LOCAL_RANK"] == "0"
    assert second["LOCAL_RANK"] == "1"
    assert first["GROUP_RANK"] == second["GROUP_RANK"] == "0"
    assert first["MASTER_PORT"] == second["MASTER_PORT"]
    assert first["arguments"] == ["--x"]
    started, joined, finished = node.stderr
    assert started.startswith("quorate: started a coordinator at localhost:")
    assert (
        joined == "quorate: round 0: node rank 0 in a world of 1 node(s), starting 2 of 2 worker(s)"
    )
    assert finished == "quorate: the workers of this node have finished; everyone has finished"


def test_port_0_is_a_coordinator_of_the_jobs_own(cluster: Cluster) -> None:
    """As torchrun's help recommends for several jobs of one node on one machine."""
    where = ("--rdzv-endpoint", "localhost:0", "--rdzv-conf", "join_timeout=20")
    node = cluster.quorate("run", *where, WORKER, "report")
    assert node.exit_code() == 0, node.report()
    assert sum("started a coordinator" in line for line in node.stderr) == 1, node.report()
    (place,) = places(node)
    assert place["QUORATE_ENDPOINT"] in node.stderr[0]


def left_behind(cluster: Cluster, folder: Path) -> tuple[set[int], list[Path]]:
    return {pid for pid in cluster.processes() if alive(pid)}, list(folder.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_the_first_round_leaves_nothing_behind(
    cluster: Cluster, tmp_path: Path, number: signal.Signals
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    node = cluster.quorate("run", "--standalone", WORKER, "report", TMPDIR=str(temporary))
    node.line("started a coordinator")
    node.send(number)
    assert node.exit_code() == 128 + number, node.report()
    assert left_behind(cluster, temporary) == (set(), [])


def test_an_agent_that_is_killed_leaves_nothing_behind(
    cluster: Cluster, tmp_path: Path, gate: Path
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    node = cluster.quorate("run", "--standalone", WORKER, "wait", str(gate), TMPDIR=str(temporary))
    places(node)
    node.kill()
    wait_until(
        lambda: left_behind(cluster, temporary) == (set(), []),
        timeout_s=15.0,
        what="the end of the coordinator and its folder",
    )


def test_what_happens_can_be_kept_as_lines_of_json(cluster: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "events"
    flags = ("--standalone", "--rdzv-id", "job", "--events", str(path), "--log-level", "debug")
    node = cluster.quorate("run", *flags, WORKER, "report")
    assert node.exit_code() == 0, node.report()
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert [event["state"] for event in events] == ["RUNNING", "SUCCEEDED"]
    assert (events[-1]["run_id"], events[-1]["rank"], events[-1]["round"]) == ("job", 0, 0)
    # What is known of the node stands on every line of its log.
    (place,) = [line for line in node.stderr if "has rank 0 in round" in line]
    assert place.endswith(f"[run=job round=0 node={events[-1]['node']} rank=0]")


def test_any_program_may_stand_after_two_dashes(cluster: Cluster) -> None:
    node = cluster.quorate(
        "run", "--standalone", "--", "sh", "-c", "echo rank=$RANK -- $1", "x", "y"
    )
    assert node.exit_code() == 0, node.report()
    assert node.stdout == ["[0]:rank=0 -- y"]


def test_a_module_is_run_with_m_and_underscores_are_dashes(cluster: Cluster) -> None:
    node = cluster.quorate(
        "run", "--standalone", "--nproc_per_node=1", "--max_restarts", "2", "-m", "platform", "x_y"
    )
    assert node.exit_code() == 0, node.report()
    assert len(node.stdout) == 1


def test_workers_of_nodes_of_different_sizes_are_numbered_through(
    cluster: Cluster, tmp_path: Path
) -> None:
    logs = tmp_path / "logs"
    sizes = (1, 3, 2)
    nodes = []
    for size in sizes:
        options = ("--nproc-per-node", str(size), "--log-dir", str(logs), "--log-level", "info")
        nodes.append(cluster.run("3", *options, WORKER, "report", name=f"node of {size}"))
    assert exit_codes(*nodes) == [0, 0, 0], cluster.report()
    told = [places(node, each=size) for node, size in zip(nodes, sizes, strict=True)]
    assert sorted(int(place["RANK"]) for node in told for place in node) == list(range(6))
    for node, size in zip(told, sizes, strict=True):
        ranks = sorted(int(place["RANK"]) for place in node)
        assert ranks == list(range(ranks[0], ranks[0] + size))
        assert {place["LOCAL_WORLD_SIZE"] for place in node} == {str(size)}
    first = min((place for node in told for place in node), key=lambda place: int(place["RANK"]))
    everyone = [place for node in told for place in node]
    for key in ("MASTER_ADDR", "MASTER_PORT", "QUORATE_EPOCH", "QUORATE_ROUND", "WORLD_SIZE"):
        assert {place[key] for place in everyone} == {first[key]}
    for place in everyone:
        log = logs / "job" / f"{place['QUORATE_EPOCH']}-0" / f"{place['RANK']}.log"
        assert f'"RANK": "{place["RANK"]}"' in log.read_text()


def test_r3_nodes_of_a_block_have_adjacent_ranks(cluster: Cluster) -> None:
    blocks = ("rack10", "rack2", "rack10", "rack2")
    nodes = [
        cluster.run("4", "--label", f"block:{block}", WORKER, "report", conf="rank_policy=topology")
        for block in blocks
    ]
    assert exit_codes(*nodes) == [0] * 4, cluster.report()
    ranks = [int(places(node)[0]["RANK"]) for node in nodes]
    assert sorted(ranks[1::2]) == [0, 1]
    assert sorted(ranks[0::2]) == [2, 3]


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_streams_may_be_closed(cluster: Cluster, closed: str) -> None:
    """An agent within another one, which reads what there still is, and its exit code."""
    inner = f"{sys.executable} -m quorate run --standalone -- sh -c 'echo said; exit 3' {closed}"
    node = cluster.quorate("run", "--standalone", "--", "sh", "-c", inner)
    assert node.exit_code() == 3, node.report()
    assert node.stdout == ["[0]:[0]:said"] * (">&-" not in closed.split())
    started = [line for line in node.stderr if line.startswith("[0]:quorate: started a coord")]
    assert len(started) == ("2>&-" not in closed)


@pytest.mark.parametrize(
    ("left", "script", "exit_code"),
    [
        ("signal.signal(signal.SIGCHLD, signal.SIG_IGN)", "exit 3", 3),
        (
            "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])",
            "kill -TERM $PPID; exec sleep 600",
            128 + signal.SIGTERM,
        ),
    ],
    ids=["ignored ends of children", "blocked signals"],
)
def test_a_supervisor_may_leave_odd_signals(
    cluster: Cluster, left: str, script: str, exit_code: int
) -> None:
    inner = (sys.executable, "-m", "quorate", "run", "--standalone", "--", "sh", "-c", script)
    supervisor = f"import os, signal, sys; {left}; os.execv(sys.executable, {inner})"
    node = cluster.quorate("run", "--standalone", "--", sys.executable, "-c", supervisor)
    assert node.exit_code() == exit_code, node.report()


# Failing workers


def test_the_exit_code_is_that_of_the_worker_that_failed(cluster: Cluster) -> None:
    node = cluster.quorate("run", "--standalone", WORKER, "fail", "7")
    assert node.exit_code() == 7, node.report()
    assert "[0]:about to fail" in node.stderr
    own = [text for text in node.stderr if text.startswith("quorate: ")]
    assert any("[0]:about to fail" in text for text in own), own
    assert re.search(r"rank 0 .* failed with exit code 7", own[-1])


def test_a_failure_for_good_closes_the_run_and_is_told_to_everyone(
    cluster: Cluster, gate: Path
) -> None:
    """R7: who failed first is the reason that all others read; what they do would be in vain."""
    # One that agents start would forget the run before a busy machine has started the latecomer.
    cluster.serve()
    healthy = cluster.run("2", WORKER, "wait", str(gate), name="healthy")
    failing = cluster.run("2", WORKER, "fail", "7", name="failing")
    assert failing.exit_code() == 7, cluster.report()
    failed = places(failing)[0]
    reason = f"failed: rank {failed['RANK']} (local rank 0, process {failed['pid']}) failed with "
    assert cluster.run_status()["closed_reason"].startswith(reason)
    late = cluster.run("2", WORKER, "report", name="late")
    assert late.exit_code() == 71, late.report()
    assert len(late.stderr) == 1
    assert reason in late.stderr[0]
    assert healthy.exit_code() == 71, healthy.report()
    assert reason in healthy.report()


def test_failed_workers_are_restarted_within_the_budget(cluster: Cluster) -> None:
    node = cluster.quorate("run", "--standalone", "--max-restarts", "1", WORKER, "once", "9")
    assert node.exit_code() == 0, node.report()
    assert [place["TORCHELASTIC_RESTART_COUNT"] for place in places(node, each=2)] == ["0", "1"]
    assert "quorate: restart 1 of 1" in node.stderr


def test_a_spent_budget_ends_the_job(cluster: Cluster) -> None:
    node = cluster.quorate("run", "--standalone", "--max-restarts", "1", WORKER, "fail", "9")
    assert node.exit_code() == 9, node.report()
    assert [place["QUORATE_ROUND"] for place in places(node, each=2)] == ["0", "1"]


def test_a_failure_on_all_nodes_costs_each_of_them_a_restart(cluster: Cluster) -> None:
    """Who goes back first must not spare the others theirs: the job would go on for too long."""
    nodes = [
        cluster.run("3", "--max-restarts", "1", WORKER, "fail", "9", name=f"node {n}")
        for n in range(3)
    ]
    assert 9 in exit_codes(*nodes), cluster.report()
    for node in nodes:
        told = [place["QUORATE_ROUND"] for place in places(node, each=2)]
        assert told == ["0", "1"], cluster.report()


# Changes of the membership


def test_a_lost_node_costs_the_others_nothing_of_their_budget(cluster: Cluster, gate: Path) -> None:
    """kill -9 of an agent: the others regroup, and none of its workers stays."""
    nodes = [cluster.run("2:3", WORKER, "wait", str(gate), name=f"node {n}") for n in range(3)]
    workers = places(*nodes)
    lost = nodes.pop(1)
    lost.kill()
    wait_until(lambda: not alive(workers[1]["pid"]), what="the end of the lost node's worker")
    after = [place for node in nodes for place in places(node, each=2)[1:]]
    assert sorted(place["RANK"] for place in after) == ["0", "1"]
    assert {place["QUORATE_ROUND"] for place in after} == {"1"}
    assert {place["TORCHELASTIC_RESTART_COUNT"] for place in after} == {"0"}
    open_gate(gate)
    assert exit_codes(*nodes) == [0, 0], cluster.report()


def test_r7_a_failure_beside_a_loss_costs_nothing_however_late_the_loss_is_told(
    cluster: Cluster, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    script = f"until [ -e {broken} ]; do sleep 0.05; done; exit 9"
    script = f'echo up; [ "$QUORATE_ROUND" = 1 ] && exit; {script}'
    survivor, lost = (
        cluster.run("1:2", "--", "sh", "-c", script, conf="reconnect_grace=5", name=f"node {n}")
        for n in range(2)
    )
    for node in (survivor, lost):
        node.line(r"\]:up")
    lost.kill()
    broken.touch()
    assert survivor.exit_code() == 0, cluster.report()
    assert len(survivor.stdout) == 2, survivor.report()


def test_the_store_of_a_round_is_new_in_the_next_one(cluster: Cluster, gate: Path) -> None:
    """worker_store: its keys are those of the present round alone."""
    shared = r"^\[\d\]:shared (.*)$"
    nodes = [cluster.run("2:3", WORKER, "share", str(gate), name=f"node {n}") for n in range(3)]
    first = [json.loads(node.line(shared)[1]) for node in nodes]
    assert {result["total"] for result in first} == {1 + 2 + 3}
    assert sorted(result["met"] for result in first) == [1, 2, 3]
    nodes.pop(0).kill()
    second = [json.loads(node.lines(shared, 2)[1][1]) for node in nodes]
    assert {result["total"] for result in second} == {1 + 2}
    assert sorted(result["met"] for result in second) == [1, 2]
    open_gate(gate)
    assert exit_codes(*nodes) == [0, 0], cluster.report()


def test_a_node_that_finishes_first_waits_for_the_others(cluster: Cluster, gate: Path) -> None:
    """R8: to end is not to be lost: nobody regroups."""
    nodes = [cluster.run("2", WORKER, "part", str(gate), name=f"node {n}") for n in range(2)]
    told = places(*nodes)
    early = told[0]["RANK"] != "0"
    wait_until(lambda: not alive(told[early]["pid"]), what="the end of the first worker")
    assert nodes[early].running
    open_gate(gate)
    assert exit_codes(*nodes) == [0, 0], cluster.report()
    assert [len(node.stdout) for node in nodes] == [1, 1]


def full_job_and_spare(cluster: Cluster, gate: Path) -> tuple[list[Program], Program]:
    nodes = [cluster.run("2:3", WORKER, "wait", str(gate), name=f"node {n}") for n in range(3)]
    places(*nodes)
    spare = cluster.run("2:3", "--log-level", "info", WORKER, "wait", str(gate), name="spare")

    def waits() -> bool:
        return any(node["state"] == "spare" for node in cluster.run_status()["nodes"])

    wait_until(waits, timeout_s=15.0, what="the spare to wait")
    return nodes, spare


def test_a_spare_that_is_never_needed_ends_with_success(cluster: Cluster, gate: Path) -> None:
    """R6."""
    nodes, spare = full_job_and_spare(cluster, gate)
    open_gate(gate)
    assert exit_codes(*nodes, spare) == [0, 0, 0, 0], cluster.report()
    assert not spare.stdout
    # One that has waited for a second says so (R16); how long it waits here, nobody knows.
    *waiting, last = spare.stderr
    assert all("waiting as one of 1 spare(s)" in line for line in waiting)
    assert "succeeded: all nodes of round 0 have finished" in last


def test_a_spare_takes_the_place_of_a_lost_member(cluster: Cluster, gate: Path) -> None:
    """R6: as soon as a place falls free."""
    nodes, spare = full_job_and_spare(cluster, gate)
    nodes.pop(0).kill()
    after = [place for node in nodes for place in places(node, each=2)[1:]] + places(spare)
    assert sorted(place["RANK"] for place in after) == ["0", "1", "2"]
    # R3: a newcomer never leads while a survivor is there.
    assert after[-1]["RANK"] != "0"
    open_gate(gate)
    assert exit_codes(*nodes, spare) == [0, 0, 0], cluster.report()


def test_who_comes_after_the_end_is_told_so(cluster: Cluster) -> None:
    """R7: the reason outlives the job; nothing was started, and that must not look like success."""
    cluster.serve()
    assert cluster.run("1", WORKER, "report").exit_code() == 0
    late = cluster.run("1", WORKER, "report", name="late")
    assert late.exit_code() == 71, late.report()
    assert not late.stdout
    assert late.stderr == [
        "quorate: the run 'job' is closed: succeeded: all nodes of round 0 have finished; "
        "nothing was started here: give a new job a new --rdzv-id"
    ]


def test_a_job_may_be_started_again_under_its_id(cluster: Cluster) -> None:
    """A moment after its end a run is forgotten by the coordinator that its agents started."""
    assert cluster.run("1", WORKER, "report").exit_code() == 0
    wait_until(lambda: not cluster.status()["runs"], timeout_s=15.0, what="the run to be forgotten")
    again = cluster.run("1", WORKER, "report", name="again")
    assert again.exit_code() == 0, again.report()
    assert places(again)


def test_a_latecomer_that_gives_up_disturbs_nobody(cluster: Cluster) -> None:
    """R7, R8: there is room, but one newcomer is no reason to regroup before the last call."""
    conf = "join_timeout=6,last_call_timeout=30"
    agents = [cluster.agent("2:4", conf) for _ in range(4)]
    for agent in agents:
        agent.next("connected")
        agent.next("joined")
    for number in (1, 2):
        agents.pop().leave("maintenance")
        for agent in agents:
            agent.next("told")
            assert agent.next("joined")["round"] == number
    late = cluster.run("2:4", WORKER, "report", conf=conf, name="late")
    assert late.exit_code() == 72, late.report()
    assert len(late.stderr) == 1
    assert "within 6 s" in late.stderr[0]
    for agent in agents:
        agent.assert_quiet(0.5)


# Signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_workers_and_the_others_go_on(
    cluster: Cluster, gate: Path, number: signal.Signals
) -> None:
    leaving = cluster.run("1:2", WORKER, "wait", str(gate), name="leaving")
    staying = cluster.run("1:2", WORKER, "wait", str(gate), name="staying")
    workers = places(leaving, staying)
    leaving.send(number)
    assert leaving.exit_code() == 128 + number, leaving.report()
    assert not alive(workers[0]["pid"])
    own = [text for text in leaving.stderr if text.startswith("quorate: ")]
    assert own[1:] == [f"quorate: received {number.name}: stopping the workers and leaving the run"]
    after = places(staying, each=2)[1]
    assert (after["RANK"], after["WORLD_SIZE"]) == ("0", "1")
    open_gate(gate)
    assert staying.exit_code() == 0, staying.report()


def test_a_waiting_node_can_be_interrupted(cluster: Cluster) -> None:
    node = cluster.run("2", "--log-level", "info", sys.executable, "-V")
    node.line("1 more node")
    node.send(signal.SIGINT)
    assert node.exit_code() == 128 + signal.SIGINT
    assert "Traceback" not in node.report()


def test_a_batch_systems_warning_reaches_the_workers(cluster: Cluster) -> None:
    """Some send it to the agent alone, some to all processes of the job: the coordinator too."""
    script = "trap 'echo warned; exit 0' USR1; echo ready; while :; do sleep 0.05; done"
    node = cluster.run("1", "--", "sh", "-c", script)
    node.line(r"^\[0\]:ready")
    cluster.signal(cluster.coordinator_pid(), signal.SIGUSR1)
    node.send(signal.SIGUSR1)
    assert node.exit_code() == 0, node.report()
    assert node.stdout == ["[0]:ready", "[0]:warned"]
    assert node.stderr[-1] == (
        "quorate: the workers of this node have finished; everyone has finished"
    )
