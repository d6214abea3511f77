"""`quorate status`: what a coordinator knows, for people and for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from quorate.cli.status import command, describe, read_status
from quorate.coordinator.entrance.door import Keys
from quorate.errors import (
    RendezvousAuthenticationError,
    RendezvousConnectionError,
    RendezvousError,
)
from quorate.wire.messages import Report
from tests.served import LOOPBACK, ThreadedCoordinator, make_handler, token


@pytest.fixture
def coordinator() -> Iterator[ThreadedCoordinator]:
    coordinator = ThreadedCoordinator()
    yield coordinator
    coordinator.stop()


def status(endpoint: object, *arguments: str) -> Result:
    return CliRunner().invoke(command, ["--endpoint", str(endpoint), *arguments])


def test_a_coordinator_without_runs(coordinator: ThreadedCoordinator) -> None:
    lines = status(coordinator.endpoint).output.splitlines()
    assert lines[0].endswith("0 agent(s) connected")
    assert lines[1:] == ["no runs"]


def test_a_run_with_a_node(coordinator: ThreadedCoordinator) -> None:
    handler = make_handler(coordinator.endpoint, nodes=(1, 2))
    handler.next_rendezvous()
    shown = status(coordinator.endpoint).output
    assert "run job: round 0 complete, 1 to 2 nodes, epoch " in shown
    assert f"{handler.node} " in shown
    assert "participant rank 0, heard " in shown
    handler.set_closed("all done")
    handler.leave()
    shown = status(coordinator.endpoint).output
    assert " closed, 1 to 2 nodes" in shown
    assert "closed: all done" in shown


def test_nodes_are_sorted_by_whoever_reads() -> None:
    names = ["node10_1_0", "node2_1_0", "node2_12_0", "node2_3_0"]
    told = {"runs": [{"nodes": [{"node": name} for name in names]}]}
    (run,) = read_status(Report(1, msgspec.json.encode(told)))["runs"]
    nodes = [node["node"] for node in run["nodes"]]
    assert nodes == ["node2_1_0", "node2_3_0", "node2_12_0", "node10_1_0"]


def test_json_is_for_programs(coordinator: ThreadedCoordinator) -> None:
    handler = make_handler(coordinator.endpoint)
    handler.next_rendezvous()
    decoded = msgspec.json.decode(status(coordinator.endpoint, "--json").output)
    (run,) = decoded["runs"]
    assert (run["run_id"], run["state"], run["round"]) == ("job", "complete", 0)
    assert run["nodes"][0]["connected"]
    handler.leave()


def test_one_run_of_several(coordinator: ThreadedCoordinator) -> None:
    handlers = [make_handler(coordinator.endpoint, run_id) for run_id in ("one", "two")]
    for handler in handlers:
        handler.next_rendezvous()
    both, one = status(coordinator.endpoint), status(coordinator.endpoint, "one")
    assert "run one:" in both.output
    assert "run two:" in both.output
    assert "run one:" in one.output
    assert "run two:" not in one.output
    for handler in handlers:
        handler.leave()


def test_an_unknown_run_is_an_error(coordinator: ThreadedCoordinator) -> None:
    failed = status(coordinator.endpoint, "jbo")
    assert isinstance(failed.exception, RendezvousError)
    assert "There is no run 'jbo'" in str(failed.exception)
    assert failed.output == ""


def test_nobody_there(free_port: Callable[[], int]) -> None:
    endpoint = f"{LOOPBACK}:{free_port()}"
    failed = status(endpoint, "--timeout", "0.2")
    assert isinstance(failed.exception, RendezvousConnectionError)
    assert failed.exception.exit_code == 73
    assert f"{endpoint} could not be reached for 0.2 s: nobody listens" in str(failed.exception)
    assert failed.output == ""


def test_a_token_is_given_by_file_or_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "a-shared-secret-of-ours"
    file = tmp_path / "token"
    file.write_text(secret)
    locked = ThreadedCoordinator(keys=Keys(token(secret.encode())))
    assert status(locked.endpoint, "--token-file", str(file)).exit_code == 0
    refused = status(locked.endpoint)
    assert isinstance(refused.exception, RendezvousAuthenticationError)
    assert refused.exception.exit_code == 79
    monkeypatch.setenv("QUORATE_TOKEN", secret)
    assert status(locked.endpoint).exit_code == 0
    locked.stop()


def test_a_timeout_must_be_positive() -> None:
    assert status(LOOPBACK, "--timeout", "0").exit_code == 2


def test_what_is_waited_for_and_who_is_gone_is_shown() -> None:
    run: dict[str, Any] = {
        "run_id": "job",
        "epoch": "e",
        "round": 3,
        "state": "regrouping",
        "min_nodes": 2,
        "max_nodes": 4,
        "node_unit": 2,
        "desired_nodes": 2,
        "held": "for a look",
        "closed_reason": "",
        "waiting_for": "waiting for 1 more node(s)",
        "waiting_since_s": 41.2,
        "nodes": [
            {
                "node": "a",
                "node_id": "n1",
                "state": "waiting",
                "rank": None,
                "connected": False,
                "heard_s_ago": 1.5,
                "waiting_since_s": 40.1,
                "draining": "drained by the operator",
                "labels": {"block": "7"},
            }
        ],
        "departed": {"b": "lost: it was silent for 15 s"},
        "bans": [
            {"who": "address b", "reason": "noisy", "left_s": 60.0},
            {"who": "node id n2", "reason": "noisy", "left_s": None},
        ],
    }
    shown = describe({"coordinator": "c:1", "connections": 2, "runs": [run]})
    assert shown[0] == "coordinator c (process 1), 0 agent(s) connected"
    assert [" ".join(line.split()) for line in shown[2:]] == [
        "run job: round 3 regrouping, 2 to 4 nodes in units of 2 (2 are wanted), epoch e",
        "held: for a look",
        "waiting for 1 more node(s), since 41 s",
        "a waiting, heard 1.5 s ago, not connected, waits since 40 s, id n1, block=7, drained by "
        "the operator",
        "b lost: it was silent for 15 s",
        "address b is kept out for another 60 s: noisy",
        "node id n2 is kept out for good: noisy",
    ]


def test_what_others_have_said_ends_no_line_and_reaches_no_terminal() -> None:
    run = {
        "run_id": "x\nrun job17: round 0 complete",
        "state": "closed",
        "round": 0,
        "epoch": "e",
        "min_nodes": 1,
        "max_nodes": 1,
        "node_unit": None,
        "desired_nodes": None,
        "closed_reason": "\x1b[2J",
        "held": None,
        "waiting_for": "",
        "waiting_since_s": None,
        "nodes": [],
        "departed": {"b": "left: \x9b8m"},
        "bans": [],
    }
    shown = describe({"coordinator": "c:1", "runs": [run]})
    assert shown[2].startswith(r"run x\nrun job17: round 0 complete: ")
    assert shown[3] == r"  closed: \x1b[2J"
    assert shown[4].endswith(r" left: \x9b8m")
