"""What an operator may see of a coordinator: plain data, from the same state and reasons. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec

from quorate.coordinator.glimpse import phase
from quorate.coordinator.run import Run
from quorate.coordinator.store import RunStore
from quorate.core.completion import completion
from quorate.core.node import NodeDesc, natural_order
from quorate.core.settings import PROTOCOL_VERSION

__all__ = ["NodeStatus", "report", "run_status"]


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


def report(
    coordinator: str, now: datetime, connections: int, runs: Iterable[tuple[Run, RunStore]]
) -> bytes:
    """Return the status of some runs as JSON.

    Args:
        coordinator: The name of the coordinator.
        now: Its wall clock, for people who look for clocks that are wrong.
        connections: How many connections it has.
        runs: The runs with their stores.
    """
    status = {
        "coordinator": coordinator,
        "time": now,
        "protocol": PROTOCOL_VERSION,
        "connections": connections,
        "runs": [run_status(run) | _store_status(store) for run, store in runs],
    }
    return msgspec.json.encode(status)


def _store_status(store: RunStore) -> dict[str, int]:
    return {"store_keys": store.keys, "store_bytes": store.bytes_used}


def run_status(run: Run) -> dict[str, Any]:
    """Return the status of a run: its round, what it waits for, and its nodes."""
    state, agreed = run.state, run.state.agreed
    nodes = sorted(state.last_heartbeats, key=natural_order)
    places, now_s = _places(run), run.now_s
    return {
        "run_id": run.run_id,
        "epoch": state.epoch,
        "round": state.round,
        "state": phase(run),
        "closed_reason": state.closed_reason,
        "waiting_for": _waiting_for(run),
        "waiting_since_s": _rounded(run.waits_for_s),
        "held": (state.held_reason or "on request") if state.held else None,
        "desired_nodes": state.desired_nodes,
        "min_nodes": agreed.min_nodes if agreed else None,
        "max_nodes": agreed.max_nodes if agreed else None,
        "node_unit": agreed.node_unit if agreed else None,
        "world_size": len(state.world.members) if state.world else 0,
        "nodes": [_node_status(run, node, places.get(node, "attached"), now_s) for node in nodes],
        "departed": {str(node): reason for node, reason in state.departed.items()},
        "bans": [
            {"who": who, "reason": given.reason, "left_s": _rounded(given.left_s)}
            for who, given in state.bans.items()
        ],
    }


def _waiting_for(run: Run) -> str:
    if run.state.closed or run.state.complete:
        return ""
    return completion(run.anyone()).reason


def _node_status(run: Run, node: NodeDesc, place: str, now_s: float) -> NodeStatus:
    state, session = run.state, run.sessions[node]
    profile = state.profiles[node]
    joined_s = session.join.since_s if session.join is not None else None
    return NodeStatus(
        node=str(node),
        node_id=profile.node_id,
        addr=profile.addr or node.addr,
        pid=node.pid,
        state=place,
        rank=state.participants.get(node) if state.complete else None,
        connected=session.connection is not None,
        heard_s_ago=round(now_s - session.heard_s, 1),
        waiting_since_s=None if joined_s is None else round(now_s - joined_s, 1),
        draining=state.draining.get(node),
        labels=profile.labels,
        release=profile.release,
    )


def _places(run: Run) -> dict[NodeDesc, str]:
    state = run.state
    return {
        node: name
        for name, members in (
            ("participant", state.participants),
            ("returning", state.survivors),
            ("waiting", state.wait_list),
            ("spare", state.redundancy_list),
            ("straggler", state.stragglers),
        )
        for node in members
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
