from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from quorate.api import RendezvousInfo, RendezvousParameters, RendezvousStoreInfo
from quorate.errors import (
    RendezvousProtocolError,
    RendezvousSettingsError,
    RendezvousTimeoutError,
)
from quorate.identity import Endpoint
from quorate.static import StaticRendezvous, create_handler
from quorate.stores.memory import MemoryStore
from quorate.testing import ManualClock
from tests.conftest import wait_until

ENDPOINT = Endpoint("node1", 29500)


class Opener:
    """Opens one memory store for all nodes, and remembers who asked for what."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.calls: list[tuple[Endpoint, bool, float]] = []

    def __call__(self, endpoint: Endpoint, is_host: bool, timeout_s: float) -> MemoryStore:
        self.calls.append((endpoint, is_host, timeout_s))
        return self.store


def params(endpoint: str = "node1:29500", **config: Any) -> RendezvousParameters:
    return RendezvousParameters("static", endpoint, "run", 2, 2, **config)


def test_every_node_gets_the_rank_that_it_was_given() -> None:
    opener = Opener()
    handlers = [
        StaticRendezvous(ENDPOINT, rank, 2, "run", 30, slots=4, open_store=opener)
        for rank in (0, 1)
    ]
    with ThreadPoolExecutor(2) as pool:
        infos = list(pool.map(StaticRendezvous.next_rendezvous, handlers))
    assert [(info.rank, info.world_size) for info in infos] == [(0, 2), (1, 2)]
    assert sorted(opener.calls) == [(ENDPOINT, False, 30), (ENDPOINT, True, 30)]
    for info in infos:
        assert info.bootstrap_store_info == RendezvousStoreInfo("node1", 29500)
    place = infos[1].place
    assert place is not None
    assert (place.rank, place.size, place.first_worker, place.workers) == (1, 2, 4, 8)
    infos[0].store.set("key", b"value")
    assert infos[1].store.get("key", 1) == b"value"
    assert opener.store.get("run/key", 1) == b"value"


def test_nodes_may_run_different_numbers_of_workers() -> None:
    opener = Opener()
    handlers = [
        StaticRendezvous(ENDPOINT, rank, 3, "run", 30, slots=slots, open_store=opener)
        for rank, slots in enumerate((1, 3, 2))
    ]
    with ThreadPoolExecutor(3) as pool:
        places = [info.place for info in pool.map(StaticRendezvous.next_rendezvous, handlers)]
    assert [(place.first_worker, place.workers) for place in places if place is not None] == [
        (0, 6),
        (1, 6),
        (4, 6),
    ]


@pytest.mark.parametrize("value", [b"here", b"7", b"0 1", b"-1 1", b"9" * 11 + b" 1", b""])
def test_a_word_of_another_release_is_refused(value: bytes) -> None:
    opener = Opener()
    opener.store.set("quorate.static.run/0/1", value)
    handler = StaticRendezvous(ENDPOINT, 0, 2, "run", 30, open_store=opener)
    with pytest.raises(RendezvousProtocolError, match=r"'quorate\.static\.run/0/1': see whether"):
        handler.next_rendezvous()


def test_it_is_there_at_once_when_it_comes_back() -> None:
    opener = Opener()
    served = SimpleNamespace(port=7001)
    handler = StaticRendezvous(ENDPOINT, 0, 1, "run", open_store=opener, serve_store=lambda: served)
    first, second = handler.next_rendezvous().place, handler.next_rendezvous().place
    assert first is not None
    assert second is not None
    assert first.epoch == second.epoch
    assert len(opener.calls) == 1


def test_two_jobs_with_the_same_id_have_different_epochs() -> None:
    places = [
        StaticRendezvous(ENDPOINT, 0, 1, "run", open_store=Opener()).next_rendezvous().place
        for _ in range(2)
    ]
    assert len({place.epoch for place in places if place is not None}) == 2


def test_who_is_missing_is_named() -> None:
    """R16"""
    clock = ManualClock()
    handler = StaticRendezvous(ENDPOINT, 1, 3, "run", 60, open_store=Opener(), clock=clock)
    before = clock.monotonic()
    with pytest.raises(RendezvousTimeoutError, match=r"2 of 3 nodes .*node1:29500.* 0, 2 are"):
        handler.next_rendezvous()
    assert 60 <= clock.monotonic() - before <= 61


def test_a_fixed_world_never_changes() -> None:
    handler = StaticRendezvous(ENDPOINT, 0, 1, "run", open_store=Opener())
    assert (handler.get_backend(), handler.get_run_id()) == ("static", "run")
    assert handler.use_agent_store
    handler.set_closed("ignored")
    handler.leave("ignored")
    assert not handler.is_closed()
    assert handler.num_nodes_waiting() == 0
    assert handler.shutdown() is True


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (params(), "--node-rank"),
        (params(rank=2), r"from 0 to 1"),
        (params(rank=-1), r"from 0 to 1"),
        (params(rank="one"), "not a whole number"),
        (params("", rank=0), "host:port"),
        (params("node1", rank=0), "host:port"),
        (params(rank=0, timeout=0), "must be positive"),
        (params(rank=0, slots=0), "must be positive"),
        (params(rank=0, timeout="nan"), "not endless"),
        (params(rank=0, timeout="inf"), "not endless"),
        (params(rank=0, join_timeout=60), "join_timeout"),
    ],
)
def test_what_is_missing_or_wrong_is_named(given: RendezvousParameters, complaint: str) -> None:
    with pytest.raises(RendezvousSettingsError, match=complaint) as caught:
        create_handler(given)
    assert isinstance(caught.value, ValueError)


def test_what_is_none_was_not_given() -> None:
    handler = create_handler(params(rank=0, timeout=None, slots=None))
    assert (handler._timeout_s, handler._slots) == (600, 1)


@pytest.mark.torch
def test_over_a_store_of_torch(free_port: Callable[[], int]) -> None:
    port = free_port()
    handlers = [
        create_handler(params(f"127.0.0.1:{port}", rank=rank, slots=slots, timeout=20))
        for rank, slots in ((0, 1), (1, 3))
    ]
    with ThreadPoolExecutor(2) as pool:
        infos = list(pool.map(StaticRendezvous.next_rendezvous, handlers))
    assert infos[1].place is not None
    assert (infos[1].place.first_worker, infos[1].place.workers) == (1, 4)
    infos[1].store.set("key", "value")
    assert infos[0].store.get("key") == b"value"
    for handler in reversed(handlers):
        handler.shutdown()


def meet(handlers: list[StaticRendezvous]) -> list[RendezvousInfo]:
    with ThreadPoolExecutor(len(handlers)) as pool:
        return list(pool.map(StaticRendezvous.next_rendezvous, handlers))


def two_nodes(opener: Opener, **changes: Any) -> list[StaticRendezvous]:
    return [
        StaticRendezvous(ENDPOINT, rank, 2, "run", 30, open_store=opener, **changes)
        for rank in (0, 1)
    ]


def test_all_meet_again_when_one_comes_back_and_their_workers_get_a_new_store() -> None:
    ports = iter([7001, 7002])
    first, second = two_nodes(Opener(), serve_store=lambda: SimpleNamespace(port=next(ports)))
    meet([first, second])
    for number, port in ((1, 7001), (2, 7002)):
        assert (first.num_nodes_waiting(), second.num_nodes_waiting()) == (0, 0)
        with ThreadPoolExecutor(1) as pool:
            back = pool.submit(second.next_rendezvous)
            wait_until(first.num_nodes_waiting, what="the other one to be told of")
            assert not back.done()
            infos = [first.next_rendezvous(), back.result(30)]
        for info in infos:
            assert info.bootstrap_store_info == RendezvousStoreInfo("node1", port)
            assert info.place is not None
            assert (info.place.round, info.place.leader_port) == (number, port)


def test_a_restarted_agent_goes_to_the_round_of_the_others() -> None:
    opener = Opener()
    first, second = two_nodes(opener, serve_store=lambda: SimpleNamespace(port=7001))
    meet([first, second])
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(first.next_rendezvous)
        wait_until(second.num_nodes_waiting, what="the next round")
        place = StaticRendezvous(ENDPOINT, 1, 2, "run", open_store=opener).next_rendezvous().place
        assert place is not None
        assert place.round == 1
        waiting.result(30)


@pytest.mark.parametrize("done", [0, 1])
def test_who_has_finished_is_not_waited_for(done: int) -> None:
    """Its workers will not be started again, however often those of the others are."""
    nodes = two_nodes(Opener(), serve_store=lambda: SimpleNamespace(port=7001))
    meet(nodes)
    nodes[done].finish()
    info = nodes[1 - done].next_rendezvous()
    assert (info.rank, info.world_size) == (1 - done, 2)
    assert nodes[done].num_nodes_waiting() == 0


def test_nobody_is_told_of_before_the_first_round_or_after_the_end() -> None:
    handler = StaticRendezvous(ENDPOINT, 0, 1, "run", open_store=Opener())
    handler.finish()
    assert handler.num_nodes_waiting() == 0
    handler.next_rendezvous()
    handler.shutdown()
    handler.finish()
    assert handler.num_nodes_waiting() == 0


@pytest.mark.torch
def test_the_first_node_may_take_any_port() -> None:
    handler = StaticRendezvous(Endpoint("127.0.0.1", 0), 0, 1, "run", 20)
    bootstrap = handler.next_rendezvous().bootstrap_store_info
    assert bootstrap is not None
    assert bootstrap.master_port > 0
    handler.shutdown()
