"""What the command tells a load process to do, and what that one reports: typed, as JSON."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

__all__ = [
    "Begin",
    "Close",
    "Connect",
    "Done",
    "Join",
    "Moments",
    "Places",
    "Reattach",
    "Regroup",
    "Report",
    "Task",
    "Traffic",
    "Trouble",
    "Usage",
    "Work",
    "decode_report",
    "decode_task",
    "encode",
]


class _Message(msgspec.Struct, tag=True):
    """A task or a report; its class is its tag."""


class Begin(_Message):
    """Make agents, which do nothing yet.

    Args:
        run_id: The run that they will join.
        endpoints: What they connect to.
        nodes: The size of the world.
        min_nodes: The least size of it.
        first: The number of the first agent of this process.
        count: How many agents this process holds.
    """

    run_id: str
    endpoints: list[str]
    nodes: int
    min_nodes: int
    first: int
    count: int


class Connect(_Message):
    """Let all agents connect; reported with `Moments`."""

    timeout_s: float


class Join(_Message):
    """Let all agents join, and connect if they have not yet; reported with `Places`."""

    timeout_s: float


class Regroup(_Message):
    """Let every agent that is told of a change join again; reported with `Moments`, `told` set."""

    timeout_s: float


class Reattach(_Message):
    """Wait until every agent has been attached for a second time; reported with `Moments`."""

    timeout_s: float


class Usage(_Message):
    """Ask for the traffic of all connections since they were made."""


class Work(_Message):
    """Let every agent use the store of its round, one operation after another.

    Args:
        operation: `set`, `get`, `add` or `wait`.
        count: How many operations of each agent.
        timeout_s: How long all of it may take.
    """

    operation: str
    count: int
    timeout_s: float


class Close(_Message):
    """Close the run and all connections."""


class Done(_Message):
    """It is done."""


class Moments(_Message):
    """When it began, and when it was done for each agent, on the machine's monotonic clock.

    Args:
        began_s: The first step of the first agent.
        ended_s: For each agent for which it was done in time.
        told_s: For each agent, when it was told of a change, if it was.
        durations_s: How long each step of an agent took, where that is the subject.
    """

    began_s: float
    ended_s: list[float]
    told_s: list[float] = []
    durations_s: list[float] = []


class Places(_Message):
    """What the agents were given, and when.

    Args:
        began_s: The first step of the first agent.
        ended_s: For each agent that has its place.
        ranks: The rank of each of them.
        worlds: The worlds that they were given, each once.
    """

    began_s: float
    ended_s: list[float]
    ranks: list[int]
    worlds: list[str]


class Traffic(_Message):
    """Bytes of TCP payload of all connections, as seen by the agents."""

    sent_bytes: int
    received_bytes: int


class Trouble(_Message):
    """It cannot be done."""

    message: str


Task: TypeAlias = Begin | Connect | Join | Regroup | Reattach | Usage | Work | Close
Report: TypeAlias = Done | Moments | Places | Traffic | Trouble

_encoder = msgspec.json.Encoder()
_task_decoder: msgspec.json.Decoder[Task] = msgspec.json.Decoder(Task)
_report_decoder: msgspec.json.Decoder[Report] = msgspec.json.Decoder(Report)


def encode(message: Task | Report) -> bytes:
    """Return the bytes of a message."""
    return _encoder.encode(message)


def decode_task(body: bytes) -> Task:
    """Return a task from its bytes."""
    return _task_decoder.decode(body)


def decode_report(body: bytes) -> Report:
    """Return a report from its bytes."""
    return _report_decoder.decode(body)
