"""The operators' commands against a coordinator: what they print, change, and exit with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import click
import msgspec
import pytest
from click.testing import CliRunner, Result

from quorate.cli import operate
from quorate.cli.common import Connection
from quorate.cli.operate import parse_duration
from quorate.cli.status import fetch_status
from quorate.coordinated import CoordinatedRendezvousHandler
from quorate.errors import (
    RendezvousError,
    RendezvousEvictedError,
    RendezvousGracefulExitError,
    RendezvousSettingsError,
)
from tests.served import PATIENCE_S, ThreadedCoordinator, make_handler

Until = Callable[..., None]


class Job:
    """A coordinator with a run, and who is in it."""

    def __init__(self) -> None:
        self.coordinator = ThreadedCoordinator()
        self.handlers: list[CoordinatedRendezvousHandler] = []

    def add(self, node_id: str) -> CoordinatedRendezvousHandler:
        """Return a node that has not joined yet."""
        handler = make_handler(self.coordinator.endpoint, nodes=(1, 4), node_id=node_id)
        self.handlers.append(handler)
        return handler

    def start(self, *node_ids: str) -> None:
        """Let nodes meet."""
        self.meet(*(self.add(node_id) for node_id in node_ids))

    def meet(self, *handlers: CoordinatedRendezvousHandler) -> None:
        """Let nodes join, each in a thread, until all are in a round."""
        threads = [threading.Thread(target=handler.next_rendezvous) for handler in handlers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()

    def say(self, command: click.Command, *words: str) -> Result:
        endpoint = str(self.coordinator.endpoint)
        return CliRunner().invoke(command, ["--endpoint", endpoint, *words])

    def told(self, command: click.Command, *words: str) -> str:
        result = self.say(command, *words)
        assert result.exit_code == 0, result.exception
        return result.output

    def status(self) -> dict[str, Any]:
        (run,) = fetch_status(Connection([self.coordinator.endpoint], PATIENCE_S), "job")["runs"]
        assert isinstance(run, dict)
        return run

    def end(self) -> None:
        for handler in self.handlers:
            handler.leave()
        self.coordinator.stop()


@pytest.fixture
def job() -> Iterator[Job]:
    job = Job()
    yield job
    job.end()


def test_a_drained_node_ends_with_0_at_the_next_regroup(job: Job, until: Until) -> None:
    job.start("n0", "n1")
    first, second = job.handlers
    drained = job.told(operate.drain, "job", "n1", "--reason", "new disks")
    assert drained == f"job: {second.node} leaves at the next regroup\n"
    assert first.num_nodes_waiting() == 0
    newcomer = threading.Thread(target=job.start, args=("n2",))
    newcomer.start()
    until(lambda: first.num_nodes_waiting() > 0)
    first.next_rendezvous()
    newcomer.join(PATIENCE_S)
    until(lambda: second.num_nodes_waiting() > 0)
    with pytest.raises(RendezvousGracefulExitError, match="drained by the operator: new disks"):
        second.next_rendezvous()
    assert [node["node_id"] for node in job.status()["nodes"]] == ["n0", "n2"]


def test_an_evicted_node_is_told_and_kept_out(job: Job, until: Until) -> None:
    job.start("n0", "n1")
    first, second = job.handlers
    words = ("job", str(second.node), "--for", "10m", "--json")
    told = msgspec.json.decode(job.told(operate.evict, *words))
    assert told == {
        "run_id": "job",
        "command": "evict",
        "changed": True,
        "node": str(second.node),
        "text": f"{second.node} is out, and node id n1 is kept out for another 600 s",
    }
    until(lambda: first.num_nodes_waiting() > 0 and second.num_nodes_waiting() > 0)
    assert "evicted by the operator" in first.reason_to_regroup
    for handler in (second, job.add("n1")):
        with pytest.raises(RendezvousEvictedError, match="evicted by the operator") as caught:
            handler.next_rendezvous()
        assert caught.value.exit_code == 80
    assert job.told(operate.evict, "job", "n1", "--for", "0s") == "job: node id n1 may join again\n"


def test_a_hold_and_its_release(job: Job, until: Until) -> None:
    job.start("n0")
    assert "until the run is released" in job.told(operate.hold, "job", "--reason", "a look")
    assert job.status()["held"] == "a look"
    waiting = threading.Thread(target=job.meet, args=(job.handlers[0], job.add("n1")))
    waiting.start()
    until(lambda: "holds the round open (2 of " in job.status()["waiting_for"], PATIENCE_S)
    assert job.told(operate.release, "job") == "job: rounds complete again\n"
    waiting.join(PATIENCE_S)
    assert job.status()["world_size"] == 2
    assert job.told(operate.release, "job") == "job: the run was not held\n"


def test_a_size_at_run_time(job: Job, until: Until) -> None:
    job.start("n0", "n1")
    assert job.told(operate.scale, "job", "1") == "job: a round is to have 1 node(s)\n"
    until(lambda: job.handlers[0].num_nodes_waiting() > 0)
    assert job.status()["desired_nodes"] == 1
    assert job.told(operate.scale, "job", "max") == "job: a round is to have 4 node(s)\n"
    assert job.status()["desired_nodes"] is None


def test_a_close_has_a_reason_and_the_first_one_stays(job: Job, until: Until) -> None:
    job.start("n0")
    assert job.say(operate.close, "job").exit_code == 2, "a reason is required"
    assert job.told(operate.close, "job", "--reason", "done") == "job: the run is closed: done\n"
    until(job.handlers[0].is_closed)
    assert job.handlers[0].closed_reason == "by the operator: done"
    again = job.told(operate.close, "job", "--reason", "other", "--json")
    assert msgspec.json.decode(again)["text"] == "the run was closed already: by the operator: done"
    refused = job.say(operate.hold, "job")
    assert isinstance(refused.exception, RendezvousError)
    assert refused.exception.exit_code == 71


@pytest.mark.parametrize(
    ("command", "words", "why"),
    [
        (operate.drain, ["jbo", "0"], "did you mean 'job'"),
        (operate.drain, ["job", "n11"], "did you mean 'n1'"),
        (operate.close, ["jbo", "--reason", "x"], "There is no run 'jbo'"),
        (operate.scale, ["job", "9"], "rounds of 1 to 4 nodes, not of 9"),
        (operate.scale, ["job", "many"], "not a number of nodes"),
        (operate.scale, ["job", "9" * 23], "not a number of nodes"),
        (operate.scale, ["job", "9" * 5000], "not a number of nodes"),
        (operate.evict, ["job", "0", "--for", "soon"], "not a duration"),
    ],
)
def test_what_cannot_be_done_is_said(
    job: Job, command: click.Command, words: list[str], why: str
) -> None:
    job.start("n0", "n1")
    refused = job.say(command, *words)
    assert isinstance(refused.exception, RendezvousError)
    assert why in str(refused.exception)
    assert refused.output == ""


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90.0), ("10m", 600.0), ("2h", 7200.0), ("1d", 86400.0), ("1.5", 1.5), ("0s", 0.0)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-1s", "1 h 2", "1e9", "nan", "1158d", "9" * 400])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(RendezvousSettingsError, match="not a duration"):
        parse_duration(text)


@pytest.mark.parametrize("command", ["drain", "evict", "release", "scale"])
def test_help_says_what_restarts_all_workers(command: str) -> None:
    text = getattr(operate, command).help
    assert "workers" in text
    assert "stopped and started again" in " ".join(text.split())
