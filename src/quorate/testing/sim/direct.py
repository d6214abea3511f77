"""A whole run of the direct way in one seed: faults first, then healing, then progress."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial
from itertools import count

from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.state import Place, RendezvousState, capacity
from quorate.errors import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousError,
    RendezvousGracefulExitError,
    RendezvousReplacedError,
    RendezvousTimeoutError,
)
from quorate.testing.sim.gathering import are_enough
from quorate.testing.sim.line import overtaken
from quorate.testing.sim.node import SimNode
from quorate.testing.sim.process import DRIFT_MAX, Machine
from quorate.testing.sim.result import SimResult
from quorate.testing.sim.rules import WorldRules, require, violation_of
from quorate.testing.sim.schedule import Schedule
from quorate.testing.sim.setting import draw_node_count, draw_settings
from quorate.testing.sim.shared import SharedState
from quorate.testing.sim.trace import Trace, Violation

__all__ = ["DirectWorld"]

STEP_S = 1.0
FAULTS_S = (5.0, 12.0)
PAUSE_S = (0.2, 2.0)
SHORT_S = (0.2, 3.0)
LONG_S = (3.0, 9.0)
CLOSING = 0.15
SUPERVISED = 0.7

# In one run of eight, nodes that wait hear of a change; elsewhere they look again.
WATCHED_EVERY = 8
SLACK_S = 30.0

# An observer looks about once a second; its clock may be that much too fast.
JUDGING_S = 0.1


class DirectWorld:
    """One run under faults. `run` plays it; the same seed plays the same again.

    Args:
        seed: Whatever is left to chance follows from it.
        events_max: How many events are kept for the trace; `None` for all.
    """

    def __init__(self, seed: int, events_max: int | None = 200) -> None:
        self.seed = seed
        self.schedule = Schedule(seed)
        self.trace = Trace(self.schedule, events_max)
        self.node_count = draw_node_count(self.schedule)
        self.settings = draw_settings(self.schedule, self.node_count)
        self.rules = WorldRules(self.settings, self.trace)
        self.shared = SharedState(self._written)
        self.shared.watched = seed % WATCHED_EVERY == 0
        self.nodes: list[SimNode] = []
        self._has_node_ids = self.schedule.chance(0.5)
        self._pids = count(1)
        self._beats: dict[NodeDesc, tuple[object, float]] = {}
        self._last: RendezvousState | None = None
        self._verdicts: dict[str, NodeDesc] = {}
        self._regroups_since_s = 0.0
        self._until_s = 0.0
        self._kinds = self._draw_kinds()

    def run(self) -> SimResult:
        """Play the run to its end."""
        violation = violation_of(self._play)
        trace = tuple(self.trace.lines()) if violation is not None else ()
        rounds, now_s = len(self.rules.worlds), self.schedule.now_s
        faults = self.trace.faults
        return SimResult(
            "direct", self.seed, self.node_count, rounds, now_s, faults, violation, trace
        )

    def living(self) -> list[SimNode]:
        """Return the nodes that have not ended."""
        return [node for node in self.nodes if node.alive]

    def start_node(self, machine: Machine | None = None, timeout_s: float | None = None) -> None:
        """Start a node on a machine, a new one if none is given."""
        pid = next(self._pids)
        machine = machine or Machine(self.schedule, f"n{pid}")
        desc = NodeDesc(machine.name, pid, 0, f"life{pid}")
        draw = self.schedule.random
        profile = NodeProfile(
            node_id=machine.name if self._has_node_ids else "",
            rank_hint=draw.choice((None, pid)),
            labels={"block": draw.choice("ab")},
            port=7,
        )
        node = SimNode(self.schedule, machine, self.shared, desc, profile, self.settings, self)
        self.nodes.append(node)
        self.trace.note(str(desc), "starts")
        node.handle(node.start, timeout_s)

    def state(self) -> RendezvousState | None:
        """Return the state that is stored."""
        return None if self.shared.data is None else self.shared.decode(self.shared.data)

    def _play(self) -> None:
        for _ in range(self.node_count):
            self.schedule.after(self.schedule.between(0.0, 1.5), self.start_node)
        self.schedule.run_until(3.0)
        self._until_s = self.schedule.now_s + self.schedule.between(*FAULTS_S)
        self._next()
        self.schedule.run_until(self._until_s)
        self._heal()
        self._progress()

    # What is checked.

    def placed(self, node: SimNode, place: Place) -> None:
        """See `NodeListener`."""
        self.trace.note(str(node.node), "has rank {} of {}", place.rank, place.world)
        stored = place.world in self.rules.worlds
        require(stored, "R14", "{} was told, but was never stored", place.world)
        self.rules.placed(node.node, place)

    def retries(self, node: SimNode, error: RendezvousConnectionError) -> None:
        """See `NodeListener`."""
        self.trace.note(str(node.node), "tries again: {}", error)

    def failed(self, node: SimNode, error: RendezvousError) -> None:
        """See `NodeListener`: who is turned away for good has given reason to."""
        self.trace.note(str(node.node), "{}: {}", type(error).__name__, error)
        about = (node.node, error)
        if isinstance(error, RendezvousConnectionError):
            node.bounds.gives_up()
            if self.schedule.chance(SUPERVISED):
                wait_s = self.schedule.between(0.0, 2.0)
                self.schedule.after(wait_s, self.start_node, node.machine)
        elif isinstance(error, RendezvousClosedError | RendezvousGracefulExitError):
            told = node.closed_reason in self.rules.may_close
            require(told, "R7", "{} was turned away: {}", *about)
        elif isinstance(error, RendezvousReplacedError):
            require(self._has_heir(node), "R12", "{} has no heir: {}", *about)
        else:
            in_vain = isinstance(error, RendezvousTimeoutError)
            require(in_vain, "R7", "{} was turned away: {}", *about)

    def _has_heir(self, node: SimNode) -> bool:
        """Return whether there is another life; who of two that live joins last is the heir."""
        lives = [other for other in self.nodes if other.machine is node.machine]
        return self._has_node_ids and len(lives) > 1

    def _written(self, writer: object, before: bytes | None, data: bytes) -> None:
        """Check a write against the state that it replaces."""
        state, last = self.shared.decode(data), self._last if before is not None else None
        self.rules.state(state)
        is_full = len(state.participants) >= self.settings.max_nodes
        require(state.complete or not is_full, "R4", "round {} is full and open", state.round)
        if state.world is not None and (last is None or state.world != last.world):
            self._completed(writer, last, state)
        if last is None or state.regrouping_since != last.regrouping_since:
            self._regroups_since_s = self.schedule.now_s
        if last is not None:
            self._no_live_node_was_lost(writer, last, state)
            self._stood_in_line(writer, last, state)
            if state.closed and not last.closed:
                self._no_outsider_ended_it(state)
        now_s = self.schedule.now_s
        for node, beat in state.last_heartbeats.items():
            if node not in self._beats or self._beats[node][0] != beat:
                self._beats[node] = (beat, now_s)
        self._last = state

    def _completed(
        self, writer: object, last: RendezvousState | None, state: RendezvousState
    ) -> None:
        """Check a new world; nothing says whether its writer has kept its place in it."""
        known, departed = (None, {}) if last is None else (last.world, last.departed)
        self._completed_in_time(writer, last, state)
        try:
            self.rules.completed(known, departed, (), state)
        except Violation:
            given_up = [] if last is None else self._given_up(writer, last)
            if not given_up:
                raise
            self.rules.completed(known, [*departed, *given_up], (), state)

    def _completed_in_time(
        self, writer: object, last: RendezvousState | None, state: RendezvousState
    ) -> None:
        """Check that a round had all its nodes, or all that are left, or its last call (R4)."""
        assert isinstance(writer, SimNode)
        assert state.world is not None
        # Who does not fill a unit has joined, and waits again.
        joined = state.participants.keys() | _surplus(last, state)
        if len(joined) >= self.settings.max_nodes:
            return
        is_enough = last is not None and are_enough(
            last.world, last.departed, joined, self.settings
        )
        others = [n for n in state.last_heartbeats if n not in joined and n not in state.stragglers]
        if is_enough and not others:
            return
        is_over = last is not None and writer.bounds.call_is_over(last.deadline)
        require(is_over, "R4", "{} was complete before its last call was over", state.world.name)

    def _stood_in_line(self, writer: object, last: RendezvousState, state: RendezvousState) -> None:
        """Check that places are kept for long enough (R10), and that all wait in order (R5, R6)."""
        assert isinstance(writer, SimNode)
        node = writer.node
        for survivor in last.survivors.keys() - state.survivors.keys() - {node}:
            if survivor in state.last_heartbeats:
                is_over = writer.bounds.regroup_is_over(last.regrouping_since)
                require(is_over, "R10", "{} took {}'s place too early", node, survivor)
        for before, after in _lists(last, state):
            stood = [n for n in before if n in after and n != node]
            stand = [n for n in after if n in before and n != node]
            require(stood == stand, "R6", "{} stood in line, now as {}", stood, stand)
        if node in state.wait_list and node not in last.wait_list:
            is_last = next(reversed(state.wait_list)) == node
            require(is_last, "R6", "{} has not come last: {}", node, [*state.wait_list])
        self._was_next(node, last, state)

    def _was_next(self, node: NodeDesc, last: RendezvousState, state: RendezvousState) -> None:
        """Check that a node that enters a round, or is promoted, was the next (R5, R6)."""
        placed = state.participants.keys() | state.survivors.keys() | _surplus(last, state)
        left = self.settings.max_nodes - len(placed)
        known = last.participants.keys() | last.survivors.keys()
        has_entered = node in placed and node not in known
        is_promoted = node in last.redundancy_list and node in state.wait_list
        if has_entered or is_promoted:
            line = [*last.wait_list, *last.redundancy_list]
            still = [n for n in line if n in state.last_heartbeats and n != node]
            late = overtaken(line, [node], still, left - is_promoted)
            require(not late, "R5", "{} was served before {}", node, late)

    def _given_up(self, writer: object, last: RendezvousState) -> list[NodeDesc]:
        """Return the writer if it may have given its place up: it was late, or silent for too long.

        That it does (R8, R10), joins as a newcomer and completes the round may be one write.
        """
        assert isinstance(writer, SimNode)
        node, now_s = writer.node, self.schedule.now_s
        limit_s = self.settings.timeout.regroup.total_seconds() * (1 - DRIFT_MAX)
        is_late = node in last.survivors and now_s - self._regroups_since_s >= limit_s
        beat = self._beats.get(node)
        was_silent = beat is not None and now_s - beat[1] >= self.settings.silence_s - JUDGING_S
        return [node] if is_late or was_silent else []

    def _no_outsider_ended_it(self, state: RendezvousState) -> None:
        """Check that a word about the job has closed the run only while its world stood (R7)."""
        node = self._verdicts.get(state.closed_reason)
        stood = state.complete and node in state.participants and not state.departed
        require(node is None or stood, "R7", "{} has closed a run that it is no part of", node)

    def _no_live_node_was_lost(
        self, writer: object, last: RendezvousState, state: RendezvousState
    ) -> None:
        """Check that whoever is taken out was silent for long enough (R9)."""
        assert isinstance(writer, SimNode)
        for node in last.last_heartbeats:
            if node in state.last_heartbeats or node == writer.node or node in state.replaced:
                continue
            silent_s = self.schedule.now_s - self._beats[node][1]
            least_s = self.settings.silence_s - JUDGING_S
            require(silent_s >= least_s, "R9", "{} was silent for {} s only", node, silent_s)
            self.trace.note(str(writer.node), "takes out {}", node)

    def _progress(self) -> None:
        """Demand that all who live come to rest, in bounded time."""
        timeout = self.settings.timeout
        windows_s = timeout.last_call.total_seconds() + timeout.regroup.total_seconds()
        limit_s = self.schedule.now_s + 2 * self.settings.silence_s + 2 * windows_s + SLACK_S
        complaint = "nothing yet"
        while self.schedule.now_s < limit_s:
            missing = self.settings.min_nodes - sum(not node.over for node in self.living())
            for _ in range(missing):
                self.start_node()
            self.schedule.run_until(self.schedule.now_s + STEP_S)
            complaint = next(self._complaints(), "")
            if not complaint:
                return
        raise Violation("R8", f"no progress after healing: {complaint}")

    def _complaints(self) -> Iterator[str]:
        """Yield why the run is not at rest."""
        state = self.state()
        if state is None:
            yield "there is no run"
        elif state.closed:
            for node in self.living():
                if not node.closed:
                    yield f"{node.node} does not know that the run is closed"
        elif not state.complete:
            yield f"round {state.round} is not complete"
        else:
            yield from self._misplaced(state)

    def _misplaced(self, state: RendezvousState) -> Iterator[str]:
        wanting = [node for node in self.living() if not node.over]
        members = 0
        for node in wanting:
            if node.node in state.participants:
                members += 1
                if node.holding != state.name:
                    yield f"{node.node} holds {node.holding}, the world is {state.name}"
                elif node.waiting:
                    yield f"{node.node} sees {node.waiting} waiting"
            elif node.node not in state.wait_list and node.node not in state.redundancy_list:
                yield f"{node.node} is neither in the world nor waiting for the next"
        if members != len(state.participants):
            yield f"the world of {len(state.participants)} has {members} living members"
        full = min(len(wanting), capacity(state, self.settings))
        full -= full % self.settings.node_unit
        if members < full:
            yield f"{members} of {full} nodes are in the world"

    # What goes wrong.

    def _next(self) -> None:
        if self.schedule.now_s < self._until_s:
            self.schedule.random.choice(self._kinds)()
            self.schedule.after(self.schedule.between(*PAUSE_S), self._next)

    def _heal(self) -> None:
        self.trace.note("world", "heals")
        self._mend()
        for node in self.living():
            backend = node.backend
            backend.cut_off = backend.losing_reply = backend.repeating = node.stuck = False
            backend.late_s, node.crash = 0.0, None

    def _draw_kinds(self) -> list[Callable[[], None]]:
        every: list[Callable[[], None]] = [
            self._kill,
            self._crash,
            self._freeze,
            self._restart,
            self._second_life,
            self._leave,
            self._newcomer,
            self._impatient_newcomer,
            self._stuck_caller,
            self._slow_caller,
            self._cut_off,
            self._lose_reply,
            self._repeat_write,
            self._late_write,
            self._losing_backend,
            self._slow_backend,
            self._unreachable_backend,
            self._lose_state,
            self._jump_clock,
        ]
        kinds = self.schedule.random.sample(every, self.schedule.random.randint(3, 8))
        if self.schedule.chance(CLOSING):
            kinds.append(self._close)
        return kinds

    def _some(self) -> list[SimNode]:
        living = self.living()
        most = 1 if self.schedule.chance(0.6) else max(1, len(living) // 3)
        return self.schedule.random.sample(living, min(len(living), most))

    def _duration_s(self) -> float:
        return self.schedule.between(*(SHORT_S if self.schedule.chance(0.6) else LONG_S))

    def _kill(self) -> None:
        for node in self._some():
            self.trace.fault("node killed", str(node.node))
            node.die()

    def _crash(self) -> None:
        """End nodes where they wait: between any two steps of what they do."""
        for node in self._some():
            turns = self.schedule.random.randint(1, 12)
            again = self.schedule.chance(0.5)
            self.trace.fault("node crashes", str(node.node), "in {} turns, again={}", turns, again)
            node.crash = (turns, partial(self._end, node, again))

    def _end(self, node: SimNode, again: bool) -> None:
        self.trace.note(str(node.node), "crashes")
        node.die()
        if again:
            self.schedule.after(self.schedule.between(0.0, 2.0), self.start_node, node.machine)

    def _freeze(self) -> None:
        for node in self._some():
            seconds = self._duration_s()
            self.trace.fault("node frozen", str(node.node), "for {:.1f} s", seconds)
            node.freeze(seconds)

    def _restart(self) -> None:
        for node in self._some()[:1]:
            self.trace.fault("node restarted", str(node.node))
            node.die()
            wait_s = self.schedule.between(0.0, 2.0)
            self.schedule.after(wait_s, self.start_node, node.machine)

    def _second_life(self) -> None:
        for node in self._some()[:1]:
            self.trace.fault("two lives of a node", str(node.node))
            self.start_node(node.machine)

    def _leave(self) -> None:
        for node in self._some()[:1]:
            if not node.joining and not node.frozen:
                self.trace.fault("node leaves", str(node.node))
                node.handle(node.leave)

    def _newcomer(self) -> None:
        if len(self.living()) < self.settings.max_nodes + 3:
            self.trace.fault("newcomer", "world")
            self.start_node()

    def _impatient_newcomer(self) -> None:
        timeout_s = self._duration_s()
        self.trace.fault("newcomer times out", "world", "after {:.1f} s", timeout_s)
        self.start_node(timeout_s=timeout_s)

    def _stuck_caller(self) -> None:
        for node in self._some()[:1]:
            self.trace.fault("caller stuck", str(node.node))
            node.stuck = True

    def _slow_caller(self) -> None:
        for node in self._some():
            node.slow_s = self.schedule.between(1.0, 9.0)
            self.trace.fault("straggler", str(node.node), "by {:.1f} s", node.slow_s)

    def _cut_off(self) -> None:
        for node in self._some():
            seconds = self._duration_s()
            self.trace.fault("backend not reached by a node", str(node.node), "{:.1f} s", seconds)
            node.backend.cut_off = True
            self.schedule.after(seconds, self._reconnect, node)

    def _reconnect(self, node: SimNode) -> None:
        node.backend.cut_off = False

    def _lose_reply(self) -> None:
        for node in self._some():
            self.trace.fault("reply to a write lost", str(node.node))
            node.backend.losing_reply = True

    def _repeat_write(self) -> None:
        for node in self._some():
            self.trace.fault("write sent twice", str(node.node))
            node.backend.repeating = True

    def _late_write(self) -> None:
        for node in self._some():
            node.backend.late_s = self._duration_s()
            late_s = node.backend.late_s
            self.trace.fault("write arrives late", str(node.node), "by {:.1f} s", late_s)

    def _slow_backend(self) -> None:
        self.trace.fault("backend slow", "backend")
        self.shared.slow = True
        self.schedule.after(self._duration_s(), self._mend)

    def _losing_backend(self) -> None:
        self.trace.fault("backend loses requests and replies", "backend")
        self.shared.losing = 0.3
        self.schedule.after(self._duration_s(), self._mend)

    def _unreachable_backend(self) -> None:
        self.trace.fault("backend unreachable", "backend")
        self.shared.reachable = False
        self.schedule.after(self._duration_s(), self._mend)

    def _mend(self) -> None:
        self.shared.losing = 0.0
        self.shared.slow = False
        self.shared.reachable = True

    def _lose_state(self) -> None:
        if self.schedule.chance(0.4):
            self.trace.fault("state lost", "backend")
            self.shared.lose()

    def _jump_clock(self) -> None:
        for node in self._some():
            node.machine.skew_s += self.schedule.between(-1800.0, 1800.0)
            self.trace.fault("wall clock jumps", node.machine.name)

    def _close(self) -> None:
        for node in self._some()[:1]:
            if self.schedule.now_s > self._until_s - 4.0 and node.place is not None:
                self.trace.fault("close", str(node.node))
                if self.schedule.chance(0.5):
                    reason = f"{node.node} says stop"
                    self.rules.may_close.add(reason)
                    node.handle(node.close, reason)
                else:
                    reason = f"{node.node} says that the job has ended"
                    self.rules.may_close.add(reason)
                    self._verdicts[reason] = node.node
                    node.handle(node.end, reason)


def _surplus(last: RendezvousState | None, state: RendezvousState) -> set[NodeDesc]:
    """Return who had a place in an open round, and waits since it is complete."""
    if last is None or last.complete or not state.complete:
        return set()
    return last.participants.keys() & state.redundancy_list.keys()


def _lists(
    last: RendezvousState, state: RendezvousState
) -> tuple[tuple[Collection[NodeDesc], Collection[NodeDesc]], ...]:
    """Return those who wait, in order, before and after."""
    return (last.wait_list, state.wait_list), (last.redundancy_list, state.redundancy_list)
