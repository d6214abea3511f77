"""What an operator may see of a coordinator: plain data, from the same state and reasons. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from quorate.coordinator.run import Run
from quorate.coordinator.store import RunStore
from quorate.core.completion import completion
from quorate.core.node import NodeDesc, natural_order

__all__ = ["report", "run_status"]


def report(coordinator: str, connections: int, runs: Iterable[tuple[Run, RunStore]]) -> bytes:
    """Return the status of some runs as JSON.

    Args:
        coordinator: The name of the coordinator.
        connections: How many connections it has.
        runs: The runs with their stores.
    """
    status = {
        "coordinator": coordinator,
        "connections": connections,
        "runs": [run_status(run) | _store_status(store) for run, store in runs],
    }
    return msgspec.json.encode(status)


def _store_status(store: RunStore) -> dict[str, int]:
    return {"store_keys": store.keys, "store_bytes": store.bytes_used}


def run_status(run: Run) -> dict[str, Any]:
    """Return the status of a run: its round, what it waits for, and its nodes."""
    state = run.state
    nodes = sorted(state.last_heartbeats, key=natural_order)
    return {
        "run_id": run.run_id,
        "epoch": state.epoch,
        "round": state.round,
        "state": _phase(run),
        "closed_reason": state.closed_reason,
        "waiting_for": _waiting_for(run),
        "min_nodes": state.agreed.min_nodes if state.agreed else None,
        "max_nodes": state.agreed.max_nodes if state.agreed else None,
        "world_size": len(state.world.members) if state.world else 0,
        "nodes": [_node_status(run, node) for node in nodes],
        "departed": {str(node): reason for node, reason in state.departed.items()},
    }


def _phase(run: Run) -> str:
    if run.state.closed:
        return "closed"
    if run.state.complete:
        return "complete"
    return "joining" if run.state.world is None else "regrouping"


def _waiting_for(run: Run) -> str:
    if run.state.closed or run.state.complete:
        return ""
    return completion(run.anyone()).reason


def _node_status(run: Run, node: NodeDesc) -> dict[str, Any]:
    state, session = run.state, run.sessions.get(node)
    profile = state.profiles[node]
    return {
        "node": str(node),
        "node_id": profile.node_id,
        "addr": node.addr,
        "pid": node.pid,
        "state": _place_of(run, node),
        "rank": state.participants.get(node) if state.complete else None,
        "connected": session is not None and session.connection is not None,
        "heard_s_ago": round(run.now_s - session.heard_s, 1) if session is not None else None,
        "labels": profile.labels,
    }


def _place_of(run: Run, node: NodeDesc) -> str:
    state = run.state
    for name, members in (
        ("participant", state.participants),
        ("returning", state.survivors),
        ("waiting", state.wait_list),
        ("spare", state.redundancy_list),
        ("straggler", state.stragglers),
    ):
        if node in members:
            return name
    return "attached"
