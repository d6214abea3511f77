"""The store in etcd: the contract, and writes that happen once whatever is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from quorate.etcd.client import EtcdClient
from quorate.etcd.server import EtcdServer
from quorate.stores.base import Store
from quorate.stores.etcd import STEPS_MAX, EtcdStore
from quorate.testing.stores import StoreSuite
from tests.etcd.proxy import LossyProxy, proxied

pytestmark = pytest.mark.etcd


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
def store(client: EtcdClient) -> EtcdStore:
    return EtcdStore(client, "/store")


class TestEtcdStore(StoreSuite):
    @pytest.fixture(autouse=True)
    def _client(self, client: EtcdClient) -> None:
        self.client = client

    def open(self, tmp_path: Path) -> Store:
        return EtcdStore(self.client, "/store")


@pytest.fixture
def proxy(server: EtcdServer, client: EtcdClient) -> Iterator[LossyProxy]:
    with proxied(server.address) as proxy:
        yield proxy


@pytest.mark.parametrize("fate", ["lose reply", "lose request"])
def test_what_is_lost_is_added_once(fate: Any, proxy: LossyProxy, client: EtcdClient) -> None:
    """R14"""
    with EtcdClient([proxy.endpoint], timeout_s=10.0) as lossy:
        store = EtcdStore(lossy, "/store")
        sums = []
        for _ in range(5):
            proxy.plan(fate)
            sums.append(store.add("n", 1))
        assert sums == [1, 2, 3, 4, 5]
        proxy.plan(fate)
        assert store.compare_set("n", "5", "x") == b"x"
        proxy.plan(fate)
        assert store.delete("n")
        proxy.plan(fate)
        store.set("n", "y")
    assert client.range(b"/store/keys/n").kvs[0].version == 1


def test_additions_that_lose_replies_side_by_side_all_count(
    proxy: LossyProxy, store: EtcdStore
) -> None:
    """Others write between a lost reply and its resolution: reading back would not do."""
    proxy.plan(*(["pass", "lose reply", "lose request", "pass"] * 10))  # type: ignore[arg-type]

    def count_up(_: int) -> list[int]:
        with EtcdClient([proxy.endpoint], timeout_s=15.0) as lossy:
            mine = EtcdStore(lossy, "/store")
            return [mine.add("n", 1) for _ in range(10)]

    with ThreadPoolExecutor(3) as pool:
        sums = [total for sums in pool.map(count_up, range(3)) for total in sums]
    assert sorted(sums) == list(range(1, 31))
    assert store.get("n") == b"30"


@pytest.mark.parametrize("fate", ["lose reply", "lose request"])
@pytest.mark.parametrize(
    ("read", "result"),
    [
        (lambda store: store.get("k"), b"v"),
        (lambda store: store.wait(["k"]), None),
        (lambda store: store.check(["k", "absent"]), False),
        (lambda store: store.num_keys(), 1),
    ],
    ids=["get", "wait", "check", "num_keys"],
)
def test_what_is_lost_is_read_again(
    read: Callable[[EtcdStore], Any], result: Any, fate: Any, proxy: LossyProxy, client: EtcdClient
) -> None:
    client.put(b"/store/keys/k", b"v")
    with EtcdClient([proxy.endpoint], timeout_s=10.0) as lossy:
        proxy.plan(fate)
        assert read(EtcdStore(lossy, "/store")) == result


def test_stores_of_other_prefixes_do_not_meet(client: EtcdClient, store: EtcdStore) -> None:
    other = EtcdStore(client, "/store/keys")
    store.set("k", "mine")
    assert not other.check(["k"])
    assert other.num_keys() == 0


def test_many_keys_are_looked_for_at_once(store: EtcdStore, client: EtcdClient) -> None:
    keys = [f"k{number}" for number in range(STEPS_MAX + 1)]
    for key in keys:
        client.put(f"/store/keys/{key}".encode(), b"")
    assert store.check(keys)
    assert not store.check([*keys, "absent"])
    store.wait(keys)
    assert store.num_keys() == len(keys)


def test_a_wait_does_not_poll(
    store: EtcdStore,
    client: EtcdClient,
    monkeypatch: pytest.MonkeyPatch,
    until: Callable[..., Any],
) -> None:
    looked: list[object] = []
    watching: list[object] = []
    read, watch = EtcdStore._read, EtcdClient.watch
    monkeypatch.setattr(
        EtcdStore, "_read", lambda self, keys: (looked.append(keys), read(self, keys))[1]
    )
    monkeypatch.setattr(
        EtcdClient, "watch", lambda *arguments: (watching.append(1), watch(*arguments))[1]
    )
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(store.get, "k", 10.0)
        until(lambda: watching)
        client.put(b"/store/keys/other", b"")
        client.put(b"/store/keys/k", b"v")
        assert waiting.result(10.0) == b"v"
    assert len(looked) == 2
