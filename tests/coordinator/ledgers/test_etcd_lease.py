"""A lease that is kept alive: how long it is certain, and how it ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from quorate.clock import SystemClock
from quorate.coordinator.ledgers.etcd_lease import EtcdLease
from quorate.etcd.client import EtcdClient
from quorate.etcd.server import EtcdServer
from quorate.testing.clock import ManualClock
from tests.coordinator.etcd_faults import FaultyTransport

pytestmark = pytest.mark.etcd

Until = Callable[..., Any]

# etcd 3.4 gives no less.
TTL_S = 2


@pytest.fixture(scope="module")
def server() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        yield server


@pytest.fixture
def transport() -> FaultyTransport:
    return FaultyTransport()


@pytest.fixture
def client(server: EtcdServer, transport: FaultyTransport) -> Iterator[EtcdClient]:
    with EtcdClient([server.address], transport=transport, timeout_s=1.0) as client:
        yield client


def is_there(server: EtcdServer, lease: EtcdLease) -> bool:
    with server.get_client() as other:
        return other.keep_alive(lease.id) > 0


def test_it_lives_until_it_is_ended(client: EtcdClient, server: EtcdServer, until: Until) -> None:
    clock = SystemClock()
    lease = EtcdLease(client, TTL_S, clock)
    began_s = clock.monotonic()
    until(lambda: clock.monotonic() > began_s + 1.5 * TTL_S)
    assert lease.is_certain()
    client.put(b"k", b"v", lease.id)
    lease.end()
    assert not lease.is_certain()
    assert not is_there(server, lease)
    assert client.range(b"k").kvs == []


def test_it_is_certain_for_no_longer_than_it_was_granted_for(client: EtcdClient) -> None:
    """R9: on our own clock, from before etcd was asked."""
    clock = ManualClock()
    lease = EtcdLease(client, 60, clock)
    clock.advance(59.9)
    assert lease.is_certain()
    clock.advance(0.1)
    assert not lease.is_certain()
    lease.end()


def test_while_etcd_does_not_answer_it_is_tried_often_and_told_once(
    client: EtcdClient, transport: FaultyTransport, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    """What is left of it when one member froze is enough to ask another one."""
    caplog.set_level(logging.WARNING)
    lease = EtcdLease(client, TTL_S, SystemClock())
    transport.cut = True
    until(lambda: not lease.is_certain(), 2.0 * TTL_S)
    transport.cut = False
    until(lambda: lease.is_certain() or not lease._keeper.is_alive(), 2.0 * TTL_S)
    lease.end()
    assert len([each for each in caplog.records if each.name == "quorate.coordinator"]) == 1


def test_one_that_has_ended_in_etcd_is_not_certain_any_more(
    client: EtcdClient, until: Until
) -> None:
    lease = EtcdLease(client, TTL_S, SystemClock())
    client.revoke_lease(lease.id)
    until(lambda: not lease._keeper.is_alive(), TTL_S)
    assert not lease.is_certain()
    lease.end()


def test_where_etcd_is_gone_it_lapses_by_itself(
    client: EtcdClient, transport: FaultyTransport
) -> None:
    lease = EtcdLease(client, TTL_S, SystemClock())
    transport.cut = True
    lease.end()
    assert not lease.is_certain()
    assert not lease._keeper.is_alive()
