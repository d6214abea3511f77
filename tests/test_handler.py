from __future__ import annotations

import gc
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from quorate import events
from quorate.api import RendezvousInfo, RendezvousParameters
from quorate.backends.base import RendezvousBackend
from quorate.backends.memory import MemoryRendezvousBackend
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.observer import Observer
from quorate.core.settings import RendezvousSettings, RendezvousTimeout
from quorate.core.state import RendezvousState
from quorate.core.transitions import withdraw
from quorate.errors import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousGracefulExitError,
    RendezvousStateError,
    RendezvousTimeoutError,
)
from quorate.events import EventState, RendezvousEvent
from quorate.handler import AGENT_STORE_OFF, DynamicRendezvousHandler, create_handler
from quorate.heartbeat import PeriodicTimer
from quorate.holder import BackendRendezvousStateHolder
from quorate.identity import release
from quorate.stores.memory import MemoryStore
from quorate.testing import Fault, FlakyBackend, ManualClock
from tests.direct import PolledBackend, change, stored

Handlers = Callable[..., DynamicRendezvousHandler]

TIMER = "RendezvousKeepAliveTimer_"
WAIT_S = 10.0


def make_settings(min_nodes: int = 1, max_nodes: int = 1, **changes: Any) -> RendezvousSettings:
    timeout = RendezvousTimeout(
        join=timedelta(seconds=8),
        last_call=timedelta(seconds=0.2),
        close=timedelta(seconds=5),
        heartbeat=timedelta(seconds=1),
    )
    return RendezvousSettings("run", min_nodes, max_nodes, **({"timeout": timeout} | changes))


@pytest.fixture(autouse=True)
def _impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a moment in time looks more often than once a second."""
    monkeypatch.setattr("quorate.executor.POLL_S", 0.05)
    monkeypatch.setattr("quorate.handler.SKEW_MAX_S", 0.01)


@pytest.fixture
def backend() -> MemoryRendezvousBackend:
    return MemoryRendezvousBackend()


@pytest.fixture
def handlers(backend: MemoryRendezvousBackend) -> Iterator[Handlers]:
    """Return a maker of handlers that share a backend and a store; their threads end."""
    made: list[DynamicRendezvousHandler] = []
    store = MemoryStore()

    def make(
        addr: str = "node1",
        settings: RendezvousSettings | None = None,
        on: RendezvousBackend | None = None,
        clock: ManualClock | None = None,
        profile: NodeProfile | None = None,
        keep_in: Any = store,
    ) -> DynamicRendezvousHandler:
        settings = settings or make_settings()
        node = NodeDesc(addr, 1, len(made), "f00d")
        holder = BackendRendezvousStateHolder(on or backend, settings, clock=clock)
        handler = DynamicRendezvousHandler(
            node, settings, "dummy_backend", keep_in, holder, clock, profile
        )
        made.append(handler)
        return handler

    yield make
    for handler in made:
        handler._stop_heartbeats()


@pytest.fixture
def seen() -> Iterator[list[RendezvousEvent]]:
    collected: list[RendezvousEvent] = []
    sink = collected.append
    events.add_sink(sink)
    yield collected
    events.remove_sink(sink)


def failures(seen: list[RendezvousEvent]) -> list[str]:
    return [f"{event.name}: {event.message}" for event in seen if event.state is EventState.FAILED]


def alive(handler: DynamicRendezvousHandler) -> bool:
    name = f"{TIMER}{handler.node.local_id}"
    return any(thread.name == name for thread in threading.enumerate())


def together(*handlers: DynamicRendezvousHandler) -> list[RendezvousInfo]:
    """Let these handlers join at the same time, and return what each got."""
    with ThreadPoolExecutor(len(handlers)) as pool:
        calls = [pool.submit(handler.next_rendezvous) for handler in handlers]
        return [call.result(WAIT_S) for call in calls]


def look_again(handler: DynamicRendezvousHandler) -> None:
    """Let a handler forget the copy of the state that it read a moment ago."""
    handler._state_holder._exchanged_s = None  # type: ignore[attr-defined]


def close(state: RendezvousState) -> None:
    state.closed = True
    state.closed_reason = "enough"


# How a handler is made


def test_init_initializes_handler(handlers: Handlers) -> None:
    handler = handlers(settings=make_settings(2, 4))
    assert handler.get_backend() == "dummy_backend"
    assert handler.get_run_id() == "run"
    assert (handler.settings.min_nodes, handler.settings.max_nodes) == (2, 4)
    assert handler.node.addr == "node1"
    assert handler.world() is None


def test_init_initializes_handler_if_min_and_max_nodes_are_equal(handlers: Handlers) -> None:
    settings = handlers(settings=make_settings(3, 3)).settings
    assert settings.min_nodes == settings.max_nodes == 3


def test_init_initializes_handler_if_timeout_is_not_specified() -> None:
    handler = DynamicRendezvousHandler.from_backend(
        "run", MemoryStore(), MemoryRendezvousBackend(), 2, 4, "node1"
    )
    timeout, default = handler.settings.timeout, RendezvousTimeout()
    assert timeout.join == default.join
    assert timeout.last_call == default.last_call
    assert handler.settings.keep_alive_interval == timedelta(seconds=5)
    assert handler.settings.keep_alive_max_attempt == 3
    assert handler.get_backend() == "memory"


@pytest.mark.parametrize("min_nodes", [-1, 0])
def test_init_raises_error_if_min_nodes_is_not_positive(min_nodes: int) -> None:
    with pytest.raises(ValueError, match=rf"minimum number of nodes \({min_nodes}\)"):
        DynamicRendezvousHandler.from_backend(
            "run", MemoryStore(), MemoryRendezvousBackend(), min_nodes, 4
        )


def test_init_raises_error_if_max_nodes_is_less_than_min() -> None:
    with pytest.raises(ValueError, match=r"maximum number of nodes \(2\)"):
        DynamicRendezvousHandler.from_backend("run", MemoryStore(), MemoryRendezvousBackend(), 3, 2)


def parameters(**config: Any) -> RendezvousParameters:
    local_addr = config.pop("local_addr", None)
    return RendezvousParameters("memory", "", "run", 3, 6, local_addr=local_addr, **config)


def test_create_handler_returns_handler(backend: MemoryRendezvousBackend) -> None:
    given = parameters(
        join_timeout="50",
        last_call_timeout="60",
        close_timeout="70",
        heartbeat_timeout="80",
        keep_alive_interval="7",
        keep_alive_max_attempt="9",
        node_id="n1",
        slots="4",
    )
    handler = create_handler(MemoryStore(), backend, given)
    settings = handler.settings
    assert handler.get_backend() == backend.name
    assert (settings.run_id, settings.min_nodes, settings.max_nodes) == ("run", 3, 6)
    assert settings.timeout.join == timedelta(seconds=50)
    assert settings.timeout.last_call == timedelta(seconds=60)
    assert settings.timeout.close == timedelta(seconds=70)
    assert settings.timeout.heartbeat == timedelta(seconds=80)
    assert settings.keep_alive_interval == timedelta(seconds=7)
    assert settings.keep_alive_max_attempt == 9
    assert handler._profile == NodeProfile(node_id="n1", slots=4, release=release())


def test_create_handler_returns_handler_if_timeout_is_not_specified(
    backend: MemoryRendezvousBackend,
) -> None:
    handler = create_handler(MemoryStore(), backend, parameters())
    assert handler.settings.timeout.join == RendezvousTimeout().join


def test_create_handler_rdzv_local_addr(backend: MemoryRendezvousBackend) -> None:
    given = parameters(local_addr="127.0.0.2")
    assert create_handler(MemoryStore(), backend, given).node.addr == "127.0.0.2"


def test_create_handler_records_and_raises_exceptions(
    backend: MemoryRendezvousBackend, seen: list[RendezvousEvent]
) -> None:
    for wrong in ({"join_timeout": "-100"}, {"keep_alive_interval": "x"}, {"keepalive": "1"}):
        with pytest.raises(ValueError, match=r"timeout|keep_alive|keepalive"):
            create_handler(MemoryStore(), backend, parameters(**wrong))
    assert len(failures(seen)) == 3


# How it joins


def test_next_rendezvous_skews_the_first_join_attempt(
    handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()
    sleeps: list[float] = []
    sleep = clock.sleep
    monkeypatch.setattr(clock, "sleep", lambda s: (sleeps.append(s), sleep(s)))
    monkeypatch.setattr("quorate.handler.SKEW_MAX_S", 0.3)
    monkeypatch.setattr("quorate.handler.random.uniform", lambda low, high: (low + high) / 2)
    handler = handlers(on=PolledBackend(), clock=clock)
    handler.next_rendezvous()
    assert sleeps == [0.15]
    handler.next_rendezvous()
    assert sleeps == [0.15], "only the first one is skewed"


def test_next_rendezvous_returns_expected_value(handlers: Handlers) -> None:
    settings = make_settings(2, 2)
    infos = together(handlers("node2", settings), handlers("node10", settings))
    assert [(info.rank, info.world_size) for info in infos] == [(0, 2), (1, 2)]
    first, second = infos
    assert first.place is not None
    assert second.place is not None
    assert first.place.world == second.place.world
    assert first.place.digest == second.place.digest
    assert first.bootstrap_store_info == second.bootstrap_store_info
    assert first.bootstrap_store_info is not None
    assert first.bootstrap_store_info.master_addr == "node2"


def test_the_whole_world_is_known(handlers: Handlers) -> None:
    """R1"""
    handler = handlers(profile=NodeProfile(labels={"block": "7"}, slots=8))
    info = handler.next_rendezvous()
    world = handler.world()
    assert world is not None
    assert world.members == (handler.node,)
    assert world.profiles[0].labels == {"block": "7"}
    assert info.place == world.places()[handler.node]
    assert info.place.workers == 8


def test_next_rendezvous_respects_the_requested_timeout(handlers: Handlers) -> None:
    """R16, R7"""
    clock, backend = ManualClock(), PolledBackend()
    handler = handlers(settings=make_settings(2, 2), on=backend, clock=clock)
    before = clock.monotonic()
    with pytest.raises(RendezvousTimeoutError, match=r"waiting for 1 more node \(1 of 2\)"):
        handler.next_rendezvous()
    assert 8 <= clock.monotonic() - before <= 11
    assert not stored(backend).closed
    assert not alive(handler)


def test_next_rendezvous_moves_to_next_round_if_called_repeatedly(handlers: Handlers) -> None:
    handler = handlers()
    for expected in range(4):
        info = handler.next_rendezvous()
        assert info.place is not None
        assert info.place.round == expected


def test_all_nodes_join_rendezvous(handlers: Handlers) -> None:
    """R2: every rank once, for eight nodes that arrive together."""
    settings = make_settings(8, 8)
    infos = together(*(handlers(f"node{n}", settings) for n in range(8)))
    assert sorted(info.rank for info in infos) == list(range(8))
    assert {info.world_size for info in infos} == {8}
    assert len({info.place.digest for info in infos if info.place}) == 1


def test_survivors_regroup_and_keep_their_ranks(
    handlers: Handlers, until: Callable[..., Any]
) -> None:
    """R3, R4, R8: the one that leaves is told, and those that stay are done as soon as back."""
    settings = make_settings(2, 3)
    a, b, c = (handlers(f"node{n}", settings) for n in range(3))
    together(a, b, c)
    a.leave("drained")
    until(lambda: b.num_nodes_waiting() and c.num_nodes_waiting(), what="the loss to be told")
    infos = together(b, c)
    assert [(info.rank, info.world_size) for info in infos] == [(0, 2), (1, 2)]
    assert {info.place.round for info in infos if info.place} == {1}


def test_a_newcomer_is_taken_in_by_a_regroup(handlers: Handlers, until: Callable[..., Any]) -> None:
    """R3, R6"""
    settings = make_settings(1, 2)
    first, late = handlers("node2", settings), handlers("node1", settings)
    first.next_rendezvous()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(late.next_rendezvous)
        until(first.num_nodes_waiting, what="the newcomer")
        info = first.next_rendezvous()
        joined = call.result(WAIT_S)
    assert (info.rank, joined.rank, info.world_size) == (0, 1, 2)


def test_redundancy_list(
    handlers: Handlers, backend: MemoryRendezvousBackend, until: Callable[..., Any]
) -> None:
    """R6: whom there is no room for is a spare, and leaves in peace when the run ends."""
    settings = make_settings(2, 2)
    a, b, spare = (handlers(f"node{n}", settings) for n in range(3))
    together(a, b)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(spare.next_rendezvous)
        until(lambda: spare.node in stored(backend).redundancy_list, what="the spare")
        assert a.num_nodes_waiting() == 0
        a.set_closed("done")
        with pytest.raises(RendezvousGracefulExitError, match="done"):
            call.result(WAIT_S)


def test_redundancy_transition_to_wait_list_then_join_rendezvous(
    handlers: Handlers, backend: MemoryRendezvousBackend, until: Callable[..., Any]
) -> None:
    """R5, R6: the place of one that leaves is the spare's."""
    settings = make_settings(2, 2)
    a, b, spare = (handlers(f"node{n}", settings) for n in range(3))
    together(a, b)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(spare.next_rendezvous)
        until(lambda: spare.node in stored(backend).redundancy_list, what="the spare")
        b.leave()
        until(a.num_nodes_waiting, what="the loss to be told")
        info = a.next_rendezvous()
        promoted = call.result(WAIT_S)
    assert (info.rank, promoted.rank, promoted.world_size) == (0, 1, 2)


def test_a_backend_that_is_away_for_a_moment_costs_nothing(handlers: Handlers) -> None:
    """R11"""
    clock = ManualClock()
    backend = FlakyBackend(PolledBackend(), clock)
    backend.plan("get_state", *[Fault("request")] * 3)
    backend.plan("set_state", Fault("reply"), Fault("request"), Fault("reply"))
    info = handlers(on=backend, clock=clock).next_rendezvous()
    assert info.place is not None
    assert (info.rank, info.place.round) == (0, 0)


def test_a_backend_that_stays_away_ends_the_join(
    handlers: Handlers, seen: list[RendezvousEvent]
) -> None:
    clock = ManualClock()
    backend = FlakyBackend(PolledBackend(), clock)
    backend.plan("get_state", *[Fault("request")] * 100)
    before = clock.monotonic()
    with pytest.raises(RendezvousConnectionError):
        handlers(on=backend, clock=clock).next_rendezvous()
    assert 15 <= clock.monotonic() - before <= 17
    assert len(failures(seen)) == 1


def test_the_store_of_a_round_has_a_prefix_of_its_own(handlers: Handlers) -> None:
    store = MemoryStore()
    handler = handlers(keep_in=store)
    for round_number in range(2):
        info = handler.next_rendezvous()
        info.store.set("key", b"value")
        assert info.place is not None
        prefix = f"torch.rendezvous.run.{round_number}.{info.place.epoch}"
        assert store.get(f"{prefix}/key", 1) == b"value"


# How it says that the run is over


def test_is_closed_returns_expected_value(
    handlers: Handlers, backend: MemoryRendezvousBackend
) -> None:
    handler = handlers()
    assert not handler.is_closed()
    handler = handlers()
    change(backend, close)
    assert handler.is_closed()


def test_is_closed_records_and_raises_exceptions(
    handlers: Handlers, backend: MemoryRendezvousBackend, seen: list[RendezvousEvent]
) -> None:
    backend.set_state(b"corrupt")
    with pytest.raises(RendezvousStateError):
        handlers().is_closed()
    assert failures(seen)[0].startswith(
        "DynamicRendezvousHandler.is_closed: RendezvousStateError: "
    )


def test_set_closed_closes_rendezvous(handlers: Handlers, backend: MemoryRendezvousBackend) -> None:
    """R7"""
    handlers().set_closed("the job is done")
    assert stored(backend).closed
    with pytest.raises(RendezvousClosedError, match="the job is done"):
        handlers().next_rendezvous()


def test_set_closed_can_be_called_multiple_times(
    handlers: Handlers, backend: MemoryRendezvousBackend
) -> None:
    """R7: the first reason wins."""
    handler = handlers()
    handler.set_closed("first")
    handler.set_closed("second")
    assert stored(backend).closed_reason == "first"


def test_set_closed_respects_the_requested_timeout(handlers: Handlers) -> None:
    clock, backend = ManualClock(), PolledBackend()
    handler = handlers(on=backend, clock=clock)
    before = clock.monotonic()

    class Contended(PolledBackend):
        def set_state(self, state: bytes, token: object = None) -> Any:
            change(self._inner, lambda state: None)
            return self._inner.set_state(state, "lost")

        def get_state(self) -> Any:
            return self._inner.get_state()

        _inner = backend

    change(backend, lambda state: None)
    handler._state_holder._backend = Contended()  # type: ignore[attr-defined]
    with pytest.raises(RendezvousTimeoutError, match="could not close"):
        handler.set_closed()
    assert 5 <= clock.monotonic() - before <= 7


def test_set_closed_records_and_raises_exceptions(
    handlers: Handlers, backend: MemoryRendezvousBackend, seen: list[RendezvousEvent]
) -> None:
    backend.set_state(b"corrupt")
    with pytest.raises(RendezvousStateError):
        handlers().set_closed()
    assert failures(seen)[0].startswith("DynamicRendezvousHandler.set_closed: ")


def test_shutdown_closes_rendezvous_and_returns_true(
    handlers: Handlers, backend: MemoryRendezvousBackend
) -> None:
    handler = handlers()
    handler.next_rendezvous()
    assert handler.shutdown() is True
    assert stored(backend).closed
    assert not alive(handler)


def test_shutdown_of_a_node_outside_the_world_closes_nothing(
    handlers: Handlers, backend: MemoryRendezvousBackend
) -> None:
    """R7: a latecomer that gives up must not end the job of the others."""
    handlers("node1").next_rendezvous()
    late = handlers("node2")
    assert late.shutdown() is True
    assert not stored(backend).closed


def test_shutdown_of_a_member_that_left_closes_nothing(
    handlers: Handlers, backend: MemoryRendezvousBackend
) -> None:
    """R7"""
    settings = make_settings(2, 2)
    a, b = handlers("node1", settings), handlers("node2", settings)
    together(a, b)
    a.leave("drained")
    assert a.shutdown() is True
    state = stored(backend)
    assert not state.closed
    assert state.departed == {a.node: "drained"}
    look_again(b)
    assert b.num_nodes_waiting() == 1


def test_shutdown_beside_a_loss_closes_nothing(
    handlers: Handlers, backend: MemoryRendezvousBackend
) -> None:
    """R7: with another member work is undone, and the rest regroup."""
    settings = make_settings(3, 3)
    a, b, c = (handlers(f"node{number}", settings) for number in (1, 2, 3))
    together(a, b, c)
    b.leave("lost")
    look_again(a)
    assert a.shutdown() is True
    state = stored(backend)
    assert not state.closed
    assert state.departed.keys() == {a.node, b.node}


def test_r7_the_failure_of_a_member_closes_the_run(
    handlers: Handlers, backend: MemoryRendezvousBackend
) -> None:
    settings = make_settings(2, 2)
    a, b = handlers("node1", settings), handlers("node2", settings)
    together(a, b)
    assert a.fail("rank 0 raised an error") is True
    assert b.fail("rank 1 lost its peer") is True
    assert stored(backend).closed_reason == "rank 0 raised an error"


def test_r7_the_failure_of_a_former_member_closes_nothing(
    handlers: Handlers, backend: MemoryRendezvousBackend
) -> None:
    settings = make_settings(1, 2)
    a, b = handlers("node1", settings), handlers("node2", settings)
    together(a, b)
    a.leave("stopped answering")
    look_again(b)
    assert b.next_rendezvous().world_size == 1
    assert a.fail("its workers have lost their peers") is False
    state = stored(backend)
    assert not state.closed
    assert list(state.participants) == [b.node]


def test_r7_a_failure_beside_a_loss_is_a_symptom(
    handlers: Handlers, backend: MemoryRendezvousBackend
) -> None:
    settings = make_settings(2, 3)
    a, b, c = (handlers(f"node{number}", settings) for number in (1, 2, 3))
    together(a, b, c)
    b.leave("lost")
    look_again(a)
    assert a.fail("its workers have lost their peers") is False
    assert not alive(a)
    state = stored(backend)
    assert not state.closed
    assert state.departed == {b.node: "lost", a.node: "its workers have lost their peers"}
    look_again(a)
    look_again(c)
    assert {info.world_size for info in together(a, c)} == {2}, "who has left may come back"


def test_shutdown_can_be_called_multiple_times(handlers: Handlers) -> None:
    handler = handlers()
    handler.next_rendezvous()
    assert handler.shutdown() is True
    assert handler.shutdown() is True


def test_shutdown_returns_false_if_rendezvous_cannot_be_closed(
    handlers: Handlers, seen: list[RendezvousEvent]
) -> None:
    backend = FlakyBackend(MemoryRendezvousBackend())
    handler = handlers(on=backend)
    handler.next_rendezvous()
    backend.plan("set_state", Fault("request"))
    assert handler.shutdown() is False
    assert failures(seen)[0].startswith("DynamicRendezvousHandler.shutdown: ")
    assert not alive(handler)


def test_shutdown_records_and_raises_exceptions(
    handlers: Handlers, seen: list[RendezvousEvent]
) -> None:
    class Broken(MemoryRendezvousBackend):
        def get_state(self) -> Any:
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        handlers(on=Broken()).shutdown()
    assert failures(seen) == ["DynamicRendezvousHandler.shutdown: RuntimeError: a bug"]


def test_a_wait_in_the_rendezvous_does_not_hold_up_a_close(
    handlers: Handlers, backend: MemoryRendezvousBackend, until: Callable[..., Any]
) -> None:
    handler = handlers(settings=make_settings(2, 2))
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(handler.next_rendezvous)
        until(lambda: backend.get_state() and stored(backend).participants, what="the join")
        handler.set_closed("enough")
        with pytest.raises(RendezvousClosedError, match="enough"):
            call.result(WAIT_S)


# Who waits


def test_num_nodes_waiting_returns_expected_value(
    handlers: Handlers, backend: MemoryRendezvousBackend
) -> None:
    """R8: newcomers and losses count, until the run is closed."""
    settings = make_settings(2, 5)
    a, b = handlers("node1", settings), handlers("node2", settings)
    assert a.num_nodes_waiting() == b.num_nodes_waiting() == 0
    together(a, b)
    assert a.num_nodes_waiting() == b.num_nodes_waiting() == 0
    node = NodeDesc("late", 1, 0)

    def wait_in_line(state: RendezvousState) -> None:
        profile = state.profiles[a.node]
        state.wait_list[node] = state.last_heartbeats[node] = state.last_heartbeats[a.node]
        state.profiles[node] = profile

    change(backend, wait_in_line)
    look_again(a)
    assert a.num_nodes_waiting() == 1
    b.leave()
    look_again(a)
    assert a.num_nodes_waiting() == 2
    a.set_closed()
    assert a.num_nodes_waiting() == 0


def test_num_nodes_waiting_records_and_raises_exceptions(
    handlers: Handlers, backend: MemoryRendezvousBackend, seen: list[RendezvousEvent]
) -> None:
    backend.set_state(b"corrupt")
    with pytest.raises(RendezvousStateError):
        handlers().num_nodes_waiting()
    assert failures(seen)[0].startswith("DynamicRendezvousHandler.num_nodes_waiting: ")


def test_a_node_that_was_declared_lost_is_told(
    handlers: Handlers, backend: MemoryRendezvousBackend
) -> None:
    """R8: it learns that it has to join afresh, and does."""
    handler = handlers(settings=make_settings(1, 2))
    handler.next_rendezvous()

    def lose(state: RendezvousState) -> None:
        withdraw(state, handler.settings, handler.node, "silent", Observer(ManualClock()))

    change(backend, lose)
    look_again(handler)
    assert handler.num_nodes_waiting() > 0
    info = handler.next_rendezvous()
    assert info.place is not None
    assert info.place.round == 1


# How it stays alive


def quick() -> RendezvousSettings:
    interval = timedelta(seconds=0.02)
    return make_settings(keep_alive_interval=interval, keep_alive_max_attempt=500)


def test_keep_alive_thread_is_started_with_next_rendezvous_and_stopped_with_shutdown(
    handlers: Handlers,
) -> None:
    handler = handlers()
    assert not alive(handler)
    handler.next_rendezvous()
    assert alive(handler)
    handler.shutdown()
    assert not alive(handler)


def test_keep_alive_thread_is_started_with_next_rendezvous_and_stopped_with_finalizer(
    backend: MemoryRendezvousBackend,
) -> None:
    handler = DynamicRendezvousHandler.from_backend("run", MemoryStore(), backend, 1, 1, "node1")
    handler.next_rendezvous()
    name = f"{TIMER}{handler.node.local_id}"
    assert alive(handler)
    del handler
    gc.collect()
    assert name not in {thread.name for thread in threading.enumerate()}


def test_keep_alive_updates_last_heartbeat(
    handlers: Handlers, backend: MemoryRendezvousBackend, until: Callable[..., Any]
) -> None:
    handler = handlers(settings=quick())
    handler.next_rendezvous()
    first = stored(backend).last_heartbeats[handler.node]
    until(lambda: stored(backend).last_heartbeats[handler.node] > first, what="a heartbeat")


def test_r11_a_look_whether_a_beat_is_due_comes_twice_before_it_is(
    handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quarter of the interval: `tests/testing/sim/test_node.py` shows that it is enough."""
    periods: list[timedelta] = []
    real = PeriodicTimer.__init__

    def note(self: PeriodicTimer, interval: timedelta, *arguments: Any, **options: Any) -> None:
        periods.append(interval)
        real(self, interval, *arguments, **options)

    monkeypatch.setattr(PeriodicTimer, "__init__", note)
    handlers(settings=make_settings(keep_alive_interval=timedelta(seconds=8))).next_rendezvous()
    assert periods == [timedelta(seconds=2)]


def test_keep_alive_swallows_rendezvous_errors(
    handlers: Handlers,
    until: Callable[..., Any],
    seen: list[RendezvousEvent],
) -> None:
    backend = FlakyBackend(MemoryRendezvousBackend())
    handler = handlers(settings=quick(), on=backend)
    handler.next_rendezvous()
    first = stored(backend).last_heartbeats[handler.node]
    backend.plan("set_state", Fault("request"), Fault("request"))
    until(lambda: len(failures(seen)) == 2, what="two heartbeats that fail")
    until(lambda: stored(backend).last_heartbeats[handler.node] > first, what="one that does not")
    assert failures(seen)[0].startswith("DynamicRendezvousHandler.keep_alive: no heartbeat")


def test_keep_alive_respects_the_requested_timeout(
    handlers: Handlers, seen: list[RendezvousEvent]
) -> None:
    clock = ManualClock()
    backend = FlakyBackend(PolledBackend(), clock)
    handler = handlers(on=backend, clock=clock)
    handler.next_rendezvous()
    clock.advance(5)
    backend.plan("get_state", Fault(delay_s=1.5))
    handler._keep_alive()
    assert "could not send a heartbeat in time" in failures(seen)[0]


def test_keep_alive_for_redundant_node(
    handlers: Handlers, backend: MemoryRendezvousBackend, until: Callable[..., Any]
) -> None:
    """A spare has to show signs of life while it waits."""
    settings = make_settings(keep_alive_interval=timedelta(seconds=0.1))
    member, spare = handlers("node1", settings), handlers("node2", settings)
    member.next_rendezvous()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(spare.next_rendezvous)
        until(lambda: spare.node in stored(backend).redundancy_list, what="the spare")
        first = stored(backend).last_heartbeats[spare.node]
        until(lambda: stored(backend).last_heartbeats[spare.node] > first, what="a heartbeat")
        member.set_closed()
        with pytest.raises(RendezvousGracefulExitError):
            call.result(WAIT_S)


def test_a_silent_member_is_lost(handlers: Handlers, until: Callable[..., Any]) -> None:
    """R8: without any call of its own."""
    settings = make_settings(
        1, 2, keep_alive_interval=timedelta(seconds=0.1), keep_alive_max_attempt=8
    )
    a, b = handlers("node1", settings), handlers("node2", settings)
    together(a, b)
    b._stop_heartbeats()
    until(a.num_nodes_waiting, what="the loss to be told")
    info = a.next_rendezvous()
    assert (info.rank, info.world_size) == (0, 1)


# Where the workers find their store


def torch_store() -> Any:
    import torch.distributed

    return torch.distributed.HashStore()


@pytest.mark.torch
def test_use_agent_store_is_true_by_default(
    handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(AGENT_STORE_OFF, raising=False)
    assert handlers(keep_in=torch_store()).use_agent_store


@pytest.mark.torch
def test_use_agent_store_is_disabled(handlers: Handlers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(AGENT_STORE_OFF, "1")
    assert not handlers(keep_in=torch_store()).use_agent_store


def test_a_store_of_ours_is_not_shared_with_the_workers(handlers: Handlers) -> None:
    assert not handlers().use_agent_store


def reach(info: RendezvousInfo) -> Any:
    """Connect to the workers' store as a worker does."""
    from torch.distributed import TCPStore

    bootstrap = info.bootstrap_store_info
    assert bootstrap is not None
    return TCPStore(
        bootstrap.master_addr,
        bootstrap.master_port,
        is_master=False,
        wait_for_workers=False,
        timeout=timedelta(seconds=5),
    )


@pytest.mark.torch
def test_share_store_creates_tcp_store(handlers: Handlers) -> None:
    handler = handlers("127.0.0.1", keep_in=torch_store())
    info = handler.next_rendezvous()
    reach(info).set("key", "value")
    assert handler._agent_store.get("key") == b"value"


@pytest.mark.torch
def test_share_store_when_tcp_store(handlers: Handlers) -> None:
    """The workers get a store of their own, not the run's."""
    from torch.distributed import TCPStore

    run_store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    info = handlers("127.0.0.1", keep_in=run_store).next_rendezvous()
    assert info.bootstrap_store_info is not None
    assert info.bootstrap_store_info.master_port != run_store.port
    reach(info).set("key", "value")
    assert not run_store.check(["key"])


@pytest.mark.torch
def test_share_tcp_store_from_backend(handlers: Handlers) -> None:
    """All nodes learn the same port, another one in each round."""
    settings, store = make_settings(2, 2), torch_store()
    a, b = (handlers("127.0.0.1", settings, keep_in=store) for _ in range(2))
    ports = set()
    for _ in range(2):
        infos = together(a, b)
        assert infos[0].bootstrap_store_info == infos[1].bootstrap_store_info
        assert infos[0].bootstrap_store_info is not None
        ports.add(infos[0].bootstrap_store_info.master_port)
        assert not reach(infos[1]).check(["key"])
        reach(infos[0]).set("key", "value")
        assert reach(infos[1]).get("key") == b"value"
    assert len(ports) == 2


@pytest.mark.torch
def test_share_tcp_store_is_disabled(handlers: Handlers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(AGENT_STORE_OFF, "1")
    settings, store = make_settings(2, 2), torch_store()
    a, b = handlers("node1", settings, keep_in=store), handlers("node2", settings, keep_in=store)
    infos = together(a, b)
    assert infos[0].bootstrap_store_info == infos[1].bootstrap_store_info
    assert infos[0].bootstrap_store_info is not None
    assert infos[0].bootstrap_store_info.master_addr == "node1"
    assert a._agent_store is None
    port = infos[0].bootstrap_store_info.master_port
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


@pytest.mark.torch
def test_the_loss_of_rank_0_before_its_announcement_costs_a_regroup(
    handlers: Handlers, monkeypatch: pytest.MonkeyPatch, until: Callable[..., Any]
) -> None:
    """No one waits for a join timeout for a node that died in the middle of a step."""
    settings, store = make_settings(1, 2), torch_store()
    leader, other = (handlers("127.0.0.1", settings, keep_in=store) for _ in range(2))

    def fail() -> int:
        raise RendezvousConnectionError("no port is free")

    monkeypatch.setattr(leader, "_serve", fail)
    with ThreadPoolExecutor(2) as pool:
        failing = pool.submit(leader.next_rendezvous)
        call = pool.submit(other.next_rendezvous)
        with pytest.raises(RendezvousConnectionError):
            failing.result(WAIT_S)
        info = call.result(WAIT_S)
    assert (info.rank, info.world_size) == (0, 1)
    assert info.place is not None
    assert info.place.round == 1
    assert not alive(leader)
    assert leader.shutdown() is True
    assert not other.is_closed()
