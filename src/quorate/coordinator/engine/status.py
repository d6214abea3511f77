"""What an operator may see of a coordinator: plain data, from the same state and reasons. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import msgspec

from quorate.coordinator.engine.glimpse import JOINED, PARTICIPANT, Glimpse, glimpse
from quorate.coordinator.engine.parts import Parts, members, opened
from quorate.coordinator.runs.run import Run
from quorate.coordinator.runs.session import HeldJoin
from quorate.coordinator.runs.store import RunStore
from quorate.core.node import NodeDesc
from quorate.core.settings import PROTOCOL_VERSION

__all__ = ["NodeStatus", "status_parts"]

# What a run itself costs, in nodes, and how many nodes can be glimpsed in the time in which one is
# described.
RUN_WEIGHT = 4
NODES_GLIMPSED = 32


class NodeStatus(msgspec.Struct, gc=False):
    """What is known of one attached node.

    Args:
        node: Its description, by which commands may name it.
        node_id: Its id, empty if it has none.
        addr: The address at which others reach it.
        pid: The process id of its agent.
        state: `participant`, `returning` (a survivor that is awaited), `waiting`, `spare`,
            `straggler` (it lost its place and is still there), or `attached`.
        rank: Its rank in the world that stands.
        connected: Whether there is a connection to it.
        heard_s_ago: When it was heard last, in seconds.
        waiting_since_s: For how long it has waited for a round, in seconds; `None` if it does not.
        draining: Why it leaves at the next regroup; `None` if it stays.
        labels: What it was labelled with.
        release: The release of quorate that it runs.
    """

    node: str
    node_id: str
    addr: str
    pid: int
    state: str
    rank: int | None
    connected: bool
    heard_s_ago: float | None
    waiting_since_s: float | None
    draining: str | None
    labels: dict[str, str]
    release: str


def status_parts(
    coordinator: str, now: datetime, connections: int, runs: Iterable[tuple[Run, RunStore]]
) -> Parts:
    """Yield the status of some runs as JSON, in parts, each with what it weighs in nodes.

    Each run is shown as it is at one moment, that at which its turn comes; the nodes in the order
    in which they came, for it would take long to sort them.

    Args:
        coordinator: The name of the coordinator.
        now: Its wall clock, for people who look for clocks that are wrong.
        connections: How many connections it has.
        runs: The runs with their stores; each is asked for when its turn comes.
    """
    head = {
        "coordinator": coordinator,
        "time": now,
        "protocol": PROTOCOL_VERSION,
        "connections": connections,
    }
    yield 1, opened(head) + b',"runs":['
    separator = b""
    for run, store in runs:
        seen = glimpse(run)
        weight = RUN_WEIGHT + len(seen.nodes) // NODES_GLIMPSED
        yield weight, separator + opened(_summary(seen) | _store_status(store))
        yield from _run_parts(seen)
        separator = b","
    yield 0, b"]}"


def _run_parts(seen: Glimpse) -> Parts:
    yield 0, b',"nodes":['
    yield from members(list, _nodes(seen))
    yield 0, b'],"departed":{'
    yield from members(dict, ((str(node), reason) for node, reason in seen.departed.items()))
    yield 0, b'},"bans":['
    yield from members(list, _bans(seen))
    yield 0, b"]}"


def _summary(seen: Glimpse) -> dict[str, Any]:
    return {
        "run_id": seen.run_id,
        "epoch": seen.epoch,
        "round": seen.round,
        "state": seen.phase,
        "closed_reason": seen.closed_reason,
        "waiting_for": seen.waiting_for,
        "waiting_since_s": _rounded(seen.waits_for_s),
        "held": seen.held,
        "desired_nodes": seen.desired_nodes,
        "min_nodes": seen.min_nodes,
        "max_nodes": seen.max_nodes,
        "node_unit": seen.node_unit,
        "world_size": seen.world_size,
    }


def _store_status(store: RunStore) -> dict[str, int]:
    return {"store_keys": store.keys, "store_bytes": store.bytes_used}


def _nodes(seen: Glimpse) -> Iterator[NodeStatus]:
    columns = (seen.nodes, seen.connections, seen.heard_s, seen.joins)
    for node, connection, heard_s, join in zip(*columns, strict=True):
        yield _node_status(seen, node, connection is not None, heard_s, join)


def _node_status(
    seen: Glimpse, node: NodeDesc, connected: bool, heard_s: float, join: HeldJoin | None
) -> NodeStatus:
    profile, standing = seen.profiles[node], seen.standing(node)
    return NodeStatus(
        node=str(node),
        node_id=profile.node_id,
        addr=profile.addr or node.addr,
        pid=node.pid,
        state=PARTICIPANT if standing.state == JOINED else standing.state,
        rank=standing.rank,
        connected=connected,
        heard_s_ago=round(seen.now_s - heard_s, 1),
        waiting_since_s=None if join is None else round(seen.now_s - join.since_s, 1),
        draining=seen.draining.get(node),
        labels=profile.labels,
        release=profile.release,
    )


def _bans(seen: Glimpse) -> Iterator[dict[str, Any]]:
    for who, given in seen.bans.items():
        yield {"who": who, "reason": given.reason, "left_s": _rounded(given.left_s)}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
