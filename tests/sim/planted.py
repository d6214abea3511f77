"""Bugs that are planted into the real code, to see that the simulator finds them.

    python -m tests.sim.planted --planted all_told_early --seeds 1-5000

plays seeds until a rule is broken, and says which seed it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeAlias
from unittest.mock import patch

import msgspec

from quorate import holder
from quorate.coordinator.engine import GAP_MAX_S, Engine, service
from quorate.coordinator.ledgers.stored_state import StoredState
from quorate.coordinator.runs import herald, roll, rounds, run
from quorate.coordinator.runs.herald import Herald
from quorate.coordinator.runs.joins import Joins
from quorate.coordinator.runs.run import Run
from quorate.coordinator.runs.store import RunStore
from quorate.core import completion, ops, transitions
from quorate.core.action import Action, Decision
from quorate.core.observer import Observer
from quorate.core.state import World, capacity
from quorate.errors import (
    RendezvousConnectionError,
    RendezvousEvictedError,
    RendezvousSettingsError,
)
from quorate.executor import DistributedRendezvousOpExecutor
from quorate.holder import BackendRendezvousStateHolder
from quorate.joining import Joining
from quorate.stores.keyspace import Keyspace, Mutation
from quorate.testing.sim import SimResult
from quorate.testing.sim.campaign import WAYS
from quorate.testing.sim.coordinator import SimCoordinator
from quorate.wire.messages import (
    SUCCEEDED,
    AddNumber,
    Changed,
    CompareSet,
    DeleteKey,
    Done,
    Failed,
    Flag,
    Joined,
    Number,
    Probe,
    Refused,
    Report,
    Value,
    Waiting,
    Welcome,
    WorldRecord,
)

__all__ = ["PLANTED", "Planted", "first_violation"]


Plant: TypeAlias = Callable[[], AbstractContextManager[None]]


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


def told_early(kind: type) -> Plant:
    """Messages of a kind are let out before they are stored."""

    def make(real: Any) -> Any:
        def take_batch(self: Any) -> Any:
            batch = real(self)
            if batch is not None:
                self._ready += [send for send in batch.sends if isinstance(send.message, kind)]
                batch.sends[:] = [s for s in batch.sends if not isinstance(s.message, kind)]
            return batch

        return take_batch

    return lambda: instead(Engine, "take_batch", make)


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
def node_not_stored() -> Iterator[None]:
    """The last node that something has happened to is left out of what is stored."""

    def make(real: Any) -> Any:
        def changes(self: Any, state: Any, nodes: Any) -> Any:
            return real(self, state, tuple(nodes)[:-1])

        return changes

    with instead(StoredState, "changes", make):
        yield


@contextmanager
def operator_not_stored() -> Iterator[None]:
    """What an operator does is not stored before something else happens to the run."""

    def make(real: Any) -> Any:
        def act(run: Run, request: Any) -> Done:
            was_dirty = run.dirty
            done = real(run, request)
            run.dirty = was_dirty
            return done  # type: ignore[no-any-return]

        return act

    with instead(service, "act", make):
        yield


def made_twice(kind: type) -> Plant:
    """A change whose answer was lost is made again when it is asked for again."""

    def make(real: Any) -> Any:
        def _change(self: Any, connection: int, session: str, request: Any, keyspace: Any) -> None:
            if isinstance(request, kind):
                self._results.pop(session, None)
            real(self, connection, session, request, keyspace)

        return _change

    return lambda: instead(RunStore, "_change", make)


@contextmanager
def waiter_not_woken() -> Iterator[None]:
    """Whoever waits for a key is not told when another one sets it."""
    with patch.object(Keyspace, "_wake", lambda self, key: ()):
        yield


@contextmanager
def waiter_woken_too_soon() -> Iterator[None]:
    """Whoever waits for several keys is told once any of them is there."""

    def _wake(self: Any, key: str) -> Any:
        woken = tuple(self._waiters_of.get(key, ()))
        for waiter in woken:
            self.unpark(waiter)
        return woken

    with patch.object(Keyspace, "_wake", _wake):
        yield


@contextmanager
def deletion_not_stored() -> Iterator[None]:
    """A key that was deleted is there again once the coordinator has started anew."""

    def make(real: Any) -> Any:
        def delete(self: Any, key: str) -> Any:
            return msgspec.structs.replace(real(self, key), changes={})

        return delete

    with instead(Keyspace, "delete", make):
        yield


@contextmanager
def comparison_ignored() -> Iterator[None]:
    """A value is replaced, whether it was the expected one or not."""

    def compare_set(self: Any, key: str, expected: bytes, desired: bytes) -> Any:
        return Mutation(desired, {key: desired}, self._put(key, desired))

    with patch.object(Keyspace, "compare_set", compare_set):
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


def with_direct_patience(limit: Callable[[timedelta], timedelta]) -> AbstractContextManager[Any]:
    """Let joins of the direct way wait for another time than they should."""

    def make(real: Any) -> Any:
        return lambda self, timeout: real(self, limit(timeout))

    return instead(Joining, "_extend", make)


@contextmanager
def direct_join_given_up_early() -> Iterator[None]:
    """In the direct way, a node gives up after four seconds, whatever it should wait for."""
    with with_direct_patience(lambda timeout: min(timeout, timedelta(seconds=4))):
        yield


@contextmanager
def direct_join_never_given_up() -> Iterator[None]:
    """In the direct way, a node whose time is over goes on waiting."""
    with with_direct_patience(lambda timeout: timedelta(days=1)):
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


@contextmanager
def newcomers_kept_out() -> Iterator[None]:
    """Whoever comes while a world is complete is told that it is kept out of the run."""

    def make(real: Any) -> Any:
        def join(self: Run, session: Any, request: Any) -> None:
            if self.state.complete and session.node not in self.state.participants:
                raise RendezvousEvictedError("kept out for no reason")
            real(self, session, request)

        return join

    with instead(Run, "join", make):
        yield


@contextmanager
def right_settings_refused() -> Iterator[None]:
    """Some nodes that come back are told that their settings differ."""

    def make(real: Any) -> Any:
        def attach(self: Run, connection: int, hello: Any) -> Any:
            if hello.node in self.sessions and hello.node.pid % 3 == 0:
                raise RendezvousSettingsError("min_nodes differs: it is 2 here and 2 there.")
            return real(self, connection, hello)

        return attach

    with instead(Run, "attach", make):
        yield


@contextmanager
def others_replaced() -> Iterator[None]:
    """Whoever comes back is told that a newer life of it has come."""

    def make(real: Any) -> Any:
        def attach(self: Run, connection: int, hello: Any) -> Any:
            if hello.node in self.sessions and hello.node.pid % 3 == 0:
                raise self._roll.replaced_error("", hello.node, "somebody")
            return real(self, connection, hello)

        return attach

    with instead(Run, "attach", make):
        yield


@contextmanager
def no_last_call() -> Iterator[None]:
    """A round is complete as soon as there are enough nodes."""
    with patch.object(completion, "last_call_remaining_s", lambda ctx: 0.0):
        yield


@contextmanager
def full_round_waits() -> Iterator[None]:
    """A round in which there are all nodes that it may have waits for its last call."""

    def make(real: Any) -> Any:
        def try_to_complete(self: Any) -> bool:
            remaining_s = completion.last_call_remaining_s(self._roll.anyone())
            return remaining_s <= 0 and real(self)

        return try_to_complete

    def make_larger(real: Any) -> Any:
        def _add_to_participants(ctx: Any, decision: Any) -> None:
            with patch.object(transitions, "capacity", lambda state, settings: sys.maxsize):
                real(ctx, decision)

        return _add_to_participants

    real = transitions.TRANSITIONS[Action.ADD_TO_PARTICIPANTS]
    table = {**transitions.TRANSITIONS, Action.ADD_TO_PARTICIPANTS: make_larger(real)}
    with (
        patch.object(transitions, "TRANSITIONS", table),
        instead(rounds.Rounds, "try_to_complete", make),
        patch.object(ops, "completion", lambda ctx: completion._wait("", "later")),
    ):
        yield


@contextmanager
def others_not_waited_for() -> Iterator[None]:
    """A regroup is complete once its survivors are back, though others are about to join."""
    with patch.object(completion, "_still_to_join", lambda ctx: 0):
        yield


@contextmanager
def regroup_has_a_last_call() -> Iterator[None]:
    """A regroup in which all are back waits for a last call."""
    with patch.object(completion, "_still_to_join", lambda ctx: 1):
        yield


@contextmanager
def stragglers_hurried() -> Iterator[None]:
    """Members that are to come back have a second less than they were promised."""

    def regroup_over(ctx: Any) -> bool:
        remaining_s = completion.regroup_remaining_s(ctx)
        return remaining_s is not None and remaining_s <= 1.0

    with patch.object(rounds, "regroup_over", regroup_over):
        yield


@contextmanager
def newest_first() -> Iterator[None]:
    """Places that fall free go to those who came last."""

    def line(state: Any) -> list[Any]:
        return [*state.wait_list, *state.redundancy_list][::-1]

    def may_enter(ctx: Any) -> bool:
        state = ctx.state
        free = completion.room(state, ctx.settings)
        waiting = line(state)
        if ctx.node in state.survivors or free > len(waiting):
            return True
        return ctx.node in waiting[: max(free, 0)]

    def in_line(self: Joins) -> Iterator[Any]:
        for node in line(self._roll.state):
            session = self._roll.sessions.get(node)
            if session is not None and session.join is not None:
                yield session

    with patch.object(ops, "may_enter", may_enter), patch.object(Joins, "in_line", in_line):
        yield


@contextmanager
def newest_spare_promoted() -> Iterator[None]:
    """A place in the next world goes to the spare that came last."""

    def _next_in_line(ctx: Any) -> bool:
        state = ctx.state
        free = ops.prospects(state, ctx.settings) - len(state.wait_list)
        return free > 0 and ctx.node in [*state.redundancy_list][-free:]

    def in_line(self: Joins) -> Iterator[Any]:
        for queue in (self._roll.state.wait_list, self._roll.state.redundancy_list):
            for node in list(queue):
                session = self._roll.sessions.get(node)
                if session is not None and session.join is not None:
                    yield session

    with patch.object(ops, "_next_in_line", _next_in_line), patch.object(Joins, "in_line", in_line):
        yield


def with_patience(limit_s: Callable[[float], float]) -> AbstractContextManager[Any]:
    """Hold joins for another time than they ask for."""

    def make(real: Any) -> Any:
        def hold(self: Joins, session: Any, request: Any) -> None:
            timeout_s = limit_s(request.timeout_s)
            real(self, session, msgspec.structs.replace(request, timeout_s=timeout_s))

        return hold

    return instead(Joins, "hold", make)


@contextmanager
def join_given_up_early() -> Iterator[None]:
    """A join ends after four seconds, whatever it has asked for."""
    with with_patience(lambda limit_s: min(limit_s, 4.0)):
        yield


@contextmanager
def join_never_given_up() -> Iterator[None]:
    """A join whose time is over goes on waiting."""
    with with_patience(lambda limit_s: 1e6):
        yield


@contextmanager
def first_to_finish_closes() -> Iterator[None]:
    """The first member whose work is done closes the run as if that held for all."""

    def make(real: Any) -> Any:
        def finish(self: Run, session: Any, request: Any) -> None:
            real(self, session, request)
            if self.state.finishing:
                self._close(f"{SUCCEEDED}: all nodes of round {self.state.round} have finished")

        return finish

    with instead(Run, "finish", make):
        yield


@contextmanager
def ranks_in_reverse() -> Iterator[None]:
    """The policies that rank afresh in every round rank in reverse."""
    from quorate.core import ranking

    policies = {
        name: policy if name == "stable" else lambda *given, rank=policy: rank(*given)[::-1]
        for name, policy in ranking._POLICIES.items()
    }
    with patch.object(ranking, "_POLICIES", policies):
        yield


def other_reasons(make: Callable[[Any], Any]) -> AbstractContextManager[Any]:
    """Put another function in the place of the one that counts reasons to regroup."""
    return patch.object(herald, "nodes_waiting", make(herald.nodes_waiting))


@contextmanager
def newcomers_make_up_the_number() -> Iterator[None]:
    """A regroup waits for no last call, though it is complete only by its newcomers."""
    with patch.object(completion, "_are_enough_back", lambda ctx: True):
        yield


@contextmanager
def surplus_untold() -> Iterator[None]:
    """Members do not hear that the operator wants fewer of them."""

    def make(real: Any) -> Any:
        def nodes_waiting(ctx: Any, mine: Any) -> int:
            wish, ctx.state.desired_nodes = ctx.state.desired_nodes, None
            try:
                return real(ctx, mine)  # type: ignore[no-any-return]
            finally:
                ctx.state.desired_nodes = wish

        return nodes_waiting

    with other_reasons(make):
        yield


@contextmanager
def newcomers_at_once() -> Iterator[None]:
    """One newcomer is a reason to regroup, before it has waited for a last call."""

    def make(real: Any) -> Any:
        return lambda ctx, mine: real(ctx, mine, newcomers_at_once=True)

    with other_reasons(make):
        yield


@contextmanager
def newcomers_never() -> Iterator[None]:
    """Newcomers that do not fill the world are no reason to regroup, however long they wait."""

    def newcomers_due_in_s(ctx: Any) -> float | None:
        state = ctx.state
        fill = len(state.wait_list) >= completion.room(state, ctx.settings)
        return 0.0 if state.complete and state.wait_list and fill else None

    with patch.object(completion, "newcomers_due_in_s", newcomers_due_in_s):
        yield


@contextmanager
def loss_not_named() -> Iterator[None]:
    """Survivors are told of a loss, and not who is gone."""
    with patch.object(herald, "who_is_gone", lambda departed: "somebody has gone"):
        yield


@contextmanager
def unexpected_error() -> Iterator[None]:
    """A word that a member says ends its coordinator."""

    def leave(self: Run, session: Any, request: Any) -> None:
        raise KeyError(session.node)

    with patch.object(Run, "leave", leave):
        yield


@contextmanager
def endless_turns() -> Iterator[None]:
    """A coordinator that was told that somebody leaves does not come to rest."""

    def make(real: Any) -> Any:
        def turn_over(self: SimCoordinator) -> None:
            real(self)
            if self.engine is not None and any(
                run.state.departed for run in self.engine.runs.values()
            ):
                self.schedule.after(0.0, self.handle, lambda: None)

        return turn_over

    with instead(SimCoordinator, "turn_over", make):
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
    plant: Plant
    rules: tuple[str, ...]
    seed: int


PLANTED = {
    "dead_member_deleted": Planted("coordinated", dead_member_deleted, ("R1", "R3", "R8"), 1),
    "world_of_what_is_left": Planted("coordinated", world_of_what_is_left, ("R1", "R2"), 76),
    "wall_clocks_compared": Planted("direct", wall_clocks_compared, ("R9",), 1),
    "all_told_early": Planted("coordinated", told_early(object), ("R14",), 1),
    "stale_incarnation_accepted": Planted(
        "coordinated", stale_incarnation_accepted, ("R8", "R12"), 6
    ),
    "heir_thrown_out": Planted("coordinated", heir_thrown_out, ("R12",), 340),
    "round_number_reused": Planted("coordinated", round_number_reused, ("R1", "R2"), 1),
    "node_not_stored": Planted("coordinated", node_not_stored, ("R14",), 1),
    "operator_not_stored": Planted("coordinated", operator_not_stored, ("R14",), 8),
    "addition_made_twice": Planted("coordinated", made_twice(AddNumber), ("R14",), 11),
    "comparison_made_twice": Planted("coordinated", made_twice(CompareSet), ("R14",), 318),
    "deletion_made_twice": Planted("coordinated", made_twice(DeleteKey), ("R14",), 20),
    "waiter_not_woken": Planted("coordinated", waiter_not_woken, ("R14",), 2),
    "waiter_woken_too_soon": Planted("coordinated", waiter_woken_too_soon, ("R14",), 6),
    "deletion_not_stored": Planted("coordinated", deletion_not_stored, ("R14",), 2),
    "comparison_ignored": Planted("coordinated", comparison_ignored, ("R14",), 2),
    "lost_reply_written_again": Planted(
        "direct", lost_reply_written_again, ("R1", "R2", "R9", "R10"), 5
    ),
    "timeout_closes_the_run": Planted("coordinated", timeout_closes_the_run, ("R7",), 92),
    "gap_in_the_ranks": Planted("coordinated", gap_in_the_ranks, ("R2",), 1),
    "parked_join_never_woken": Planted("coordinated", parked_join_never_woken, ("R8",), 2),
    "judges_before_it_reads": Planted("coordinated", judges_before_it_reads, ("R9", "R11"), 25),
    "epoch_used_again": Planted("coordinated", epoch_used_again, ("R1", "R2"), 22),
    "judges_without_the_seat": Planted("coordinated", judges_without_the_seat, ("R17",), 89),
    "survivors_behind_newcomers": Planted("coordinated", survivors_behind_newcomers, ("R3",), 2),
    "failure_closes_at_once": Planted("coordinated", failure_closes_at_once, ("R7",), 1),
    "any_word_answers_a_probe": Planted("coordinated", any_word_answers_a_probe, ("R7",), 801),
    "late_probe_not_repeated": Planted("coordinated", late_probe_not_repeated, ("R7", "R8"), 890),
    "outsider_ends_the_run": Planted("coordinated", outsider_ends_the_run, ("R7",), 412),
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
    "quick_regroup_untold": Planted("coordinated", quick_regroup_untold, ("R8",), 42),
    "reason_kept_over_a_reset": Planted("coordinated", reason_kept_over_a_reset, ("R8",), 40),
    "stragglers_waited_for": Planted("coordinated", stragglers_waited_for, ("R10",), 8),
    "newcomers_kept_out": Planted("coordinated", newcomers_kept_out, ("R7",), 2),
    "right_settings_refused": Planted("coordinated", right_settings_refused, ("R13",), 1),
    "others_replaced": Planted("coordinated", others_replaced, ("R12",), 1),
    "no_last_call": Planted("coordinated", no_last_call, ("R4",), 1),
    "full_round_waits": Planted("coordinated", full_round_waits, ("R4",), 1),
    "others_not_waited_for": Planted("coordinated", others_not_waited_for, ("R4",), 76),
    "regroup_has_a_last_call": Planted("coordinated", regroup_has_a_last_call, ("R4",), 1),
    "stragglers_hurried": Planted("coordinated", stragglers_hurried, ("R10",), 6),
    "newest_first": Planted("coordinated", newest_first, ("R5",), 2),
    "newest_spare_promoted": Planted("coordinated", newest_spare_promoted, ("R6",), 2),
    "join_given_up_early": Planted("coordinated", join_given_up_early, ("R6",), 6),
    "join_never_given_up": Planted("coordinated", join_never_given_up, ("R6",), 93),
    "first_to_finish_closes": Planted("coordinated", first_to_finish_closes, ("R7",), 3),
    "ranks_in_reverse": Planted("coordinated", ranks_in_reverse, ("R3",), 1),
    "newcomers_make_up_the_number": Planted(
        "coordinated", newcomers_make_up_the_number, ("R4",), 45
    ),
    "direct_newcomers_make_up_the_number": Planted(
        "direct", newcomers_make_up_the_number, ("R4",), 6
    ),
    "direct_ranks_in_reverse": Planted("direct", ranks_in_reverse, ("R3",), 1),
    "surplus_untold": Planted("coordinated", surplus_untold, ("R8",), 132),
    "newcomers_at_once": Planted("coordinated", newcomers_at_once, ("R8",), 9),
    "newcomers_never": Planted("coordinated", newcomers_never, ("R8",), 9),
    "loss_not_named": Planted("coordinated", loss_not_named, ("R8",), 7),
    "unexpected_error": Planted("coordinated", unexpected_error, ("KeyError",), 26),
    "endless_turns": Planted("coordinated", endless_turns, ("Livelock",), 1),
}
# The first seed that finds a message of each kind that an engine lets out.
_TOLD_EARLY = {
    Welcome: 1,
    Refused: 2,
    Joined: 1,
    Failed: 9,
    Flag: 1,
    Number: 1,
    Value: 1,
    WorldRecord: 1,
    Report: 398,
    Done: 8,
    Probe: 45,
    Changed: 1,
    Waiting: 6,
}
PLANTED |= {
    f"{kind.__name__.lower()}_told_early": Planted("coordinated", told_early(kind), ("R14",), seed)
    for kind, seed in _TOLD_EARLY.items()
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
