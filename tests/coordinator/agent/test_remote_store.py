"""A round's store at the coordinator, also over connections that break (R11, R14)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from quorate.backends.journal import Journal
from quorate.coordinated import CoordinatedRendezvousHandler
from quorate.coordinator.agent.remote_store import RemoteStore
from quorate.errors import (
    RendezvousConnectionError,
    RendezvousProtocolError,
    RendezvousStateError,
    StoreTimeoutError,
)
from quorate.identity import Endpoint
from quorate.stores.base import Store
from quorate.testing import StoreSuite
from quorate.wire.frames import FRAME_BYTES_MAX
from tests.served import Proxy, ThreadedCoordinator, make_handler, store_client

Until = Callable[..., Any]

LATE_S = 10.0


class OneWorld:
    """A coordinator behind a proxy with one agent at work, and the stores of its round."""

    def __init__(self, folder: Path) -> None:
        self.journal = folder / "journal"
        self.coordinator = ThreadedCoordinator(Journal(self.journal))
        self.proxy = Proxy(self.coordinator.endpoint)
        self.handler: CoordinatedRendezvousHandler = make_handler(self.coordinator.endpoint)
        place = self.handler.next_rendezvous().place
        assert place is not None
        self.space = place.world
        self.stores: list[RemoteStore] = []

    def store(self, endpoint: Endpoint | None = None, timeout_s: float = LATE_S) -> RemoteStore:
        client = store_client(endpoint or self.coordinator.endpoint, "job")
        self.stores.append(RemoteStore(client, self.space, timeout_s, owns_client=True))
        return self.stores[-1]

    def restart(self) -> None:
        self.coordinator.stop()
        port = self.coordinator.endpoint.port
        self.coordinator = ThreadedCoordinator(Journal(self.journal), port)

    def close(self) -> None:
        for store in self.stores:
            store.close()
        self.handler._release()
        self.proxy.close()
        self.coordinator.stop()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[OneWorld]:
    world = OneWorld(tmp_path)
    yield world
    world.close()


class TestRemoteStore(StoreSuite):
    @pytest.fixture(autouse=True)
    def _at(self, world: OneWorld) -> None:
        self.world = world

    def open(self, tmp_path: Path) -> Store:
        return self.world.store()


def test_r14_an_addition_whose_answer_was_lost_counts_once(world: OneWorld, until: Until) -> None:
    store, other = world.store(world.proxy.endpoint), world.store()
    store.set("n", "0")
    world.proxy.stall(forth=False)
    with ThreadPoolExecutor(1) as pool:
        adding = pool.submit(store.add, "n", 1)
        until(lambda: other.get("n") == b"1", what="the addition to be carried out")
        world.proxy.reset()
        world.proxy.resume()
        assert adding.result(LATE_S) == 1
    assert store.add("n", 1) == 2


def test_r14_two_stores_of_one_session_lose_no_answer(world: OneWorld, until: Until) -> None:
    """The coordinator remembers one change a session: two at once must not be under way."""
    client = store_client(world.proxy.endpoint, "job")
    stores = [RemoteStore(client, world.space, LATE_S) for _ in range(2)]
    stores[0].set("n", "0")
    world.proxy.stall(forth=False)
    other = world.store()
    with ThreadPoolExecutor(2) as pool:
        sums = [pool.submit(store.add, "n", 1) for store in stores]
        until(lambda: other.get("n") != b"0", what="an addition to be carried out")
        other.wait([])
        world.proxy.reset()
        world.proxy.resume()
        assert sorted(adding.result(LATE_S) for adding in sums) == [1, 2]
    client.close()


def test_r11_calls_outlast_a_restart_of_the_coordinator(world: OneWorld) -> None:
    store, other = world.store(), world.store()
    other.set("before", b"1")
    with ThreadPoolExecutor(2) as pool:
        reading = pool.submit(store.get, "later", LATE_S)
        waiting = pool.submit(store.wait, ["before", "later"], LATE_S)
        world.restart()
        assert other.get("before") == b"1"
        other.set("later", b"2")
        assert reading.result(LATE_S) == b"2"
        waiting.result(LATE_S)


def test_r11_calls_outlast_cuts(world: OneWorld) -> None:
    store = world.store(world.proxy.endpoint)
    for number, harm in enumerate((world.proxy.finish, world.proxy.reset) * 3):
        harm()
        assert store.add("n", 1) == number + 1


def test_a_value_that_is_too_large_is_told_and_harms_nothing(world: OneWorld) -> None:
    store = world.store(world.proxy.endpoint)
    with pytest.raises(RendezvousProtocolError, match="in pieces"):
        store.set("k", bytes(FRAME_BYTES_MAX))
    world.proxy.reset()
    store.set("k", bytes(FRAME_BYTES_MAX - 1000))
    assert len(store.get("k")) == FRAME_BYTES_MAX - 1000


@pytest.mark.parametrize("amount", [2**70, -(2**70)])
def test_a_number_that_cannot_be_sent_is_told(amount: int, world: OneWorld) -> None:
    store = world.store()
    with pytest.raises(OverflowError):
        store.add("n", amount)
    assert store.add("n", 1) == 1


def test_text_that_cannot_be_sent_is_told(world: OneWorld) -> None:
    store = world.store()
    with pytest.raises(UnicodeEncodeError):
        store.set("\ud800", b"")
    store.set("k", b"")


def test_the_stores_own_timeout_counts_where_none_is_named(world: OneWorld) -> None:
    store = world.store(timeout_s=0.02)
    with pytest.raises(StoreTimeoutError, match="'absent'"):
        store.get("absent")
    with pytest.raises(StoreTimeoutError, match="'absent'"):
        store.wait(["absent"])


def test_without_a_coordinator_a_call_ends_in_a_clear_error(world: OneWorld) -> None:
    store = world.store(timeout_s=0.3)
    store.set("k", b"v")
    world.coordinator.stop()
    with pytest.raises(RendezvousConnectionError, match=r"connection refused|ended the conn"):
        store.set("k", b"w")


def test_the_round_before_the_last_is_gone(world: OneWorld) -> None:
    """A worker that lags behind learns that its world has ended; a waiting one is woken."""
    store = world.store()
    store.set("k", b"v")
    world.handler.next_rendezvous()
    assert store.get("k") == b"v"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(store.get, "absent", LATE_S)
        world.handler.next_rendezvous()
        with pytest.raises(RendezvousStateError, match="round 0"):
            waiting.result(LATE_S)
    with pytest.raises(RendezvousStateError, match="a world that has ended"):
        store.get("k")


def test_r8_the_workers_of_one_run_do_not_count_as_agents(world: OneWorld) -> None:
    store = world.store()
    store.set("k", b"v")
    store.close()
    assert world.handler.num_nodes_waiting() == 0


def test_r8_an_agent_stays_in_its_world_though_its_store_is_closed(world: OneWorld) -> None:
    agent = make_handler(world.coordinator.endpoint, "another")
    info = agent.next_rendezvous()
    info.store.set("k", b"v")
    info.store.close()
    assert info.store.get("k", LATE_S) == b"v"
    assert agent.num_nodes_waiting() == 0
    agent._release()


def test_closing_ends_what_waits(world: OneWorld) -> None:
    store = world.store()
    store.set("k", b"v")
    asked = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: (asked.set(), store.get("absent", LATE_S)))
        assert asked.wait(LATE_S)
        store.close()
        with pytest.raises(RendezvousConnectionError, match="closed"):
            waiting.result(LATE_S)
