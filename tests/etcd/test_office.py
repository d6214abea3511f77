"""What who holds the seat does with etcd's keys, one turn at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import count
from typing import Any

import msgspec
import pytest

from quorate.clock import SystemClock
from quorate.coordinator.engine import Engine
from quorate.coordinator.ledgers.etcd import EtcdLedger, seat_key
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.settings import PROTOCOL_VERSION
from quorate.core.state import WorldName
from quorate.errors import (
    RendezvousConnectionError,
    RendezvousDeposedError,
    RendezvousLimitError,
)
from quorate.etcd import office as office_module
from quorate.etcd.client import EtcdClient
from quorate.etcd.letters import Answers, Keys, Words, read
from quorate.etcd.messages import Event, KeyValue, prefix_end
from quorate.etcd.office import Office
from quorate.etcd.server import EtcdServer
from quorate.etcd.watch import Changes
from quorate.wire.frames import frame
from quorate.wire.messages import ROLE_AGENT, GetWorld, Hello, Join, encode
from tests.core.support import make_settings

pytestmark = pytest.mark.etcd

RUN = "run"
runs = count()


@pytest.fixture(scope="module")
def server() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        yield server


class Seat:
    """An office, and the keys that it works on."""

    def __init__(self, client: EtcdClient) -> None:
        self.client = client
        self.keys = Keys.of_run("/p", f"run{next(runs)}")
        self.closed = threading.Event()
        self.is_held = True
        self.term = client.put(seat_key(self.keys.prefix), b"held by the test")
        self.ledger = EtcdLedger(client, self.keys.prefix, self.term, lambda: self.is_held)
        clock = SystemClock()
        engine = Engine(self.ledger.load(), clock, lambda: "e", "here")
        self.office = Office(
            client, self.keys, RUN, self.ledger, engine, self.term, self.closed, clock
        )

    def words(self, name: str, size: int) -> bytes:
        settings = make_settings(size, size).agreed
        node = NodeDesc(name, 1, 0, name)
        hello = Hello(PROTOCOL_VERSION, ROLE_AGENT, RUN, name, node, None, settings)
        said = frame(encode(hello)) + frame(encode(Join(1, None, 60.0, NodeProfile())))
        return msgspec.msgpack.encode(Words(1, 0, 0, said))

    def put(self, name: str, size: int, lease: int = 0) -> None:
        self.client.put(self.keys.node(name), self.words(name, size), lease)

    def answered(self) -> dict[str, Answers]:
        prefix = f"{self.keys.prefix}/answer/".encode()
        found = self.client.range(prefix, prefix_end(prefix)).kvs
        return {pair.key.removeprefix(prefix).decode(): read(pair.value, Answers) for pair in found}


@pytest.fixture
def seat(server: EtcdServer) -> Iterator[Seat]:
    with server.get_client() as client:
        yield Seat(client)


@pytest.mark.parametrize("page", [7, 500])
def test_more_nodes_than_fit_into_one_request_are_read_and_told(
    seat: Seat, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(office_module, "PAGE", page)
    size = 120
    for number in range(size):
        seat.put(f"n{number}", size)
    before = seat.client.range(b"\0").header.revision
    seat.office.read()
    seat.office.turn([])
    answered = seat.answered()
    assert len(answered) == size
    assert {answers.term for answers in answered.values()} == {seat.term}
    writes = seat.client.range(b"\0").header.revision - before
    assert writes <= 6, "commits, and answers by the hundred"


def test_a_node_whose_lease_has_ended_does_not_keep_the_others_from_being_told(seat: Seat) -> None:
    lease = seat.client.grant_lease(60).lease_id
    seat.put("a", 3)
    seat.put("b", 3, lease)
    seat.put("c", 3)
    seat.office.read()
    seat.client.revoke_lease(lease)
    seat.office.turn([])
    assert set(seat.answered()) == {"a", "c"}


def test_r17_one_who_was_deposed_tells_nobody_anything(seat: Seat) -> None:
    seat.put("a", 1)
    seat.office.read()
    seat.client.delete(seat_key(seat.keys.prefix))
    seat.client.put(seat_key(seat.keys.prefix), b"held by another one")
    with pytest.raises(RendezvousDeposedError):
        seat.office.turn([])
    assert seat.answered() == {}


def test_r17_answers_that_need_nothing_stored_are_fenced_too(seat: Seat) -> None:
    words = Words(1, 0, 0, frame(encode(GetWorld(1))))
    seat.client.put(seat.keys.node("a"), msgspec.msgpack.encode(words))
    seat.office.read()
    seat.client.delete(seat_key(seat.keys.prefix))
    with pytest.raises(RendezvousDeposedError):
        seat.office.turn([])
    assert seat.answered() == {}


def test_r17_where_the_seat_is_uncertain_it_is_found_out(
    seat: Seat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(office_module, "TICK_S", 0.0)
    seat.is_held = False
    seat.office.turn([])
    seat.client.delete(seat_key(seat.keys.prefix))
    with pytest.raises(RendezvousDeposedError):
        seat.office.turn([])


def test_changes_are_taken_and_after_a_gap_all_is_read_again(seat: Seat) -> None:
    seat.put("a", 2)
    seat.office.read()
    pair = KeyValue(seat.keys.node("b"), seat.words("b", 2), 900, 900, 1, 0)
    seat.put("c", 2)
    seat.office.turn([Changes((Event(pair),), 900)])
    assert set(seat.answered()) == {"a", "b"}
    seat.office.turn([Changes((), 901, is_gap=True)])
    assert set(seat.answered()) == {"a", "b", "c"}
    seat.office.turn([Changes((Event(pair, "DELETE"),), 902)])


def test_the_stores_of_this_round_and_the_last_one_are_kept(seat: Seat) -> None:
    names = [WorldName("d", 3), WorldName("e", 0), WorldName("f", 0)]
    for name in names:
        seat.client.put(f"{seat.keys.store(name)}/keys/k".encode(), b"v")
    seat.put("a", 1)
    seat.office.read()
    seat.office.turn([])
    found = seat.client.range(seat.keys.stores, prefix_end(seat.keys.stores)).kvs
    assert [pair.key for pair in found] == [f"{seat.keys.store(names[1])}/keys/k".encode()]


def test_a_watch_that_failed_ends_the_work(seat: Seat) -> None:
    with pytest.raises(RendezvousConnectionError, match="broken"):
        seat.office.turn([RendezvousConnectionError("broken")])


def test_one_who_ends_stores_nothing_more(seat: Seat) -> None:
    seat.put("a", 1)
    seat.office.read()
    seat.closed.set()
    with pytest.raises(RendezvousConnectionError, match="gives the seat up"):
        seat.office.turn([])
    assert seat.answered() == {}


def test_an_etcd_that_takes_no_more_is_waited_for(
    seat: Seat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(office_module, "RETRY_S", 0.01)
    refusals = iter([RendezvousLimitError("no space"), RendezvousConnectionError("no leader")])
    commit = seat.ledger.commit

    def refuse_twice(*arguments: Any) -> None:
        if (error := next(refusals, None)) is not None:
            raise error
        commit(*arguments)

    monkeypatch.setattr(seat.ledger, "commit", refuse_twice)
    seat.put("a", 1)
    seat.office.read()
    seat.office.turn([])
    assert set(seat.answered()) == {"a"}
