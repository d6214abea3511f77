"""What an operator may do to a run, as requests. Pure: the engine stores before it answers (R14).

Each command changes the state by a transition of the core; what follows from the change (rounds
that complete, members that are told, spares that are promoted) is the run's own business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from quorate.coordinator.engine.naming import resolve_ban, resolve_node
from quorate.coordinator.runs.run import Run, shortened
from quorate.core.exclusion import ban_key, time_left
from quorate.core.transitions import ban, drain, hold, lift_ban, release, scale
from quorate.errors import RendezvousClosedError, RendezvousSettingsError
from quorate.wire.messages import (
    Done,
    Drain,
    Evict,
    Hold,
    OperatorRequest,
    Release,
    Scale,
)

__all__ = ["act"]


def act(run: Run, request: OperatorRequest) -> Done:
    """Carry out an operator's command.

    Returns:
        The answer, for when the change is stored.

    Raises:
        RendezvousClosedError: The run is closed.
        RendezvousSettingsError: The run's settings do not allow it.
        RendezvousError: The node that it names is not known.
    """
    if run.state.closed:
        reason = run.state.closed_reason
        raise RendezvousClosedError(
            f"The run '{run.run_id}' is closed ({reason}): nothing can be changed any more.", reason
        )
    return _COMMANDS[type(request)](run, request)


def _drain(run: Run, request: Drain) -> Done:
    node = resolve_node(request.node, run.run_id, run.state)
    if node in run.state.draining:
        return Done(request.id, False, str(node), f"{node} is being drained already")
    reason = _because("drained by the operator", request.reason)
    drain(run.state, run.settings, node, reason, run.observer)
    stays = node in run.state.participants
    run.changed("drained", f"{node} is {reason}", node)
    left = run.reconsider(node)
    when = "at the next regroup" if stays else "now" if left else "once its workers have stopped"
    return Done(request.id, True, str(node), f"{node} leaves {when}")


def _evict(run: Run, request: Evict) -> Done:
    if request.for_s is not None and request.for_s <= 0:
        return _let_in_again(run, request)
    node = resolve_node(request.node, run.run_id, run.state)
    key = ban_key(node, run.state.profiles[node])
    reason = _because("evicted by the operator", request.reason)
    ban(run.state, key, reason, request.for_s)
    run.evict(node, reason)
    out = f"{node} is out, and {key} is kept out {time_left(request.for_s)}"
    return Done(request.id, True, str(node), out)


def _let_in_again(run: Run, request: Evict) -> Done:
    key = resolve_ban(request.node, run.run_id, run.state)
    lift_ban(run.state, key)
    text = f"{key} may join again"
    run.changed("released", text)
    return Done(request.id, True, key, text)


def _hold(run: Run, request: Hold) -> Done:
    reason = shortened(request.reason)
    changed = not run.state.held or run.state.held_reason != reason
    if changed:
        hold(run.state, reason)
        run.changed("held", _because("the operator holds rounds open", reason))
    return Done(request.id, changed, "", "no round completes until the run is released")


def _release(run: Run, request: Release) -> Done:
    changed = run.state.held
    if changed:
        release(run.state)
        run.changed("released", "the operator lets rounds complete")
    text = "rounds complete again" if changed else "the run was not held"
    return Done(request.id, changed, "", text)


def _scale(run: Run, request: Scale) -> Done:
    settings, nodes = run.settings, request.nodes
    if nodes is not None:
        _require_possible(run, nodes)
    changed = run.state.desired_nodes != nodes
    if changed:
        scale(run.state, settings, nodes, run.observer)
        wish = nodes if nodes is not None else settings.max_nodes
        run.changed("scaled", f"the operator wants {wish} node(s)")
    size = settings.max_nodes if nodes is None else nodes
    return Done(request.id, changed, "", f"a round is to have {size} node(s)")


def _require_possible(run: Run, nodes: int) -> None:
    settings = run.settings
    if not settings.min_nodes <= nodes <= settings.max_nodes:
        raise RendezvousSettingsError(
            f"The run '{run.run_id}' has rounds of {settings.min_nodes} to {settings.max_nodes} "
            f"nodes, not of {nodes}: choose a number among these."
        )
    if nodes % settings.node_unit:
        raise RendezvousSettingsError(
            f"The run '{run.run_id}' has rounds of whole units of {settings.node_unit} nodes, not "
            f"of {nodes}: choose a multiple."
        )


def _because(what: str, reason: str) -> str:
    return f"{what}: {shortened(reason)}" if reason else what


_COMMANDS: Mapping[type, Callable[[Run, Any], Done]] = {
    Drain: _drain,
    Evict: _evict,
    Hold: _hold,
    Release: _release,
    Scale: _scale,
}
