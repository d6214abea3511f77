"""The c10d backend over each of torch's stores, frozen and dying servers included."""

from __future__ import annotations

import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import FileStore, HashStore, Store, TCPStore

from quorate.api import RendezvousParameters
from quorate.backends import tcpstore
from quorate.backends.base import RendezvousBackend
from quorate.backends.tcpstore import (
    HEADER,
    MAGIC,
    NONCE_BYTES,
    STATE_BYTES_MAX,
    C10dRendezvousBackend,
    checksum,
    create_backend,
    create_tcp_store,
)
from quorate.errors import (
    RendezvousConnectionError,
    RendezvousLimitError,
    RendezvousSettingsError,
    RendezvousStateError,
)
from quorate.identity import Endpoint
from quorate.testing.backends import BackendTraits, RendezvousBackendSuite
from tests.conftest import busy_s, freeze

pytestmark = pytest.mark.torch

KEY = "torch.rendezvous.run"
SECONDS_10 = timedelta(seconds=10)

HOST_A_STORE = """
import sys
from torch.distributed import TCPStore
store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
print(store.port, flush=True)
sys.stdin.read()
"""


class C10dSuite(RendezvousBackendSuite):
    """What the suites over torch's stores share: every handle has a thread to end."""

    store: Store
    opened: list[C10dRendezvousBackend]

    @pytest.fixture(autouse=True)
    def _close_what_was_opened(self) -> Iterator[None]:
        self.opened = []
        yield
        for backend in self.opened:
            backend.close()

    def make_store(self, tmp_path: Path) -> Store:
        raise NotImplementedError

    def open(self, tmp_path: Path) -> RendezvousBackend:
        if not self.opened:
            self.store = self.make_store(tmp_path)
        self.opened.append(C10dRendezvousBackend(self.store, "run"))
        return self.opened[-1]

    def reopen(self, tmp_path: Path) -> RendezvousBackend:
        self.store = self.make_store(tmp_path)
        return self.open(tmp_path)

    def corrupt(self, tmp_path: Path) -> None:
        self.store.set(KEY, "corrupt")


class TestHashStore(C10dSuite):
    traits = BackendTraits(durable=False, multi_host=False, detects_corruption=True)

    def make_store(self, tmp_path: Path) -> Store:
        return HashStore()


class TestFileStore(C10dSuite):
    traits = BackendTraits(durable=True, multi_host=True, detects_corruption=True)

    def make_store(self, tmp_path: Path) -> Store:
        return FileStore(str(tmp_path / "store"))


class TestTcpStore(C10dSuite):
    traits = BackendTraits(durable=False, multi_host=True, detects_corruption=True)

    def make_store(self, tmp_path: Path) -> Store:
        return hosted_store()


def hosted_store() -> TCPStore:
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=SECONDS_10)


@pytest.fixture
def store() -> HashStore:
    return HashStore()


@pytest.fixture
def backend(store: HashStore) -> Iterator[C10dRendezvousBackend]:
    with closing(C10dRendezvousBackend(store, "run", timeout_s=10.0)) as backend:
        yield backend


@contextmanager
def store_process() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Another process that hosts a TCPStore, and its port."""
    host = subprocess.Popen(
        [sys.executable, "-c", HOST_A_STORE], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with host:
        assert host.stdout is not None
        try:
            yield host, int(host.stdout.readline())
        finally:
            host.kill()


def parameters(endpoint: str, **config: Any) -> RendezvousParameters:
    return RendezvousParameters("c10d", endpoint, "run", 1, 2, **config)


def test_name(backend: C10dRendezvousBackend) -> None:
    assert backend.name == "c10d"


def test_the_run_id_must_not_be_empty(store: HashStore) -> None:
    with pytest.raises(RendezvousSettingsError, match="run id must be a non-empty string"):
        C10dRendezvousBackend(store, "")


def test_runs_do_not_see_each_other(backend: C10dRendezvousBackend, store: HashStore) -> None:
    backend.set_state(b"x")
    with closing(C10dRendezvousBackend(store, "other")) as other:
        assert other.get_state() is None


@pytest.mark.parametrize("value", ["Y2FuaW1hZGFt", "é", "AAAA", "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFB"])
def test_the_value_of_another_program_is_told(
    backend: C10dRendezvousBackend, store: HashStore, value: str
) -> None:
    store.set(KEY, value)
    with pytest.raises(RendezvousStateError, match=r"'torch\.rendezvous\.run'.* another run id"):
        backend.get_state()


def test_a_state_that_torch_would_choke_on_is_refused() -> None:
    store = hosted_store()
    with closing(C10dRendezvousBackend(store, "run")) as backend:
        with pytest.raises(RendezvousLimitError, match="Use the coordinator"):
            backend.set_state(bytes(STATE_BYTES_MAX + 1))
        largest = random.Random(0).randbytes(STATE_BYTES_MAX)
        answer = backend.set_state(largest)
        assert answer is not None
        assert answer[2]
        assert backend.get_state() == answer[:2]


def test_names_that_stand_in_several_places_are_stored_once(
    backend: C10dRendezvousBackend, store: HashStore
) -> None:
    names = [secrets.token_hex(8).encode() for _ in range(64)]
    state = b"".join(names * 4)
    backend.set_state(state)
    assert len(store.get(KEY)) < len(state) / 2
    current = backend.get_state()
    assert current is not None
    assert current[0] == state


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"not compressed", id="not compressed"),
        pytest.param(zlib.compress(b"x" * 100)[:-1], id="cut"),
        pytest.param(zlib.compress(b"x") + b"y", id="with a tail"),
        pytest.param(zlib.compress(bytes(STATE_BYTES_MAX + 2)), id="more than a state can be"),
    ],
)
def test_what_does_not_decompress_to_a_state_is_told(
    backend: C10dRendezvousBackend, store: HashStore, body: bytes
) -> None:
    """R15: also where the checksum is right."""
    nonce = bytes(NONCE_BYTES)
    store.set(KEY, b64encode(HEADER.pack(MAGIC, nonce, checksum(nonce, body)) + body).decode())
    with pytest.raises(RendezvousStateError, match="another run id"):
        backend.get_state()


class StoreWithFaults:
    """A store whose next writes reach it although their reply, or more, is lost."""

    def __init__(self, store: Store) -> None:
        self.timeout = SECONDS_10
        self.faults: list[Callable[[], None]] = []
        self._store = store

    def compare_set(self, key: str, expected: str, desired: str) -> bytes:
        answer: bytes = self._store.compare_set(key, expected, desired)
        if self.faults:
            self.faults.pop(0)()
        return answer


def lose() -> None:
    raise RuntimeError("connection reset\nframe #0: somewhere in C++")


def test_a_write_whose_reply_was_lost_is_recognised(store: HashStore) -> None:
    """R14: the writer's own random bytes in the value tell."""
    faulty = StoreWithFaults(store)
    with closing(C10dRendezvousBackend(faulty, "run")) as backend:
        faulty.faults = [lose]
        answer = backend.set_state(b"x")
        assert answer is not None
        assert answer[2]
        assert backend.get_state() == answer[:2]


def test_a_lost_reply_is_not_taken_for_success_if_another_wrote_since(store: HashStore) -> None:
    faulty = StoreWithFaults(store)

    def lose_and_overwrite() -> None:
        current = other.get_state()
        assert current is not None
        other.set_state(b"x", current[1])
        lose()

    with (
        closing(C10dRendezvousBackend(faulty, "run")) as backend,
        closing(C10dRendezvousBackend(store, "run")) as other,
    ):
        faulty.faults = [lose_and_overwrite]
        with pytest.raises(RendezvousConnectionError, match=r"connection reset See") as caught:
            backend.set_state(b"x")
        assert "frame" not in str(caught.value)


def test_a_connection_that_stays_lost_is_told(store: HashStore) -> None:
    faulty = StoreWithFaults(store)
    with closing(C10dRendezvousBackend(faulty, "run")) as backend:
        faulty.faults = [lose, lose, lose]
        with pytest.raises(RendezvousConnectionError, match="Calling the c10d store failed"):
            backend.set_state(b"x")
        with pytest.raises(RendezvousConnectionError, match="Calling the c10d store failed"):
            backend.get_state()


def test_a_frozen_server_holds_nobody_longer_than_the_timeout() -> None:
    with store_process() as (host, port):
        backend, _ = create_backend(parameters(f"127.0.0.1:{port}", is_host="0", read_timeout=10))
        with closing(backend):
            answer = backend.set_state(b"x")
            assert answer is not None
            backend._timeout_s = 0.3
            freeze(host.pid)
            assert_told_within(0.3, backend.get_state, "did not answer within 0.3 s")
            assert_told_within(0.0, lambda: backend.set_state(b"y", answer[1]), "earlier call")
            assert_told_within(
                0.3,
                lambda: create_tcp_store(Endpoint("127.0.0.1", port), False, 0.3),
                "did not answer within 0.3 s",
            )


def test_a_thawed_server_is_used_again(until: Callable[..., Any]) -> None:
    with store_process() as (host, port):
        store = create_tcp_store(Endpoint("127.0.0.1", port), False, 10.0)
        with closing(C10dRendezvousBackend(store, "run", timeout_s=0.3)) as backend:
            answer = backend.set_state(b"x")
            assert answer is not None
            freeze(host.pid)
            with pytest.raises(RendezvousConnectionError, match="did not answer"):
                backend.set_state(b"y", answer[1])
            os.kill(host.pid, signal.SIGCONT)

            def state() -> bytes | None:
                try:
                    current = backend.get_state()
                except RendezvousConnectionError:
                    return None
                assert current is not None
                return current[0]

            assert until(state) == b"y", "the write of the stuck call has not happened"


def assert_told_within(timeout_s: float, call: Callable[[], object], message: str) -> None:
    start_s = time.monotonic()
    with pytest.raises(RendezvousConnectionError, match=message):
        call()
    took_s = time.monotonic() - start_s
    assert took_s < timeout_s + 1.0 + busy_s()


def test_a_dead_server_is_told() -> None:
    with store_process() as (host, port):
        store = create_tcp_store(Endpoint("127.0.0.1", port), False, 10.0)
        with closing(C10dRendezvousBackend(store, "run", timeout_s=10.0)) as backend:
            backend.set_state(b"x")
            host.kill()
            host.wait(10.0)
            with pytest.raises(RendezvousConnectionError, match="Calling the c10d store failed"):
                backend.get_state()


def test_the_first_on_this_machine_hosts_and_others_connect(free_port: Callable[[], int]) -> None:
    port = free_port()
    first, _ = create_backend(parameters(f"localhost:{port}"))
    with closing(first), closing(create_backend(parameters(f"127.0.0.1:{port}"))[0]) as second:
        first.set_state(b"x")
        assert second.get_state() == first.get_state()
        assert second.get_state() is not None


def test_another_machines_store_is_not_hosted_here(
    free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcpstore, "own_addresses", lambda endpoint: [])
    with pytest.raises(RendezvousConnectionError, match="TCPStore at 127"):
        create_tcp_store(Endpoint("127.0.0.1", free_port()), None, 1.0)


def test_another_process_hosts_already() -> None:
    with store_process() as (_, port):
        backend, _ = create_backend(parameters(f"127.0.0.1:{port}", read_timeout=10))
        with closing(backend):
            assert backend.get_state() is None


def test_a_host_that_cannot_bind_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = Endpoint("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(RendezvousConnectionError, match=f"Hosting the TCPStore at {endpoint}"):
            create_tcp_store(endpoint, True, 10.0)


def test_nobody_there_is_told_in_time(free_port: Callable[[], int]) -> None:
    endpoint = Endpoint("127.0.0.1", free_port())
    assert_told_within(1.0, lambda: create_tcp_store(endpoint, False, 1.0), "TCPStore at 127.0.0.1")


def test_a_name_that_is_not_known_yet_is_not_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(endpoint: Endpoint) -> list[object]:
        raise RendezvousConnectionError("no such name yet")

    assert tcpstore.is_this_machine(Endpoint("localhost", 0))
    monkeypatch.setattr(tcpstore, "own_addresses", unknown)
    assert not tcpstore.is_this_machine(Endpoint("localhost", 0))


def test_create_backend_over_a_file(tmp_path: Path) -> None:
    path = str(tmp_path / "store")
    backend, store = create_backend(parameters(path, store_type=" File "))
    with closing(backend), closing(create_backend(parameters(path, store_type="file"))[0]) as other:
        assert isinstance(store, FileStore)
        backend.set_state(b"x")
        assert other.get_state() == backend.get_state()
        assert other.get_state() is not None


def test_create_backend_over_a_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    backend, _ = create_backend(parameters("", store_type="file"))
    with closing(backend):
        backend.set_state(b"x")
    (path,) = tmp_path.iterdir()
    assert path.stat().st_size > 0
    assert path.stat().st_mode & 0o077 == 0


def test_a_file_in_a_missing_directory_is_told(tmp_path: Path) -> None:
    with pytest.raises(RendezvousConnectionError, match="create or mount it"):
        create_backend(parameters(str(tmp_path / "absent" / "store"), store_type="file"))


@pytest.mark.parametrize(
    "config",
    [{"store_type": "dummy"}, *({"read_timeout": value} for value in (0, -1, "nan", "inf"))],
)
def test_settings_that_mean_nothing_are_told(config: dict[str, Any]) -> None:
    with pytest.raises(RendezvousSettingsError, match=next(iter(config))):
        create_backend(parameters("127.0.0.1:0", **config))


@pytest.mark.parametrize("given", ["2.5", 2.5])
def test_the_timeout_may_have_a_fraction(given: object, tmp_path: Path) -> None:
    path = str(tmp_path / "store")
    backend, _ = create_backend(parameters(path, store_type="file", read_timeout=given))
    with closing(backend):
        assert backend._timeout_s == 2.5
