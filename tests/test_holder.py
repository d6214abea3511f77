from __future__ import annotations

from datetime import timedelta

import pytest

from quorate.backends.memory import MemoryRendezvousBackend
from quorate.codec import encode_state
from quorate.core.action import Action, Decision, RendezvousContext
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.ops import RendezvousJoinOp, RendezvousKeepAliveOp
from quorate.core.state import RendezvousState, World, WorldName, check
from quorate.errors import RendezvousConnectionError, RendezvousStateError
from quorate.holder import BackendRendezvousStateHolder
from quorate.testing import Fault, ManualClock
from tests.core.support import make_settings, node
from tests.direct import Member, PolledBackend, change, stored

A, B, C = (node(name) for name in "abc")
SETTINGS = make_settings(min_nodes=1, max_nodes=3)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def backend() -> PolledBackend:
    return PolledBackend()


@pytest.fixture
def member(backend: PolledBackend, clock: ManualClock) -> Member:
    return Member(A, SETTINGS, backend, clock)


def world_of(*members: NodeDesc) -> RendezvousState:
    """Return a state in which these nodes are in a complete round."""
    moment, profile = ManualClock().now(), NodeProfile()
    state = RendezvousState(epoch="e", complete=True)
    state.participants = {member: rank for rank, member in enumerate(members)}
    state.last_heartbeats = dict.fromkeys(members, moment)
    state.profiles = dict.fromkeys(members, profile)
    state.agreed = SETTINGS.agreed
    state.world = World("e", 0, members, (profile,) * len(members))
    check(state, SETTINGS)
    return state


def put(backend: PolledBackend, state: RendezvousState) -> None:
    current = backend.get_state()
    backend.set_state(encode_state(state), current[1] if current else None)


def beat(backend: PolledBackend, *nodes: NodeDesc) -> None:
    def edit(state: RendezvousState) -> None:
        for alive in nodes:
            state.last_heartbeats[alive] += timedelta(seconds=1)

    change(backend, edit)


def pass_time(member: Member, backend: PolledBackend, seconds: int, *alive: NodeDesc) -> None:
    """Let time pass second by second while the holder looks and these nodes beat."""
    for _ in range(seconds):
        member.clock.advance(1)
        if alive:
            beat(backend, *alive)
        member.holder.sync()


def test_init_initializes_state_holder(member: Member) -> None:
    assert member.holder.state == RendezvousState(epoch=member.holder.state.epoch)
    assert len(member.holder.state.epoch) == 8
    assert member.backend.calls == []


def test_sync_gets_empty_state_if_backend_state_does_not_exist(
    member: Member, backend: PolledBackend
) -> None:
    """R2: a state that is created rather than loaded has an epoch of its own."""
    other = BackendRendezvousStateHolder(backend, SETTINGS)
    assert member.holder.sync() is None
    assert other.sync() is None
    assert member.holder.state == RendezvousState(epoch=member.holder.state.epoch)
    assert member.holder.state.epoch != other.state.epoch
    assert backend.get_state() is None


def test_sync_gets_backend_state_if_local_state_is_clean(
    member: Member, backend: PolledBackend
) -> None:
    put(backend, world_of(A, B))
    assert member.holder.sync() is None
    assert member.holder.state == world_of(A, B)
    assert member.backend.calls == ["get_state"]


def test_sync_gets_backend_state_if_local_state_is_old_and_dirty(
    member: Member, backend: PolledBackend
) -> None:
    put(backend, world_of(A, B))
    member.holder.sync()
    change(backend, lambda state: setattr(state, "held", True))
    member.holder.state.closed = True
    member.holder.mark_dirty()
    assert member.holder.sync() is False
    assert member.holder.state.held
    assert not member.holder.state.closed
    assert not stored(backend).closed


def test_a_state_that_others_write_to_is_not_cached(member: Member, backend: PolledBackend) -> None:
    test_sync_gets_backend_state_if_local_state_is_old_and_dirty(member, backend)
    change(backend, lambda state: setattr(state, "held", False))
    assert member.holder.sync() is None
    assert not member.holder.state.held


def test_sync_sets_backend_state_if_local_state_is_new_and_dirty(
    member: Member, backend: PolledBackend
) -> None:
    member.holder.state.held = True
    member.holder.mark_dirty()
    assert member.holder.sync() is True
    assert stored(backend) == member.holder.state
    member.holder.state.closed = True
    member.holder.mark_dirty()
    assert member.holder.sync() is True
    assert stored(backend).closed
    assert member.holder.sync() is None


def test_sync_uses_cached_state_if_cache_duration_is_specified(
    member: Member, backend: PolledBackend
) -> None:
    put(backend, world_of(A))
    member.holder.sync()
    put(backend, world_of(A, B))
    member.clock.advance(0.9)
    assert member.holder.sync() is None
    assert member.holder.state == world_of(A)


def test_sync_gets_backend_state_if_cached_state_has_expired(
    member: Member, backend: PolledBackend
) -> None:
    put(backend, world_of(A))
    member.holder.sync()
    put(backend, world_of(A, B))
    member.clock.advance(1)
    assert member.holder.sync() is None
    assert member.holder.state == world_of(A, B)


def test_without_a_cache_each_sync_reads(backend: PolledBackend, clock: ManualClock) -> None:
    holder = BackendRendezvousStateHolder(backend, SETTINGS, cache_duration=0, clock=clock)
    put(backend, world_of(A))
    holder.sync()
    put(backend, world_of(A, B))
    holder.sync()
    assert holder.state == world_of(A, B)


@pytest.mark.parametrize("dirty", [False, True])
def test_sync_raises_error_if_backend_state_is_corrupt(
    dirty: bool, member: Member, backend: PolledBackend
) -> None:
    backend.set_state(b"corrupt")
    if dirty:
        member.holder.mark_dirty()
    with pytest.raises(RendezvousStateError):
        member.holder.sync()


def test_sync_sanitizes_state(member: Member, backend: PolledBackend) -> None:
    """R8, R1: whoever is silent loses its place; the record of the world does not change."""
    state = world_of(A, B)
    state.wait_list[C] = state.last_heartbeats[C] = ManualClock().now()
    state.profiles[C] = state.profiles[A]
    put(backend, state)
    pass_time(member, backend, 14, A)
    assert list(member.holder.state.participants) == [A, B]
    pass_time(member, backend, 2, A)
    found = member.holder.state
    assert list(found.participants) == [A]
    assert found.departed == {B: "silent for 15 s"}
    assert found.wait_list == {}
    assert list(found.last_heartbeats) == [A]
    assert found.world == world_of(A, B).world
    check(found, SETTINGS)


def test_sync_sanitizes_state_if_no_participants_is_left(
    member: Member, backend: PolledBackend
) -> None:
    put(backend, world_of(A, B))
    pass_time(member, backend, 16)
    found = member.holder.state
    assert (found.participants, found.last_heartbeats) == ({}, {})
    assert (found.round, found.complete) == (1, False)
    check(found, SETTINGS)


def test_who_is_lost_is_stored_with_the_next_change(member: Member, backend: PolledBackend) -> None:
    put(backend, world_of(A, B))
    pass_time(member, backend, 16, A)
    assert B in stored(backend).participants
    member.holder.mark_dirty()
    assert member.holder.sync() is True
    assert stored(backend).departed == {B: "silent for 15 s"}


def test_who_is_lost_stays_lost_until_it_is_stored(member: Member, backend: PolledBackend) -> None:
    """R8: what is taken out of the copy comes back with each read."""
    put(backend, world_of(A, B))
    for seconds in (16, 1, 1, 20):
        pass_time(member, backend, seconds, A)
        assert list(member.holder.state.participants) == [A]


def test_a_stamp_from_another_clock_is_never_compared(
    member: Member, backend: PolledBackend
) -> None:
    """R9: a node whose clock is a year off is alive for as long as its heartbeats change."""
    state = world_of(A, B)
    state.last_heartbeats[B] -= timedelta(days=365)
    put(backend, state)
    pass_time(member, backend, 60, A, B)
    assert list(member.holder.state.participants) == [A, B]


def test_who_was_away_judges_nobody_for_that_time(member: Member, backend: PolledBackend) -> None:
    """R9: a process that was frozen for a minute gives the others the rest of their window.

    No more of that minute counts than the time between two looks, 2.25 s.
    """
    put(backend, world_of(A, B))
    member.holder.sync()
    member.clock.advance(60)
    member.holder.sync()
    assert list(member.holder.state.participants) == [A, B]
    pass_time(member, backend, 12)
    assert list(member.holder.state.participants) == [A, B]
    pass_time(member, backend, 1)
    assert member.holder.state.last_heartbeats == {}


def test_a_backend_that_was_away_costs_nobody_a_place(
    member: Member, backend: PolledBackend
) -> None:
    """R9"""
    put(backend, world_of(A, B))
    member.holder.sync()
    member.backend.plan("get_state", *[Fault("request")] * 30)
    for _ in range(30):
        member.clock.advance(1)
        with pytest.raises(RendezvousConnectionError):
            member.holder.sync()
    member.holder.sync()
    assert list(member.holder.state.participants) == [A, B]


def try_to_write(member: Member) -> None:
    member.holder.mark_dirty()
    with pytest.raises(RendezvousConnectionError):
        member.holder.sync()


def test_a_backend_that_takes_no_writes_costs_nobody_a_place(
    member: Member, backend: PolledBackend
) -> None:
    """R9: it is full, say; heartbeats are missing that were not written, this node's own too."""
    put(backend, world_of(A, B))
    pass_time(member, backend, 5, A, B)
    member.backend.plan("set_state", *[Fault("request")] * 12)
    for _ in range(12):
        pass_time(member, backend, 5)
        try_to_write(member)
    assert list(member.holder.state.participants) == [A, B]

    pass_time(member, backend, 13, A)
    assert list(member.holder.state.participants) == [A, B]
    pass_time(member, backend, 2, A)
    assert list(member.holder.state.participants) == [A]


def test_a_node_that_alone_cannot_write_sees_all_the_same_who_is_lost(
    member: Member, backend: PolledBackend
) -> None:
    """R8: others do write."""
    put(backend, world_of(A, B, C))
    pass_time(member, backend, 1, A, B, C)
    member.backend.plan("set_state", *[Fault("request")] * 5)
    for _ in range(5):
        try_to_write(member)
        pass_time(member, backend, 4, B)
    assert list(member.holder.state.participants) == [B]


def test_members_that_do_not_come_back_lose_their_places(
    member: Member, backend: PolledBackend
) -> None:
    """R10: heartbeats or not."""
    put(backend, world_of(A, B))
    back = RendezvousJoinOp(after=WorldName("e", 0))

    def come_back(ctx: RendezvousContext, deadline: float) -> Decision:
        decision = back(ctx, deadline)
        return Decision(Action.FINISH) if decision.action is Action.SYNC else decision

    member.executor.run(come_back, member.deadline())
    assert list(stored(backend).survivors) == [B]
    pass_time(member, backend, 59, A, B)
    assert list(member.holder.state.survivors) == [B]
    pass_time(member, backend, 2, A, B)
    found = member.holder.state
    assert (found.survivors, list(found.stragglers)) == ({}, [B])
    assert B in found.last_heartbeats
    check(found, SETTINGS)


def test_a_lost_request_leaves_the_change_undone(member: Member, backend: PolledBackend) -> None:
    """R14: after an error nobody knows what is stored; the next sync reads it."""
    put(backend, world_of(A))
    member.holder.sync()
    member.backend.plan("set_state", Fault("request"))
    member.holder.state.closed = True
    member.holder.mark_dirty()
    with pytest.raises(RendezvousConnectionError):
        member.holder.sync()
    assert member.holder.sync() is None
    assert not member.holder.state.closed


def test_a_lost_reply_is_resolved_by_reading(member: Member, backend: PolledBackend) -> None:
    """R14"""
    put(backend, world_of(A))
    member.holder.sync()
    member.backend.plan("set_state", Fault("reply"))
    member.holder.state.closed = True
    member.holder.mark_dirty()
    with pytest.raises(RendezvousConnectionError):
        member.holder.sync()
    assert member.holder.sync() is None
    assert member.holder.state.closed
    member.holder.mark_dirty()
    assert member.holder.sync() is True, "the token of the write whose reply was lost is current"


def test_a_state_that_vanished_begins_a_new_epoch(clock: ManualClock) -> None:
    """R2"""
    backend = PolledBackend()
    holder = BackendRendezvousStateHolder(backend, SETTINGS, clock=clock)
    put(backend, world_of(A))
    holder.sync()
    holder._backend = PolledBackend()
    holder.mark_dirty()
    assert holder.sync() is False
    assert holder.state.epoch not in ("", "e")
    holder.mark_dirty()
    assert holder.sync() is True


def test_what_is_watched_is_bounded_by_the_state(member: Member, backend: PolledBackend) -> None:
    state = world_of(A, B, C)
    put(backend, state)
    pass_time(member, backend, 3, A, B, C)
    put(backend, world_of(A))
    pass_time(member, backend, 2, A)
    observer = member.holder.observer
    assert set(observer._beats) == {A}
    assert not [what for what in observer._sights if isinstance(what, tuple)]


def test_a_heartbeat_falls_due_between_exchanges(member: Member, backend: PolledBackend) -> None:
    """R11: the age of a node's own word is not forgotten with each exchange."""
    put(backend, world_of(A))
    member.executor.run(RendezvousKeepAliveOp(), member.deadline())
    before = stored(backend).last_heartbeats[A]
    for _ in range(3):
        member.clock.advance(1)
        member.executor.run(RendezvousKeepAliveOp(), member.deadline())
    assert stored(backend).last_heartbeats[A] > before


def test_wait_sleeps_where_the_backend_cannot_watch(member: Member) -> None:
    before = member.clock.monotonic()
    member.holder.wait(3)
    assert member.clock.monotonic() == before + 3


def test_whoever_has_waited_sees_what_is_there_now(member: Member, backend: PolledBackend) -> None:
    put(backend, world_of(A))
    member.holder.sync()
    change(backend, lambda state: setattr(state, "held", True))
    member.holder.wait(0.5)
    member.holder.sync()
    assert member.holder.state.held


def test_wait_ends_with_a_change_where_the_backend_can_watch() -> None:
    backend = MemoryRendezvousBackend()
    holder = BackendRendezvousStateHolder(backend, SETTINGS, cache_duration=1000)
    backend.set_state(encode_state(world_of(A)))
    holder.sync()
    change(backend, lambda state: setattr(state, "held", True))
    holder.wait(1000)
    holder.sync()
    assert holder.state.held, "a state that is known to have changed was served from the cache"
