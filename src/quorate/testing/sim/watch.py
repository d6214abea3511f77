"""What is checked of a coordinator: that it stores before it tells, and whom it takes for lost."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import msgspec

from quorate.coordinator.ledgers.records import StoreResult, amendment_key, result_key, run_key
from quorate.coordinator.ledgers.stored_state import StoredState
from quorate.coordinator.runs.run import Run
from quorate.coordinator.runs.store import ROUNDS_KEPT
from quorate.core.node import NodeDesc
from quorate.core.settings import RendezvousSettings
from quorate.core.state import Place, RendezvousState, World
from quorate.errors import RendezvousClosedError, RendezvousError, RendezvousTimeoutError
from quorate.testing.sim.agent import RUN, SimAgent
from quorate.testing.sim.beliefs import Beliefs
from quorate.testing.sim.coordinator import SimCoordinator
from quorate.testing.sim.endings import Endings
from quorate.testing.sim.gathering import Gathering, wanted
from quorate.testing.sim.ledger import SimLedger
from quorate.testing.sim.line import overtaken
from quorate.testing.sim.patience import Patience
from quorate.testing.sim.rules import WorldRules, require
from quorate.testing.sim.schedule import Schedule
from quorate.testing.sim.stores import Stores
from quorate.testing.sim.trace import Trace
from quorate.wire.messages import (
    Answer,
    Changed,
    Flag,
    Joined,
    Number,
    Reply,
    StoreChange,
    StoreRequest,
    Value,
    WorldRecord,
)

__all__ = ["Watch"]

# How the keys begin that the state lies under.
STATE_KINDS = (run_key(""), amendment_key("", 0)[:-2])

# Where it counts who comes first (R3, R5).
LINES = ("participants", "survivors", "wait_list", "redundancy_list")

LOST = re.compile(r"lost (\S+): (its process ended|it was silent)")

# A silent connection is noticed after an interval; then it is dialled again, with pauses of up to
# a second and a second's patience each time.
REDIAL_S = 3.5

# The coordinator ticks four times a second and looks for the silent once a second.
TICKS_S = 1.5


_Nodes = tuple[NodeDesc, ...]


class _Before(NamedTuple):
    """What matters of a state, copied before anything happens to it."""

    epoch: str = ""
    world: World | None = None
    departed: _Nodes = ()
    kept: _Nodes = ()
    placed: _Nodes = ()
    wait_list: _Nodes = ()
    spares: _Nodes = ()


def _copied(state: RendezvousState) -> _Before:
    return _Before(
        state.epoch,
        state.world,
        tuple(state.departed),
        tuple(state.survivors),
        tuple(state.participants),
        tuple(state.wait_list),
        tuple(state.redundancy_list),
    )


@lru_cache(maxsize=4)
def _loaded(records: tuple[tuple[str, bytes], ...]) -> RendezvousState:
    return StoredState(RUN).load(dict(records))


def _state_in(records: Mapping[str, bytes | None]) -> RendezvousState | None:
    """Return the state that a ledger holds, if it holds one; a key without a value is deleted."""
    if records.get(run_key(RUN)) is None:
        return None
    return _loaded(
        tuple(
            (key, value)
            for key, value in records.items()
            if value is not None and key.startswith(STATE_KINDS)
        )
    )


def _told_of(state: RendezvousState) -> dict[str, object]:
    """Return all of a state that must be stored, with the order where it counts who came first."""
    told = {name: getattr(state, name) for name in state.__struct_fields__}
    told |= {f"order of {name}": list(told[name]) for name in LINES}
    # How much is left of them is counted down, and stored from time to time (R9).
    return told | {"bans": {who: ban.reason for who, ban in state.bans.items()}}


class Watch:
    """Checks a coordinated run while it goes on.

    Args:
        schedule: The true time.
        settings: The settings of the run.
        trace: Where events are noted.

    Attributes:
        rules: What holds of worlds.
        agents: All agents there ever were, by their nodes' names.
        ledger: What the coordinators keep their runs in.
        endings: Why agents may be turned away for good.
        stores: What holds of the stores of worlds.
    """

    def __init__(self, schedule: Schedule, settings: RendezvousSettings, trace: Trace) -> None:
        self.rules = WorldRules(settings, trace)
        self.agents: dict[str, SimAgent] = {}
        self.ledger = SimLedger(schedule, self._stored)
        self.endings = Endings(self.agents, settings.agreed)
        self.stores = Stores()
        self._schedule = schedule
        self._settings = settings
        self._trace = trace
        self._before = _Before()
        self._blamed: dict[str, list[SimAgent]] = {}
        self._verdicts: dict[str, NodeDesc] = {}
        self._finished: set[NodeDesc] = set()
        self._open_since: tuple[object, float] | None = None
        self._called_since: tuple[object, float] | None = None
        self._decider: SimCoordinator | None = None
        self._gathering = Gathering(settings)
        self._beliefs = Beliefs(settings)
        self._patience = Patience(self.agents, settings.timeout.join.total_seconds())

    # What a coordinator does.

    def loaded(self, coordinator: SimCoordinator) -> None:
        """See `Watcher`: what was told to somebody is in what was loaded (R14)."""
        self._open_since = self._called_since = None
        self._decider = coordinator
        self._gathering = Gathering(self._settings)
        self._beliefs.forget()
        self._patience.forget()
        self._trace.note(coordinator.name, "decides")

    def before(self, coordinator: SimCoordinator) -> None:
        """See `Watcher`."""
        run = _run_of(coordinator)
        self._before = _Before() if run is None else _copied(run.state)
        self._look(coordinator, run)

    def after(self, coordinator: SimCoordinator) -> None:
        """See `Watcher`: a world that was completed just now follows from the last."""
        run = _run_of(coordinator)
        if run is None:
            return
        state, before = run.state, self._before
        # A state forgets them when the next round begins.
        self._finished |= state.finishing.keys()
        if state.world is not None and state.world is not before.world:
            last = before.world if before.epoch == state.epoch else None
            self.rules.completed(last, before.departed, before.kept, state)
            if coordinator is self._decider:
                self._in_time(run, before)
        if before.epoch == state.epoch:
            self._in_order(run, before)
            if coordinator is self._decider and before.kept:
                early = self._gathering.dropped_early(state, run.now_s, before.kept)
                require(not early, "R10", "{} had more time to come back", early)
        self._look(coordinator, run)
        if not coordinator.is_certain():
            self._open_since = self._called_since = None
        elif state.agreed is not None:
            self._bounded(coordinator, state)

    def vouching(self, coordinator: SimCoordinator, changes: Mapping[str, bytes | None]) -> None:
        """See `Watcher`: all that is known is stored then (R14)."""
        run = _run_of(coordinator)
        if run is None or coordinator.fence != self.ledger.fence:
            # What one that was deposed would store changes nothing.
            return
        state = _state_in({**self.ledger.records, **changes})
        if state is None:
            # A run begins with its first node, and is not worth storing before.
            require(run.state.agreed is None, "R14", "nothing of {} is stored", run.state)
            return
        known, stored = _told_of(run.state), _told_of(state)
        other = {name: (what, stored[name]) for name, what in known.items() if what != stored[name]}
        require(not other, "R14", "what is known is not what is stored: {}", other)

    def telling(self, coordinator: SimCoordinator, connection: int, message: Reply) -> None:
        """See `Watcher`: whatever is told is stored (R14)."""
        if isinstance(message, Joined):
            world = message.place.world
            require(world in self.rules.worlds, "R14", "{} was told, but is not stored", world)
        elif isinstance(message, Changed) and message.closed:
            state = self._state()
            closed = state is not None and state.closed
            require(closed, "R14", "agents hear that the run is closed, which is not stored")
        elif isinstance(message, Number | Flag | Value):
            self._answering(coordinator, connection, message)

    def ticked(self, coordinator: SimCoordinator) -> None:
        """See `Watcher`: who is at work knows whether there is a reason to regroup (R8)."""
        run = _run_of(coordinator)
        if run is not None and run.state.agreed is not None and coordinator.is_certain():
            self._beliefs.check(coordinator, run)
            self._patience.check(run)
            overdue = self._gathering.overdue(run.state)
            require(not overdue, "R4", "{} is not complete, though {}", run.state.name, overdue)

    def happened(self, coordinator: SimCoordinator, text: str) -> None:
        """See `Watcher`: whoever is declared lost has given reason to (R9, R11)."""
        self._trace.note(coordinator.name, "{}", text)
        found = LOST.match(text)
        if found is None:
            return
        agent = self.agents[found[1]]
        # One that was deposed but may still be certain decides in vain: its writes are refused.
        require(
            coordinator.is_certain(), "R17", "{} was lost to one that does not decide", agent.node
        )
        if found[2] == "its process ended":
            require(not agent.alive, "R11", "{} was lost and has not ended", agent.node)
        else:
            self._was_silent(coordinator, agent)

    def judging(self, reason: str, asker: SimAgent) -> None:
        """Note who says how the job has ended: it closes the run of its own world only (R7)."""
        self.endings.verdicts.add(asker.node)
        self._verdicts[reason] = asker.node

    def failing(self, reason: str, asker: SimAgent) -> None:
        """Note who is dead as a member says that its job has failed: that is why it did (R7)."""
        world = self.rules.worlds.get(asker.holding) if asker.holding is not None else None
        members = world.members if world is not None else ()
        agents = [self.agents[str(member)] for member in members]
        self._blamed[reason] = [agent for agent in agents if not agent.alive]

    # What agents hear.

    def placed(self, agent: SimAgent, place: Place) -> None:
        """See `Listener`."""
        self._trace.note(str(agent.node), "has rank {} of {}", place.rank, place.world)
        require(agent.settings == self._settings.agreed, "R13", "{} has other settings", agent.node)
        self.rules.placed(agent.node, place)

    def failed(self, agent: SimAgent, error: RendezvousError) -> None:
        """See `Listener`."""
        self._trace.note(str(agent.node), "{}: {}", type(error).__name__, error)
        if isinstance(error, RendezvousClosedError):
            told = error.reason in self.rules.may_close
            require(told, "R7", "{} was turned away for {!r}", agent.node, error.reason)
        elif isinstance(error, RendezvousTimeoutError):
            self._patience.timed_out(agent, self._schedule.now_s)
        else:
            rule = self.endings.broken_rule(agent, error)
            require(not rule, rule, "{} was turned away: {!r}", agent.node, error)

    def recorded(self, agent: SimAgent, record: WorldRecord) -> None:
        """See `Listener`: a record is that of a world, which is stored (R1, R14)."""
        world = record.world
        known = None if world is None else self.rules.worlds.get(world.name)
        require(known == world, "R1", "{} is told {}, stored is {}", agent.node, world, known)

    def stored(
        self, agent: SimAgent, request: StoreRequest, answer: Answer | RendezvousError
    ) -> None:
        """See `Listener`: every change was made once (R14)."""
        self.stores.answered(agent.node.incarnation, request, answer, self._schedule.now_s)

    def asked(self, agent: SimAgent, request: StoreRequest) -> None:
        """See `Listener`."""
        self.stores.asked(agent.node.incarnation, request, self._schedule.now_s)

    def _stored(self) -> None:
        state = self._state()
        if state is not None and state.agreed is not None:
            self.rules.state(state)
            self.endings.is_closed |= state.closed
            if state.closed and state.world is not None:
                self._no_symptom(state, state.world)
                self._no_outsider(state, state.world)

    def _look(self, coordinator: SimCoordinator, run: Run | None) -> None:
        if run is not None and coordinator is self._decider:
            self._gathering.look(run.state, run.now_s)
            self._beliefs.look(run)
            self._patience.look(run)

    def _in_time(self, run: Run, before: _Before) -> None:
        """Check that a round is not complete before it should be (R4)."""
        last = before.world if before.epoch == run.state.epoch else None
        early = self._gathering.too_early
        why = early(run.state, run.now_s, before.kept, last, before.departed)
        require(not why, "R4", "{} is complete, though {}", run.state.name, why)

    def _in_order(self, run: Run, before: _Before) -> None:
        """Check that places, and prospects of one, go to those who came first (R5, R6)."""
        state = run.state
        if not (before.wait_list or before.spares):
            return
        waiting = [node for node in (*state.wait_list, *state.redundancy_list) if _asks(run, node)]
        placed = {*before.placed, *before.kept}
        entered = [node for node in state.participants if node not in placed]
        left = wanted(state, self._settings) - len(state.participants) - len(state.survivors)
        line = (*before.wait_list, *before.spares)
        passed_over = overtaken(line, entered, waiting, left)
        require(not passed_over, "R5", "{} got the places of {}", entered, passed_over)
        promoted = [node for node in state.wait_list if node in before.spares]
        spares = [node for node in waiting if node in state.redundancy_list]
        passed_over = overtaken(before.spares, promoted, spares, left - len(state.wait_list))
        require(not passed_over, "R6", "{} were promoted before {}", promoted, passed_over)

    def _no_symptom(self, state: RendezvousState, world: World) -> None:
        """Check that a failure has not closed the run that a loss had caused (R7)."""
        for agent in self._blamed.get(state.closed_reason, ()):
            counts = agent.node in world.members and agent.node not in self._finished
            require(not counts, "R7", "a symptom of {}'s loss has closed the run", agent.node)

    def _no_outsider(self, state: RendezvousState, world: World) -> None:
        """Check that nobody's word has closed a run whose world is another one's (R7)."""
        asker = self._verdicts.get(state.closed_reason)
        is_member = asker is None or asker in world.members
        require(is_member, "R7", "{} has closed the run, and is not in {}", asker, world.name)

    def _state(self) -> RendezvousState | None:
        return _state_in(self.ledger.records)

    def _answering(
        self, coordinator: SimCoordinator, connection: int, message: Number | Flag | Value
    ) -> None:
        agent = coordinator.connections[connection].client
        if not isinstance(agent, SimAgent):
            # An operator who closes the run is answered with a flag too.
            return
        asking = agent.asking
        if not isinstance(asking, StoreChange) or asking.id != message.id:
            return
        state = self._state()
        newest = state.world if state is not None else None
        if newest is None or newest.round - asking.space[1] >= ROUNDS_KEPT:
            # The store was removed in the very batch that answers the last change of it.
            return
        data = self.ledger.records.get(result_key(RUN, agent.node.incarnation))
        last = msgspec.msgpack.decode(data, type=StoreResult) if data else None
        stored = last is not None and last.request_id >= message.id
        require(stored, "R14", "{} is answered {}, which is not stored", agent.node, message)

    def _was_silent(self, coordinator: SimCoordinator, agent: SimAgent) -> None:
        now_s, network = self._schedule.now_s, coordinator.network
        heard_s = network.heard_s(agent, coordinator, coordinator.ticked_s)
        silent_s = now_s - max(heard_s, coordinator.started_s)
        least_s = self._settings.silence_s - TICKS_S
        require(silent_s >= least_s, "R9", "{} was silent for {} s only", agent.node, silent_s)
        calm_s = network.calm_s(agent.machine, coordinator.machine)
        patience_s = self._settings.keep_alive_interval.total_seconds() + REDIAL_S
        fine = agent.alive and not agent.frozen and calm_s > patience_s
        require(not fine, "R11", "{} was lost though all was well for {} s", agent.node, calm_s)

    def _bounded(self, coordinator: SimCoordinator, state: RendezvousState) -> None:
        """Check that nobody waits longer than the regroup and the last call may take (R4, R10)."""
        engine, timeout = coordinator.engine, self._settings.timeout
        assert engine is not None
        waits = bool(state.survivors) and not state.complete and not state.closed
        self._open_since = _since(self._open_since, waits, state.name, engine.now_s)
        if self._open_since is not None:
            waited_s = engine.now_s - self._open_since[1]
            limit_s = timeout.regroup.total_seconds() + TICKS_S
            require(
                waited_s <= limit_s, "R10", "waiting for {} since {} s", state.survivors, waited_s
            )
        calling = state.deadline is not None and not (state.closed or state.held or state.complete)
        calling = calling and not state.survivors
        self._called_since = _since(self._called_since, calling, state.deadline, engine.now_s)
        if self._called_since is not None:
            called_s = engine.now_s - self._called_since[1]
            limit_s = timeout.last_call.total_seconds() + TICKS_S
            require(called_s <= limit_s, "R4", "the last call lasts for {} s", called_s)
        short = len(state.participants) < self._settings.min_nodes and not state.complete
        require(not short or state.deadline is None, "R4", "a last call with too few nodes")


def _run_of(coordinator: SimCoordinator) -> Run | None:
    return None if coordinator.engine is None else coordinator.engine.runs.get(RUN)


def _asks(run: Run, node: NodeDesc) -> bool:
    session = run.sessions.get(node)
    return session is not None and session.join is not None


def _since(
    known: tuple[object, float] | None, holds: bool, what: object, now_s: float
) -> tuple[object, float] | None:
    if not holds:
        return None
    return known if known is not None and known[0] == what else (what, now_s)
