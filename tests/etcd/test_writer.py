"""The writer: chance decides what is lost and what is late; then a real etcd behind a proxy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate.errors import RendezvousConnectionError
from quorate.etcd.client import EtcdClient
from quorate.etcd.messages import Put, Range, absent, modified_at, operation
from quorate.etcd.receipt import Applied, Refused
from quorate.etcd.server import EtcdServer
from quorate.etcd.writer import OWN_LEASE, Writer
from quorate.testing.clock import ManualClock
from tests.etcd.model import ModelClient, ModelEtcd
from tests.etcd.proxy import LossyProxy, proxied

FATES = st.sampled_from(["pass", "lose reply", "lose request", "late"])


def model_writer(etcd: ModelEtcd, clock: ManualClock) -> tuple[Writer, ModelClient]:
    client = ModelClient(etcd)
    return Writer(client, b"writers/", ttl_s=800, clock=clock), client  # type: ignore[arg-type]


def put(value: bytes) -> list[object]:
    return [operation(Put(b"key", value))]


@given(st.lists(st.tuples(st.lists(FATES, max_size=4), st.booleans()), max_size=8))
def test_every_write_is_applied_once_or_never(
    steps: list[tuple[list[str], bool]],
) -> None:
    """R14, whatever is lost, late, or written by others in between."""
    etcd, clock = ModelEtcd(), ManualClock()
    writer, client = model_writer(etcd, clock)
    other, _ = model_writer(etcd, clock)
    for number, (fates, is_disturbed) in enumerate(steps):
        value = b"%d" % number
        current = etcd.keys.get(b"key")
        condition = modified_at(b"key", current.mod_revision) if current else absent(b"key")
        if is_disturbed:
            other.write([], [operation(Put(b"key", b"theirs"))])
        client.fates = list(fates)
        verdict = writer.write([condition], put(value))  # type: ignore[arg-type]
        expected = 0 if is_disturbed else 1
        assert isinstance(verdict, Refused if is_disturbed else Applied)
        if isinstance(verdict, Applied):
            assert etcd.keys[b"key"].mod_revision == verdict.revision
        del etcd.keys[b"key"]
        client.deliver_late()
        assert etcd.puts.get((b"key", value), 0) == expected
        assert b"key" not in etcd.keys


@pytest.mark.parametrize("is_refused", [False, True])
def test_a_write_that_was_given_up_is_not_applied_after_a_later_one(is_refused: bool) -> None:
    etcd, clock = ModelEtcd(), ManualClock()
    writer, client = model_writer(etcd, clock)
    writer.write([], put(b"0"))  # type: ignore[arg-type]
    client.fates = ["late"] * 1000
    with pytest.raises(RendezvousConnectionError, match=r"may have happened.*Read before"):
        writer.write([], put(b"1"))  # type: ignore[arg-type]
    client.fates = []
    conditions = [absent(b"key")] if is_refused else []
    verdict = writer.write(conditions, put(b"2"))  # type: ignore[arg-type]
    assert isinstance(verdict, Refused if is_refused else Applied)
    client.deliver_late()
    assert etcd.keys[b"key"].value == (b"0" if is_refused else b"2")
    assert (b"key", b"1") not in etcd.puts


def test_a_write_that_was_given_up_but_applied_costs_no_new_lease() -> None:
    etcd, clock = ModelEtcd(), ManualClock()
    writer, client = model_writer(etcd, clock)
    client.fates = ["lose reply"] * 1000
    with pytest.raises(RendezvousConnectionError, match="may have happened"):
        writer.write([], put(b"1"))  # type: ignore[arg-type]
    client.fates = []
    assert isinstance(writer.write([], put(b"2")), Applied)  # type: ignore[arg-type]
    assert etcd.granted == 1
    assert etcd.puts[b"key", b"1"] == 1


def test_its_lease_is_kept_alive_by_writes_but_not_by_each() -> None:
    etcd, clock = ModelEtcd(), ManualClock()
    writer, client = model_writer(etcd, clock)
    for _ in range(4):
        writer.write([], [operation(Put(b"key", b"", OWN_LEASE))])
        clock.advance(60.0)
    assert len(client.kept_alive) == 1
    assert etcd.granted == 1
    assert etcd.keys[b"key"].lease == 101


def test_a_lost_lease_is_replaced() -> None:
    etcd, clock = ModelEtcd(), ManualClock()
    writer, _ = model_writer(etcd, clock)
    writer.write([], [operation(Put(b"key", b"1", OWN_LEASE))])
    for away_s in (0.0, 10_000.0):
        etcd.revoke(100 + etcd.granted)
        clock.advance(away_s)
        assert b"key" not in etcd.keys
        assert isinstance(writer.write([], [operation(Put(b"key", b"2", OWN_LEASE))]), Applied)
        assert etcd.keys[b"key"].value == b"2"


def test_what_cannot_be_known_is_not_guessed() -> None:
    """The receipt has gone with the lease while the reply was waited for."""
    etcd, clock = ModelEtcd(), ManualClock()
    writer, client = model_writer(etcd, clock)
    apply = client.try_transaction

    def lose_and_revoke(*arguments: object) -> object:
        client.fates = ["lose reply"]
        outcome = apply(*arguments)  # type: ignore[arg-type]
        etcd.revoke(100 + etcd.granted)
        client.try_transaction = apply  # type: ignore[method-assign]
        return outcome

    client.try_transaction = lose_and_revoke  # type: ignore[method-assign, assignment]
    with pytest.raises(RendezvousConnectionError, match="gone with its lease"):
        writer.write([], put(b"1"))  # type: ignore[arg-type]
    assert isinstance(writer.write([], put(b"2")), Applied)  # type: ignore[arg-type]


def test_a_write_that_has_no_turn_in_time_was_not_sent() -> None:
    writer, client = model_writer(ModelEtcd(), ManualClock())
    with writer._lock, pytest.raises(RendezvousConnectionError, match="was not sent"):
        writer.write([], put(b"1"), timeout_s=0.01)  # type: ignore[arg-type]
    assert client.sent == []
    assert isinstance(writer.write([], put(b"2")), Applied)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def server() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        yield server


@pytest.fixture
def client(server: EtcdServer) -> Iterator[EtcdClient]:
    with server.get_client() as client:
        client.delete(b"\0", b"\0")
        yield client


@pytest.fixture
def proxy(client: EtcdClient, server: EtcdServer) -> Iterator[LossyProxy]:
    with proxied(server.address) as proxy:
        yield proxy


@pytest.fixture
def writer(proxy: LossyProxy) -> Iterator[Writer]:
    with EtcdClient([proxy.endpoint], timeout_s=10.0) as through_proxy:
        yield Writer(through_proxy, b"writers/")


@pytest.mark.etcd
def test_lost_requests_and_replies_cost_nothing(
    writer: Writer, proxy: LossyProxy, client: EtcdClient
) -> None:
    """R14, with a real etcd."""
    for number, fates in enumerate(
        [("pass",), ("lose reply",), ("lose request",), ("lose reply", "lose reply")]
    ):
        proxy.plan(*fates)  # type: ignore[arg-type]
        verdict = writer.write([], [operation(Put(b"key", b"%d" % number))])
        stored = client.range(b"key").kvs[0]
        assert verdict == Applied(stored.mod_revision)
        assert (stored.value, stored.version) == (b"%d" % number, number + 1)


@pytest.mark.etcd
def test_after_a_lost_reply_others_may_write_before_it_is_resolved(
    writer: Writer, proxy: LossyProxy, client: EtcdClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = Writer._resolve

    def write_first(*arguments: object) -> object:
        client.put(b"key", b"theirs")
        return resolve(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Writer, "_resolve", write_first)
    proxy.plan("lose reply")
    verdict = writer.write([absent(b"key")], [operation(Put(b"key", b"mine"))])
    stored = client.range(b"key").kvs[0]
    assert verdict == Applied(stored.create_revision)
    assert (stored.value, stored.version) == (b"theirs", 2)


@pytest.mark.etcd
def test_a_request_that_arrives_after_its_repetition_changes_nothing(
    writer: Writer, proxy: LossyProxy, client: EtcdClient
) -> None:
    proxy.plan("hold request")
    verdict = writer.write(
        [absent(b"key")], [operation(Put(b"key", b"1"))], [operation(Range(b"key"))]
    )
    assert proxy.held.is_set()
    assert isinstance(verdict, Applied)
    client.delete(b"key")
    assert proxy.release().startswith(b"HTTP/1.1 200")
    assert not client.range(b"key").kvs
