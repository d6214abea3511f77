"""The etcd backend: the contract over a real etcd, lost replies, watches, damage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from quorate.api import RendezvousParameters
from quorate.backends.base import RendezvousBackend
from quorate.backends.etcd import EtcdRendezvousBackend, create_backend, run_key
from quorate.errors import (
    RendezvousConnectionError,
    RendezvousLimitError,
    RendezvousSettingsError,
    RendezvousStateError,
)
from quorate.etcd.client import EtcdClient
from quorate.etcd.server import EtcdServer
from quorate.identity import Endpoint
from quorate.registry import get_rendezvous_handler
from quorate.stores.etcd import EtcdStore
from quorate.testing.backends import BackendTraits, RendezvousBackendSuite
from tests.etcd.proxy import proxied

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
def backend(client: EtcdClient) -> EtcdRendezvousBackend:
    return EtcdRendezvousBackend(client, "run", "/prefix")


class TestEtcdBackend(RendezvousBackendSuite):
    traits = BackendTraits(durable=True, multi_host=True, detects_corruption=True)

    @pytest.fixture(autouse=True)
    def _client(self, client: EtcdClient) -> None:
        self.client = client

    def open(self, tmp_path: Path) -> RendezvousBackend:
        return EtcdRendezvousBackend(self.client, "run")

    def corrupt(self, tmp_path: Path) -> None:
        self.client.put(run_key("/torch/elastic/rendezvous", "run").encode(), b"corrupt")


def test_name_and_run_id(client: EtcdClient) -> None:
    assert EtcdRendezvousBackend(client, "run").name == "etcd-v2"
    with pytest.raises(RendezvousSettingsError, match="non-empty"):
        EtcdRendezvousBackend(client, "")


def test_runs_do_not_meet(client: EtcdClient) -> None:
    for run_id in ("a", "a/writers/1", "b"):
        assert EtcdRendezvousBackend(client, run_id).set_state(b"") is not None
    assert b"/torch/elastic/rendezvous/a%2Fwriters%2F1" in [
        each.key for each in client.range(b"/", b"0", keys_only=True).kvs
    ]


def test_any_damaged_byte_is_detected(client: EtcdClient, backend: EtcdRendezvousBackend) -> None:
    backend.set_state(b"state")
    content = client.range(b"/prefix/run").kvs[0].value
    for place in range(len(content)):
        copy = bytearray(content)
        copy[place] ^= 0x10
        client.put(b"/prefix/run", bytes(copy))
        with pytest.raises(RendezvousStateError, match=r"'/prefix/run' of etcd is corrupt"):
            backend.get_state()


def test_a_state_that_is_too_large_is_refused(backend: EtcdRendezvousBackend) -> None:
    with pytest.raises(RendezvousLimitError, match="coordinator"):
        backend.set_state(bytes(1_600_000))
    assert backend.get_state() is None


def test_exchanges_end_in_time_while_nobody_answers(free_port: Callable[[], int]) -> None:
    with EtcdClient([Endpoint("127.0.0.1", free_port())]) as alone:
        backend = EtcdRendezvousBackend(alone, "run", "/prefix")
        with backend.limited_to(0.2):
            with pytest.raises(RendezvousConnectionError, match=r"within 0\.2 s"):
                backend.get_state()
            with (
                backend.limited_to(0.1),
                pytest.raises(RendezvousConnectionError, match=r"within 0\.(1|09\d*) s"),
            ):
                backend.set_state(b"state")
            with backend.limited_to(9.0), pytest.raises(RendezvousConnectionError, match=r"0\.2 s"):
                backend.get_state()
        assert backend._exchange_s == alone.timeout_s


def test_a_node_ends_in_time_while_nobody_answers(free_port: Callable[[], int]) -> None:
    endpoint = f"127.0.0.1:{free_port()}"
    handler = get_rendezvous_handler(
        RendezvousParameters("etcd-v2", endpoint, "run", 1, 1, close_timeout=0.2)
    )
    with pytest.raises(RendezvousConnectionError, match=r"within 0\.2 s"):
        handler.leave()
    with pytest.raises(RendezvousConnectionError, match=r"within 0\.2 s"):
        handler.set_closed()


def test_a_state_that_nobody_writes_goes_with_its_lease(
    client: EtcdClient, backend: EtcdRendezvousBackend
) -> None:
    backend.set_state(b"x")
    stored = client.range(b"/prefix/run").kvs[0]
    assert 7000 < client.keep_alive(stored.lease) <= 7200 + 900
    client.revoke_lease(stored.lease)
    assert backend.get_state() is None
    answer = backend.set_state(b"y")
    assert answer is not None
    assert answer[2]


def test_a_lost_reply_is_resolved_for_certain(server: EtcdServer, client: EtcdClient) -> None:
    """R14"""
    with (
        proxied(server.address) as proxy,
        EtcdClient([proxy.endpoint], timeout_s=10.0) as lossy,
    ):
        backend = EtcdRendezvousBackend(lossy, "run", "/prefix")
        token = None
        for number, fate in enumerate(["lose reply", "lose request", "lose reply"]):
            proxy.plan(fate)  # type: ignore[arg-type]
            answer = backend.set_state(b"%d" % number, token)
            assert answer is not None
            state, token, has_set = answer
            assert (state, has_set) == (b"%d" % number, True)
            assert backend.get_state() == (state, token)
        assert client.range(b"/prefix/run").kvs[0].version == 3


def test_a_wait_ends_with_a_change_by_others_and_not_before(
    backend: EtcdRendezvousBackend, client: EtcdClient, until: Callable[..., Any]
) -> None:
    other = EtcdRendezvousBackend(client, "run", "/prefix")
    written = backend.set_state(b"1")
    assert written is not None
    assert not backend.wait_for_change(written[1], 0.05)
    assert backend.wait_for_change(None, 5.0)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(backend.wait_for_change, written[1], 15.0)
        other.set_state(b"2", written[1])
        assert waiting.result(10.0)


def test_an_etcd_that_is_away_is_no_change(free_port: Callable[[], int]) -> None:
    with EtcdClient([Endpoint("127.0.0.1", free_port())], timeout_s=0.1) as nobody:
        backend = EtcdRendezvousBackend(nobody, "run")
        assert not backend.wait_for_change(None, 0.1)
        backend.close()


def test_the_backend_of_parameters_and_its_store(server: EtcdServer, client: EtcdClient) -> None:
    params = RendezvousParameters(
        "etcd-v2", server.get_endpoint(), "run", 1, 1, etcd_prefix="/mine/"
    )
    backend, store = create_backend(params)
    backend.set_state(b"x")
    store.set("k", b"v")
    assert isinstance(store, EtcdStore)
    keys = [each.key for each in client.range(b"\0", b"\0", keys_only=True).kvs]
    assert b"/mine/run" in keys
    assert b"/mine/run/store/keys/k" in keys
    assert all(key.startswith(b"/mine/run") for key in keys)
    backend.close()


def test_a_rendezvous_over_it(server: EtcdServer, client: EtcdClient) -> None:
    def handler_of(number: int) -> Any:
        return get_rendezvous_handler(
            RendezvousParameters(
                "etcd-v2", server.get_endpoint(), "run", 2, 2, local_addr="localhost"
            )
        )

    handlers = [handler_of(number) for number in range(2)]
    with ThreadPoolExecutor(2) as pool:
        infos = list(pool.map(lambda handler: handler.next_rendezvous(), handlers))
    assert sorted(info.rank for info in infos) == [0, 1]
    assert {info.world_size for info in infos} == {2}
    infos[0].store.set("hello", "world")
    assert infos[1].store.get("hello") == b"world"
    for handler in handlers:
        handler.shutdown()


def test_unknown_keys_are_refused(server: EtcdServer) -> None:
    """R13"""
    params = RendezvousParameters("etcd-v2", server.get_endpoint(), "run", 1, 1, etcd_prefx="/x")
    with pytest.raises(RendezvousSettingsError, match="etcd_prefix"):
        get_rendezvous_handler(params)
