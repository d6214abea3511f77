"""The seat in a real etcd: one holder at a time, whoever dies, freezes, ends or is not answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import msgspec
import pytest

from quorate.coordinator.ledgers import etcd_seat as seat_module
from quorate.coordinator.ledgers.etcd import EtcdLedger, seat_key
from quorate.coordinator.ledgers.etcd_seat import EtcdSeat
from quorate.errors import (
    RendezvousConnectionError,
    RendezvousDeposedError,
    RendezvousProtocolError,
    RendezvousStateError,
)
from quorate.etcd.client import EtcdClient
from quorate.etcd.messages import prefix_end
from quorate.etcd.server import EtcdServer
from quorate.etcd.transport import Reply
from quorate.testing.etcd import EtcdCluster
from tests.coordinator.etcd_faults import FaultyTransport

pytestmark = pytest.mark.etcd

Until = Callable[..., Any]

PREFIX = "/seats"

# etcd 3.4 gives no less; a lease ends up to half a second after it could.
TTL_S = 2
LATE_S = 8.0


@pytest.fixture(scope="module")
def server() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        yield server


class Candidate:
    """A seat with a client of its own, whose words can be lost."""

    def __init__(self, server: EtcdServer, name: str, pool: ThreadPoolExecutor) -> None:
        self.name = name
        self.transport = FaultyTransport()
        client = EtcdClient([server.address], transport=self.transport, timeout_s=1.0)
        self.seat = EtcdSeat(client, PREFIX, name, TTL_S)
        self._pool = pool

    def take(self) -> Future[EtcdLedger]:
        return self._pool.submit(self.seat.take)


Make = Callable[[str], Candidate]


@pytest.fixture
def candidate(server: EtcdServer) -> Iterator[Make]:
    made: list[Candidate] = []
    with ThreadPoolExecutor(8) as pool:

        def make(name: str) -> Candidate:
            made.append(Candidate(server, name, pool))
            return made[-1]

        yield make
        for each in made:
            each.transport.cut = False
            each.seat.close()
    with server.get_client() as client:
        assert client.range(seat_key(PREFIX)).kvs == []
        client.delete(PREFIX.encode(), prefix_end(PREFIX.encode()))


def test_the_first_one_takes_it_and_the_second_one_knows_where(
    candidate: Make, until: Until
) -> None:
    first, second = candidate("a:1"), candidate("b:1")
    assert first.seat.holder() == second.seat.holder() == ""
    ledger = first.take().result(LATE_S)
    assert ledger.is_held()
    ledger.commit({"k": b"v"})
    waiting = second.take()
    until(lambda: second.seat.holder() == "a:1")
    assert first.seat.holder() == "a:1"
    assert not waiting.done()


def test_who_stands_by_from_the_beginning_needs_no_lease(candidate: Make, until: Until) -> None:
    """In the `etcd` rendezvous all nodes but one do."""
    first, second = candidate("a:1"), candidate("b:1")
    first.take().result(LATE_S)
    second.take()
    until(second.seat.holder)
    assert second.transport.transactions == 0


def test_one_that_ends_in_order_hands_over_at_once(candidate: Make, until: Until) -> None:
    first, second = candidate("a:1"), candidate("b:1")
    former = first.take().result(LATE_S)
    waiting = second.take()
    until(second.seat.holder)
    first.seat.close()
    ledger = waiting.result(TTL_S / 2)
    assert not former.is_held()
    assert ledger.is_held()
    assert second.seat.holder() == "b:1"


def test_one_that_is_silent_is_certain_no_more_when_another_one_takes_it(
    candidate: Make, until: Until
) -> None:
    """R17: by the time that somebody else decides, it lets nothing out."""
    first, second = candidate("a:1"), candidate("b:1")
    former = first.take().result(LATE_S)
    former.commit({"k": b"1"})
    waiting = second.take()
    until(second.seat.holder)
    first.transport.cut = True
    ledger = waiting.result(LATE_S)
    assert not former.is_held()
    assert ledger.load()["k"] == b"1"
    first.transport.cut = False
    with pytest.raises(RendezvousDeposedError):
        former.commit({"k": b"2"})
    again = first.take()
    until(lambda: first.seat.holder() == "b:1")
    second.seat.close()
    assert again.result(LATE_S).load() == {"k": b"1"}


def test_of_many_one_at_a_time_holds_it(candidate: Make) -> None:
    candidates = [candidate(f"{name}:1") for name in "abcde"]
    waiting = {each.take(): each for each in candidates}
    ledgers: list[EtcdLedger] = []
    while waiting:
        done = next_done(waiting)
        assert not any(ledger.is_held() for ledger in ledgers)
        ledgers.append(done.result())
        ledgers[-1].load()
        ledgers[-1].commit({waiting[done].name: b"was here"})
        waiting.pop(done).seat.close()
    last = candidate("f:1").take().result(LATE_S)
    assert {each.name for each in candidates} <= last.load().keys()


def next_done(waiting: dict[Future[EtcdLedger], Candidate]) -> Future[EtcdLedger]:
    """Return the one that has it; nobody else has."""
    deadline = time.monotonic() + LATE_S
    while time.monotonic() < deadline:
        done = [each for each in waiting if each.done()]
        assert len(done) <= 1
        if done:
            return done[0]
    raise AssertionError("nobody took the seat")


@pytest.mark.parametrize("fate", ["lose reply", "lose request"])
def test_a_claim_whose_reply_is_lost_is_ours(fate: Any, candidate: Make) -> None:
    first = candidate("a:1")
    first.transport.fates += [fate, fate]
    ledger = first.take().result(TTL_S)
    assert first.transport.transactions == 3
    ledger.commit({"k": b"v"})
    assert ledger.is_held()


def test_a_claim_that_was_not_answered_in_its_time_leaves_nothing(
    candidate: Make, until: Until
) -> None:
    """It may be applied yet, under a lease that has ended: etcd refuses it."""
    first, second = candidate("a:1"), candidate("b:1")
    first.transport.fates += ["hold", *(100 * ("lose request",))]
    waiting = first.take()
    until(lambda: first.transport.transactions > 1)
    first.transport.fates.clear()
    waiting.result(LATE_S)
    first.seat.close()
    first.transport.release()
    assert second.take().result(TTL_S / 2).is_held()


def test_it_is_taken_again_after_somebody_has_removed_it(
    candidate: Make, server: EtcdServer
) -> None:
    first = candidate("a:1")
    former = first.take().result(LATE_S)
    with server.get_client() as operator:
        operator.delete(seat_key(PREFIX))
    with pytest.raises(RendezvousDeposedError):
        former.commit({"k": b"v"})
    assert first.take().result(LATE_S).is_held()
    assert not former.is_held()


def test_closing_ends_a_wait(candidate: Make, until: Until) -> None:
    first, second = candidate("a:1"), candidate("b:1")
    first.take().result(LATE_S)
    waiting = second.take()
    until(second.seat.holder)
    second.seat.close()
    with pytest.raises(RendezvousConnectionError, match="ends"):
        waiting.result(LATE_S)
    assert not [each for each in threading.enumerate() if each.name == "quorate-seat"]


def test_closing_ends_a_wait_for_etcd(candidate: Make) -> None:
    first = candidate("a:1")
    first.transport.cut = True
    waiting = first.take()
    first.seat.close()
    with pytest.raises(RendezvousConnectionError, match="ends"):
        waiting.result(LATE_S)


def test_compaction_under_the_watch_is_no_news(
    candidate: Make, server: EtcdServer, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[object] = []
    stand_by = EtcdSeat._stand_by
    monkeypatch.setattr(
        EtcdSeat, "_stand_by", lambda *args: (looks.append(args), stand_by(*args))[1]
    )
    first, second = candidate("a:1"), candidate("b:1")
    first.take().result(LATE_S)
    waiting = second.take()
    until(second.seat.holder)
    with server.get_client() as other:
        for _ in range(3):
            last = other.put(b"other", b"x")
        other.compact(last)
    until(lambda: len(looks) > 1)
    until(lambda: second.seat.holder() == "a:1")
    first.seat.close()
    waiting.result(TTL_S / 2)


def test_a_watch_that_says_nothing_is_no_reason_to_wait(
    candidate: Make, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seat is read now and then: a member may be frozen in the middle of a stream."""
    monkeypatch.setattr(seat_module.Watch, "next", lambda self, timeout_s: None)
    first, second = candidate("a:1"), candidate("b:1")
    first.take().result(LATE_S)
    waiting = second.take()
    until(second.seat.holder)
    first.seat.close()
    assert waiting.result(LATE_S).is_held()


def test_a_lease_that_nobody_keeps_alive_does_not_count(
    candidate: Make, server: EtcdServer
) -> None:
    """Elections of etcd give it its whole time anew, again and again."""
    with server.get_client() as other:
        lease = other.grant_lease(600).lease_id
        other.put(seat_key(PREFIX), msgspec.msgpack.encode(["dead:1"]), lease)
        began_s = time.monotonic()
        second, third = candidate("b:1"), candidate("c:1")
        both = [second.take(), third.take()]
        wait([*both], 20.0, FIRST_COMPLETED)
        assert time.monotonic() - began_s > (seat_module.PATIENCE_TTLS + 1) * TTL_S
        assert sum(each.done() for each in both) == 1
        assert other.time_to_live(lease).ttl_s < 0
        (done,) = (each for each in both if each.done())
        done.result().commit({})


def test_a_key_of_somebody_else_is_told(candidate: Make, server: EtcdServer) -> None:
    with server.get_client() as other:
        other.put(seat_key(PREFIX), b"\xc1")
        with pytest.raises(RendezvousStateError, match="is not a coordinator's seat"):
            candidate("a:1").take().result(LATE_S)
        other.delete(seat_key(PREFIX))


def test_what_is_not_etcd_is_told(candidate: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    first = candidate("a:1")
    monkeypatch.setattr(first.transport, "exchange", lambda *_: Reply(404, b""))
    with pytest.raises(RendezvousProtocolError, match="etcd"):
        first.take().result(LATE_S)
    monkeypatch.undo()


def test_the_key_says_where_the_holder_is(candidate: Make, server: EtcdServer) -> None:
    candidate("a:1").take().result(LATE_S)
    with server.get_client() as other:
        (pair,) = other.range(seat_key(PREFIX)).kvs
    assert msgspec.msgpack.decode(pair.value) == ["a:1"]


@pytest.mark.timeout(60)
def test_a_frozen_member_does_not_cost_the_seat(until: Until) -> None:
    """What one keep-alive waits for it leaves enough to ask another one."""
    with EtcdCluster() as cluster:
        seat = EtcdSeat(cluster.client(5.0), PREFIX, "a:1")
        ledger = seat.take()
        gateway = seat._client._gateway
        asked = gateway._endpoint()
        (victim,) = (each for each in cluster.members if each.address.endpoint == asked)
        victim.freeze()
        until(lambda: gateway._endpoint() != asked, LATE_S)
        ends_s = time.monotonic() + 0.8 * seat_module.LEASE_TTL_S
        until(lambda: time.monotonic() > ends_s or not ledger.is_held(), LATE_S)
        assert ledger.is_held()
        ledger.commit({"k": b"v"})
        victim.thaw()
        seat.close()
