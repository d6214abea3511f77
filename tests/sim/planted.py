"""Bugs that are planted into the real code, to see that the simulator finds them.

    python -m tests.sim.planted --planted answered_before_stored --seeds 1-5000

plays seeds until a rule is broken, and says which seed it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any, NamedTuple
from unittest.mock import patch

import msgspec

from quorate import holder
from quorate.coordinator.engine import GAP_MAX_S, Engine
from quorate.coordinator.runs import roll, rounds, run
from quorate.coordinator.runs.herald import Herald
from quorate.coordinator.runs.joins import Joins
from quorate.coordinator.runs.run import Run
from quorate.coordinator.runs.store import RunStore
from quorate.core import completion, ops, transitions
from quorate.core.action import Action, Decision
from quorate.core.observer import Observer
from quorate.core.state import World, capacity
from quorate.errors import RendezvousConnectionError
from quorate.executor import DistributedRendezvousOpExecutor
from quorate.holder import BackendRendezvousStateHolder
from quorate.joining import Joining
from quorate.testing.sim import SimResult
from quorate.testing.sim.campaign import WAYS
from quorate.wire.messages import Flag

__all__ = ["PLANTED", "Planted", "first_violation"]


def instead(owner: Any, name: str, make: Callable[[Any], Any]) -> AbstractContextManager[Any]:
    """Put what `make` makes of the real thing in its place."""
    return patch.object(owner, name, make(getattr(owner, name)))


@contextmanager
def dead_member_deleted() -> Iterator[None]:
    """A dead member is deleted from a completed world."""

    def make(real: Any) -> Any:
        def withdraw(state: Any, settings: Any, node: Any, reason: str, observer: Any) -> Any:
            rearranged = real(state, settings, node, reason, observer)
            if state.complete and state.world is not None:
                pairs = zip(state.world.members, state.world.profiles, strict=True)
                kept = [pair for pair in pairs if pair[0] != node]
                members, profiles = zip(*kept, strict=True)
                state.world = msgspec.structs.replace(
                    state.world, members=members, profiles=profiles
                )
                state.participants = {member: rank for rank, member in enumerate(members)}
                state.departed.pop(node, None)
            return rearranged

        return withdraw

    with instead(roll, "withdraw", make):
        yield


@contextmanager
def world_of_what_is_left() -> Iterator[None]:
    """A member computes its world from what is left of it when it asks."""

    def _place(self: Joins, node: Any) -> Any:
        state = self._roll.state
        world = state.world
        assert world is not None
        left = tuple(member for member in world.members if member in state.participants)
        profiles = tuple(state.profiles[member] for member in left)
        return World(world.epoch, world.round, left, profiles).places()[node]

    with patch.object(Joins, "_place", _place):
        yield


@contextmanager
def wall_clocks_compared() -> Iterator[None]:
    """The stamps of other machines are compared with the own wall clock."""

    def silent(self: Observer, beats: Any, limit_s: float) -> list[Any]:
        now = self.stamp()
        return [node for node, beat in beats.items() if (now - beat).total_seconds() >= limit_s]

    with patch.object(Observer, "silent", silent):
        yield


@contextmanager
def answered_before_stored() -> Iterator[None]:
    """Agents are answered before the state is stored."""

    def make(real: Any) -> Any:
        def take_batch(self: Any) -> Any:
            batch = real(self)
            if batch is not None:
                self._ready += batch.sends
                batch.sends.clear()
            return batch

        return take_batch

    with instead(Engine, "take_batch", make):
        yield


@contextmanager
def stale_incarnation_accepted() -> Iterator[None]:
    """A new life of a node does not take the place of the former one."""

    def make(real: Any) -> Any:
        def admit(ctx: Any) -> Any:
            former = ctx.state.identities.pop(ctx.profile.node_id, None)
            ctx.state.gone.pop(former, None)
            return real(ctx)

        return admit

    with instead(transitions, "admit", make), instead(roll, "admit", make):
        yield


@contextmanager
def heir_thrown_out() -> Iterator[None]:
    """A life of a node that was lost comes back, and takes the place of its heir."""

    def make(real: Any) -> Any:
        def withdraw(state: Any, *arguments: Any) -> Any:
            rearranged = real(state, *arguments)
            for node_id in state.gone.values():
                del state.identities[node_id]
            state.gone.clear()
            return rearranged

        return withdraw

    with instead(transitions, "withdraw", make), instead(roll, "withdraw", make):
        yield


@contextmanager
def round_number_reused() -> Iterator[None]:
    """The number of a round is used again for the next one."""

    def make(real: Any) -> Any:
        def _open_next_round(state: Any, settings: Any, observer: Any) -> None:
            real(state, settings, observer)
            state.round -= 1

        return _open_next_round

    with instead(transitions, "_open_next_round", make):
        yield


@contextmanager
def store_change_made_twice() -> Iterator[None]:
    """A change whose answer was lost is made again when it is asked for again."""

    def make(real: Any) -> Any:
        def _change(self: Any, connection: int, session: str, request: Any, keyspace: Any) -> None:
            self._results.pop(session, None)
            real(self, connection, session, request, keyspace)

        return _change

    with instead(RunStore, "_change", make):
        yield


@contextmanager
def lost_reply_written_again() -> Iterator[None]:
    """A write whose reply was lost is written again, over whatever is there by then."""

    def make(real: Any) -> Any:
        def _exchange(self: Any) -> Any:
            if getattr(self, "unsure", False):
                self.unsure = False
                found = self._backend.get_state()
                self._token, self._dirty = found and found[1], True
            wrote = self._dirty
            try:
                return real(self)
            except RendezvousConnectionError:
                self.unsure = wrote
                raise

        return _exchange

    with instead(BackendRendezvousStateHolder, "_exchange", make):
        yield


@contextmanager
def timeout_closes_the_run() -> Iterator[None]:
    """A latecomer whose time is over closes the run."""

    def _timed_out(ctx: Any, deadline: float) -> Decision:
        return Decision(Action.MARK_RENDEZVOUS_CLOSED, f"{ctx.node} timed out", "timeout")

    with patch.object(ops, "_timed_out", _timed_out):
        yield


@contextmanager
def gap_in_the_ranks() -> Iterator[None]:
    """The ranks of a world that has regrouped are not contiguous."""

    def make(real: Any) -> Any:
        def places(self: World) -> Any:
            found = real(self)
            last = self.members[-1]
            if self.round > 0:
                found[last] = msgspec.structs.replace(found[last], rank=len(self.members))
            return found

        return places

    with instead(World, "places", make):
        yield


@contextmanager
def parked_join_never_woken() -> Iterator[None]:
    """Those who wait in line are not looked at when a place falls free."""
    with patch.object(Joins, "in_line", lambda self: ()):
        yield


@contextmanager
def judges_before_it_reads() -> Iterator[None]:
    """A coordinator that was frozen takes for silence the time in which it could not read."""

    def make(real: Any) -> Any:
        def tick(self: Any, certain: bool = True) -> None:
            away_s = self._clock._clock.monotonic() - self._clock._read_s
            real(self, certain)
            if certain and away_s > GAP_MAX_S:
                for run in self.runs.values():
                    run._judge._overdue = list(run.sessions.values())
                    for session in run._judge._overdue:
                        session.heard_s -= away_s
                real(self, certain)

        return tick

    with instead(Engine, "tick", make):
        yield


@contextmanager
def epoch_used_again() -> Iterator[None]:
    """A run that begins anew after its journal was lost has the epoch of the former one."""

    def make(real: Any) -> Any:
        def __init__(
            self: Any, records: Any, clock: Any, mint: Any, *arguments: Any, **keys: Any
        ) -> None:
            real(self, records, clock, lambda: "epoch", *arguments, **keys)

        return __init__

    with instead(Engine, "__init__", make):
        yield


@contextmanager
def judges_without_the_seat() -> Iterator[None]:
    """A coordinator declares nodes lost that have moved to the one that decides now."""

    def make(real: Any) -> Any:
        def tick(self: Any, certain: bool = True) -> None:
            real(self, True)

        return tick

    with instead(Engine, "tick", make):
        yield


@contextmanager
def survivors_behind_newcomers() -> Iterator[None]:
    """Ranks are given afresh in every round."""
    from quorate.core import ranking

    policies = {**ranking._POLICIES, "stable": ranking._POLICIES["sorted"]}
    with patch.object(ranking, "_POLICIES", policies):
        yield


@contextmanager
def stragglers_waited_for() -> Iterator[None]:
    """Members that do not come back to regroup keep their places for ever."""
    with patch.object(rounds, "regroup_over", lambda ctx: False):
        yield


@contextmanager
def failure_closes_at_once() -> Iterator[None]:
    """A job that has failed closes the run without asking who else is there."""

    def _hold_failed_close(self: Any, session: Any, request: Any, symptom: bool) -> None:
        self._close(request.reason)
        self._outbox.send(session.connection, Flag(request.id, True))

    with patch.object(Run, "_hold_failed_close", _hold_failed_close):
        yield


@contextmanager
def outsider_ends_the_run() -> Iterator[None]:
    """A node that is no member any more closes the run with its word about its job."""
    with patch.object(run, "stands", lambda state, session: True):
        yield


@contextmanager
def outsider_ends_a_direct_run() -> Iterator[None]:
    """In the direct way, a node that is no member any more closes the run with its word."""
    with patch.object(ops, "stands", lambda ctx, mine: True):
        yield


@contextmanager
def direct_round_without_last_call() -> Iterator[None]:
    """In the direct way, a round is complete as soon as there are enough nodes."""
    with patch.object(completion, "last_call_remaining_s", lambda ctx: 0.0):
        yield


@contextmanager
def direct_last_call_without_end() -> Iterator[None]:
    """In the direct way, a last call begins anew whenever somebody looks at it."""
    with patch.object(completion, "last_call_remaining_s", lambda ctx: 1.0):
        yield


@contextmanager
def full_direct_round_waits() -> Iterator[None]:
    """In the direct way, a round in which there are all nodes that it may have is not complete."""

    def make(real: Any) -> Any:
        def _add_to_participants(ctx: Any, decision: Any) -> None:
            with patch.object(transitions, "_mark_complete", lambda ctx, decision: None):
                real(ctx, decision)

        return _add_to_participants

    real = transitions.TRANSITIONS[Action.ADD_TO_PARTICIPANTS]
    table = {**transitions.TRANSITIONS, Action.ADD_TO_PARTICIPANTS: make(real)}
    with patch.object(transitions, "TRANSITIONS", table):
        yield


@contextmanager
def regrouped_direct_round_waits() -> Iterator[None]:
    """In the direct way, a regroup for which nobody is missing waits for its last call."""
    with patch.object(completion, "_still_to_join", lambda ctx: 1):
        yield


@contextmanager
def last_in_direct_line_first() -> Iterator[None]:
    """In the direct way, places that fall free go to those who came last."""

    def may_enter(ctx: Any) -> bool:
        state = ctx.state
        free = completion.room(state, ctx.settings)
        line = [*state.wait_list, *state.redundancy_list]
        if ctx.node in state.survivors or free > len(line):
            return True
        return free > 0 and ctx.node in line[-free:]

    with patch.object(ops, "may_enter", may_enter):
        yield


@contextmanager
def last_direct_spare_promoted() -> Iterator[None]:
    """In the direct way, a place in the next world goes to the spare that came last."""

    def _next_in_line(ctx: Any) -> bool:
        state = ctx.state
        free = ops.prospects(state, ctx.settings) - len(state.wait_list)
        return free > 0 and ctx.node in [*state.redundancy_list][-free:]

    with patch.object(ops, "_next_in_line", _next_in_line):
        yield


@contextmanager
def direct_line_jumped() -> Iterator[None]:
    """In the direct way, a node that comes to wait stands before those who wait already."""

    def make(real: Any) -> Any:
        def _add_to_wait_list(ctx: Any, decision: Any) -> None:
            real(ctx, decision)
            moment = ctx.state.wait_list.pop(ctx.node)
            ctx.state.wait_list = {ctx.node: moment, **ctx.state.wait_list}

        return _add_to_wait_list

    real = transitions.TRANSITIONS[Action.ADD_TO_WAIT_LIST]
    table = {**transitions.TRANSITIONS, Action.ADD_TO_WAIT_LIST: make(real)}
    with patch.object(transitions, "TRANSITIONS", table):
        yield


@contextmanager
def direct_stragglers_waited_for() -> Iterator[None]:
    """In the direct way, members that do not come back to regroup keep their places for ever."""
    with patch.object(holder, "regroup_over", lambda ctx: False):
        yield


@contextmanager
def direct_members_not_waited_for() -> Iterator[None]:
    """In the direct way, members lose their places before their time to come back is over."""

    def regroup_over(ctx: Any) -> bool:
        remaining_s = completion.regroup_remaining_s(ctx)
        return remaining_s is not None and remaining_s <= 0.5

    with patch.object(holder, "regroup_over", regroup_over):
        yield


def with_patience(limit: Callable[[timedelta], timedelta]) -> AbstractContextManager[Any]:
    """Let joins of the direct way wait for another time than they should."""

    def make(real: Any) -> Any:
        return lambda self, timeout: real(self, limit(timeout))

    return instead(Joining, "_extend", make)


@contextmanager
def direct_join_given_up_early() -> Iterator[None]:
    """In the direct way, a node gives up after four seconds, whatever it should wait for."""
    with with_patience(lambda timeout: min(timeout, timedelta(seconds=4))):
        yield


@contextmanager
def direct_join_never_given_up() -> Iterator[None]:
    """In the direct way, a node whose time is over goes on waiting."""
    with with_patience(lambda timeout: timedelta(days=1)):
        yield


@contextmanager
def direct_spare_given_up() -> Iterator[None]:
    """In the direct way, a spare that is promoted goes on with its former deadline."""

    def make(real: Any) -> Any:
        def steps(self: Any, operation: Any, deadline: float, extend: Any = None) -> Any:
            return real(self, operation, deadline)

        return steps

    with instead(DistributedRendezvousOpExecutor, "steps", make):
        yield


@contextmanager
def direct_blip_is_a_death() -> Iterator[None]:
    """In the direct way, a node ends when its backend has not answered once."""

    def make(real: Any) -> Any:
        def steps(self: Joining) -> Any:
            self._silence_s = 0.0
            return real(self)

        return steps

    with instead(Joining, "steps", make):
        yield


@contextmanager
def direct_node_without_backend_stays() -> Iterator[None]:
    """In the direct way, a node goes on though its backend does not answer any more."""

    def make(real: Any) -> Any:
        def steps(self: Joining) -> Any:
            self._silence_s = sys.float_info.max
            return real(self)

        return steps

    with instead(Joining, "steps", make):
        yield


@contextmanager
def places_not_kept() -> Iterator[None]:
    """Newcomers take the places of survivors that are on their way."""

    def room(state: Any, settings: Any) -> int:
        return capacity(state, settings) - len(state.participants)

    with patch.object(completion, "room", room):
        yield


@contextmanager
def any_word_answers_a_probe() -> Iterator[None]:
    """A word that a member said before it died counts, where it comes late, as its answer."""

    def make(real: Any) -> Any:
        def heard(self: Run, session: Any, probe: int = 0) -> bool:
            return real(self, session, sys.maxsize)  # type: ignore[no-any-return]

        return heard

    with instead(Run, "heard", make):
        yield


@contextmanager
def late_probe_not_repeated() -> Iterator[None]:
    """Whoever was away when a probe was sent is never asked."""

    def greet(self: Run, session: Any) -> None:
        self._herald.greet(session, is_back=session.holding is not None)

    with patch.object(Run, "greet", greet):
        yield


@contextmanager
def quick_regroup_untold() -> Iterator[None]:
    """A member that loses its place in a regroup of one batch is not told."""

    def make(real: Any) -> Any:
        def begin_world(self: Herald) -> None:
            to_greet = list(self._to_greet)
            real(self)
            self._to_greet = to_greet

        return begin_world

    with instead(Herald, "begin_world", make):
        yield


@contextmanager
def reason_kept_over_a_reset() -> Iterator[None]:
    """Whoever was away when nobody waited any more still believes that somebody does."""

    def make(real: Any) -> Any:
        def greet(self: Herald, session: Any, is_back: bool = False) -> None:
            real(self, session)

        return greet

    with instead(Herald, "greet", make):
        yield


class Planted(NamedTuple):
    """A planted bug.

    Args:
        way: Which way of running it is looked for in.
        plant: Plants it.
        rules: Which rules it may be found by.
        seed: The first seed, from 1 on, that finds it.
    """

    way: str
    plant: Callable[[], AbstractContextManager[None]]
    rules: tuple[str, ...]
    seed: int


PLANTED = {
    "dead_member_deleted": Planted("coordinated", dead_member_deleted, ("R1", "R3", "R8"), 1),
    "world_of_what_is_left": Planted("coordinated", world_of_what_is_left, ("R1", "R2"), 14),
    "wall_clocks_compared": Planted("direct", wall_clocks_compared, ("R9",), 1),
    "answered_before_stored": Planted("coordinated", answered_before_stored, ("R14",), 1),
    "stale_incarnation_accepted": Planted(
        "coordinated", stale_incarnation_accepted, ("R8", "R12"), 2
    ),
    "heir_thrown_out": Planted("coordinated", heir_thrown_out, ("R12",), 517),
    "round_number_reused": Planted("coordinated", round_number_reused, ("R1", "R2"), 1),
    "store_change_made_twice": Planted("coordinated", store_change_made_twice, ("R14",), 1),
    "lost_reply_written_again": Planted(
        "direct", lost_reply_written_again, ("R1", "R2", "R9", "R10"), 5
    ),
    "timeout_closes_the_run": Planted("coordinated", timeout_closes_the_run, ("R7",), 58),
    "gap_in_the_ranks": Planted("coordinated", gap_in_the_ranks, ("R2",), 1),
    "parked_join_never_woken": Planted("coordinated", parked_join_never_woken, ("R8",), 2),
    "judges_before_it_reads": Planted("coordinated", judges_before_it_reads, ("R9", "R11"), 37),
    "epoch_used_again": Planted("coordinated", epoch_used_again, ("R1", "R2"), 6),
    "judges_without_the_seat": Planted("coordinated", judges_without_the_seat, ("R17",), 4651),
    "survivors_behind_newcomers": Planted("coordinated", survivors_behind_newcomers, ("R3",), 2),
    "failure_closes_at_once": Planted("coordinated", failure_closes_at_once, ("R7",), 1),
    "any_word_answers_a_probe": Planted("coordinated", any_word_answers_a_probe, ("R7",), 4124),
    "late_probe_not_repeated": Planted("coordinated", late_probe_not_repeated, ("R7", "R8"), 1394),
    "outsider_ends_the_run": Planted("coordinated", outsider_ends_the_run, ("R7",), 27),
    "outsider_ends_a_direct_run": Planted("direct", outsider_ends_a_direct_run, ("R7",), 456),
    "direct_round_without_last_call": Planted("direct", direct_round_without_last_call, ("R4",), 1),
    "direct_last_call_without_end": Planted("direct", direct_last_call_without_end, ("R4",), 1),
    "full_direct_round_waits": Planted("direct", full_direct_round_waits, ("R4",), 2),
    "regrouped_direct_round_waits": Planted("direct", regrouped_direct_round_waits, ("R4",), 4),
    "last_in_direct_line_first": Planted("direct", last_in_direct_line_first, ("R5",), 1),
    "last_direct_spare_promoted": Planted("direct", last_direct_spare_promoted, ("R5",), 1),
    "direct_line_jumped": Planted("direct", direct_line_jumped, ("R6",), 1),
    "direct_stragglers_waited_for": Planted("direct", direct_stragglers_waited_for, ("R10",), 1),
    "direct_members_not_waited_for": Planted("direct", direct_members_not_waited_for, ("R10",), 1),
    "direct_join_given_up_early": Planted("direct", direct_join_given_up_early, ("R6",), 1),
    "direct_join_never_given_up": Planted("direct", direct_join_never_given_up, ("R6",), 3),
    "direct_spare_given_up": Planted("direct", direct_spare_given_up, ("R6",), 6),
    "direct_blip_is_a_death": Planted("direct", direct_blip_is_a_death, ("R11",), 3),
    "direct_node_without_backend_stays": Planted(
        "direct", direct_node_without_backend_stays, ("R11",), 7
    ),
    "places_not_kept": Planted("coordinated", places_not_kept, ("R4", "R5"), 2),
    "quick_regroup_untold": Planted("coordinated", quick_regroup_untold, ("R8",), 197),
    "reason_kept_over_a_reset": Planted("coordinated", reason_kept_over_a_reset, ("R8",), 29),
    "stragglers_waited_for": Planted("coordinated", stragglers_waited_for, ("R10",), 14),
}


def first_violation(name: str, first: int, last: int) -> SimResult | None:
    """Play seeds with a bug planted until a rule is broken."""
    planted = PLANTED[name]
    with planted.plant():
        for seed in range(first, last + 1):
            result = WAYS[planted.way](seed).run()
            if result.violation is not None:
                return result
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--planted", choices=sorted(PLANTED), action="append")
    parser.add_argument("--seeds", default="1-5000")
    given = parser.parse_args()
    first, last = map(int, given.seeds.split("-"))
    for name in given.planted or PLANTED:
        found = first_violation(name, first, last)
        seen = "not found" if found is None else f"seed {found.seed}: {found.violation}"
        print(f"{name}: {seen[:200]}", flush=True)


if __name__ == "__main__":
    main()
