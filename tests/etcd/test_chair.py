"""Who takes the seat, and who gives it up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import msgspec
import pytest

from quorate.coordinator.ledgers.etcd import seat_key
from quorate.errors import RendezvousError, RendezvousLimitError, RendezvousStateError
from quorate.etcd.chair import Chair
from quorate.etcd.client import EtcdClient
from quorate.etcd.letters import Keys
from quorate.etcd.office import Office
from quorate.etcd.server import EtcdServer

pytestmark = pytest.mark.etcd

Until = Callable[..., Any]

runs = count()


@pytest.fixture(scope="module")
def server() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        yield server


@pytest.fixture
def client(server: EtcdServer) -> Iterator[EtcdClient]:
    with server.get_client() as client:
        yield client


@pytest.fixture
def keys() -> Keys:
    return Keys.of_run("/p", f"run{next(runs)}")


@pytest.fixture
def chair(server: EtcdServer, keys: Keys) -> Iterator[Callable[[str], Chair]]:
    """Return a chair of a name; those that failed are in `failures`."""
    chairs: list[Chair] = []

    def make(name: str) -> Chair:
        made = Chair(server.get_client(), keys, "run", name, failures.append, ttl_s=2)
        chairs.append(made)
        made.start()
        return made

    failures.clear()
    yield make
    for made in chairs:
        made.close()


failures: list[RendezvousError] = []


def test_one_decides_and_the_next_one_does_when_it_ends(
    chair: Callable[[str], Chair], until: Until, client: EtcdClient, keys: Keys
) -> None:
    first, second = chair("a"), chair("b")
    until(lambda: first.decides or second.decides)
    holder, other = (first, second) if first.decides else (second, first)
    assert not other.decides
    holder.close()
    assert not holder.decides
    until(lambda: other.decides, timeout_s=1.5, what="a seat that was given up at once")
    assert len(client.range(seat_key(keys.prefix)).kvs) == 1
    other.close()
    assert client.range(seat_key(keys.prefix)).kvs == []


def test_one_whose_seat_is_gone_stops_and_may_take_it_again(
    chair: Callable[[str], Chair], until: Until, client: EtcdClient, keys: Keys
) -> None:
    only = chair("a")
    until(lambda: only.decides)
    former = client.range(seat_key(keys.prefix)).kvs[0]
    client.revoke_lease(former.lease)

    def is_taken_again() -> bool:
        found = client.range(seat_key(keys.prefix)).kvs
        return bool(found) and found[0].mod_revision > former.mod_revision and only.decides

    until(is_taken_again, timeout_s=10, what="the seat to be taken again")
    assert failures == []


def test_r17_a_seat_that_nobody_keeps_alive_is_taken(
    chair: Callable[[str], Chair], until: Until, client: EtcdClient, keys: Keys
) -> None:
    """Elections of etcd give its lease its whole time anew; nobody has seen it vacant."""
    lease = client.grant_lease(600).lease_id
    client.put(seat_key(keys.prefix), msgspec.msgpack.encode(["dead"]), lease)
    first, second = chair("a"), chair("b")
    until(lambda: first.decides or second.decides, timeout_s=20.0, what="the seat to be taken")
    assert client.time_to_live(lease).ttl_s < 0
    assert failures == []


def test_an_etcd_that_has_too_much_to_do_is_no_reason_not_to_decide(
    chair: Callable[[str], Chair], until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = [RendezvousLimitError("overloaded")]
    read = Office.read

    def read_later(office: Office) -> int:
        if refusals:
            raise refusals.pop()
        return read(office)

    monkeypatch.setattr(Office, "read", read_later)
    only = chair("a")
    until(lambda: not refusals and only.decides, timeout_s=10.0)
    assert failures == []


def test_one_that_can_make_no_use_of_the_seat_says_so_and_leaves_it(
    chair: Callable[[str], Chair], until: Until, client: EtcdClient, keys: Keys
) -> None:
    client.put(f"{keys.prefix}/snapshot".encode(), b"\xc1garbage")
    chair("a")
    until(lambda: failures, what="the failure")
    assert isinstance(failures[0], RendezvousStateError)
    until(lambda: client.range(seat_key(keys.prefix)).kvs == [], what="the seat to be vacant")
