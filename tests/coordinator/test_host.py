"""Who starts a coordinator, and that it is one process that stands alone."""

from __future__ import annotations

import gc
import os
import socket
import stat
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quorate.cli.common import Connection
from quorate.cli.status import fetch_status
from quorate.coordinator import host as host_module
from quorate.coordinator.host import CoordinatorHost, serve_options
from quorate.credentials import Token
from quorate.errors import RendezvousAuthenticationError, RendezvousConnectionError
from quorate.identity import Endpoint
from quorate.testing import ManualClock
from quorate.tls import TlsFiles
from tests.served import LOOPBACK

Until = Callable[..., Any]
MakeHost = Callable[..., CoordinatorHost]

READY_S = 10.0


class RecordingHost(CoordinatorHost):
    """Notes where it would start a coordinator."""

    def __init__(self, is_host: bool | None) -> None:
        super().__init__(is_host)
        self.started: list[Endpoint] = []

    def start(self, endpoint: Endpoint) -> Endpoint | None:
        self.started.append(endpoint)
        return endpoint


@pytest.fixture
def make_host(tmp_path: Path) -> Iterator[MakeHost]:
    made: list[CoordinatorHost] = []

    def make(**options: Any) -> CoordinatorHost:
        made.append(CoordinatorHost(state_dir=str(tmp_path / "state"), **options))
        return made[-1]

    yield make
    for host in made:
        host.stop()


def status(endpoint: Endpoint) -> dict[str, Any]:
    return fetch_status(Connection([endpoint], READY_S))


OWN = Endpoint(LOOPBACK, 1)
# An address of documentation (RFC 5737): no machine has it.
FOREIGN = Endpoint("192.0.2.1", 1)


@pytest.mark.parametrize(
    ("is_host", "endpoint", "starts"),
    [
        (None, OWN, True),
        (None, Endpoint("localhost", 1), True),
        (None, Endpoint("::1", 1), True),
        (None, FOREIGN, False),
        (None, Endpoint("a..b", 1), False),
        (False, OWN, False),
        (True, FOREIGN, True),
    ],
)
def test_who_hosts(is_host: bool | None, endpoint: Endpoint, starts: bool) -> None:
    host = RecordingHost(is_host)
    host(endpoint)
    assert host.started == ([endpoint] if starts else [])


@pytest.mark.parametrize("is_host", [None, True])
def test_nothing_is_started_for_port_0_which_nobody_could_dial(is_host: bool | None) -> None:
    """Each redial would start another one."""
    host = RecordingHost(is_host)
    with pytest.raises(RendezvousConnectionError, match=r"port 0 \(localhost:0\).*another port"):
        host(Endpoint("localhost", 0))
    assert host.started == []


def test_it_starts_a_process_of_its_own(make_host: MakeHost, tmp_path: Path) -> None:
    """Its journal and its log are the user's alone; what is sent to our group is not for it."""
    host = make_host()
    endpoint = host.start(Endpoint(LOOPBACK, 0))
    assert endpoint is not None
    (pid,) = host.pids
    assert os.getsid(pid) == pid
    assert status(endpoint)["runs"] == []
    state = tmp_path / "state"
    log = state / f"coordinator-{endpoint.port}.log"
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert f"{LOOPBACK}:{endpoint.port}" in log.read_text()
    assert (state / f"coordinator-{endpoint.port}.journal").exists()


def test_its_token_reaches_it_and_stands_on_no_command_line(
    make_host: MakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUORATE_TOKEN", "another-one-of-this-process")
    secret = "a-shared-secret-of-ours"
    file = tmp_path / "token"
    file.write_text(secret)
    token = Token.from_file(file)
    host = make_host(token=token)
    endpoint = host.start(Endpoint(LOOPBACK, 0))
    assert endpoint is not None
    fetch_status(Connection([endpoint], READY_S, token))
    with pytest.raises(RendezvousAuthenticationError, match="wants a token"):
        fetch_status(Connection([endpoint], READY_S))
    (child,) = host._children
    told = Path(f"/proc/{child.pid}/cmdline").read_bytes()
    log = tmp_path / "state" / f"coordinator-{endpoint.port}.log"
    assert secret.encode() not in told + log.read_bytes()


def test_it_runs_nothing_of_the_working_directory(
    make_host: MakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "queue.py").write_text("raise SystemExit('a queue of the project')")
    monkeypatch.chdir(tmp_path)
    endpoint = make_host(memory=True).start(Endpoint(LOOPBACK, 0))
    assert endpoint is not None
    assert status(endpoint)["runs"] == []


def test_in_memory_there_is_no_journal(make_host: MakeHost, tmp_path: Path) -> None:
    endpoint = make_host(memory=True).start(Endpoint(LOOPBACK, 0))
    assert endpoint is not None
    assert status(endpoint)["runs"] == []
    assert not list((tmp_path / "state").glob("*.journal"))


def test_ipv6(make_host: MakeHost) -> None:
    endpoint = make_host(memory=True).start(Endpoint("::1", 0))
    assert endpoint is not None
    assert str(endpoint).startswith("[::1]:")
    assert status(endpoint)["runs"] == []


def test_of_many_that_want_to_host_one_does(
    make_host: MakeHost, free_port: Callable[[], int]
) -> None:
    endpoint = Endpoint("localhost", free_port())
    hosts = [make_host(memory=True) for _ in range(4)]
    barrier = threading.Barrier(len(hosts))

    def race(host: CoordinatorHost) -> None:
        barrier.wait()
        host(endpoint)

    threads = [threading.Thread(target=race, args=(host,)) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(len(host._children) for host in hosts) == 1
    status(endpoint)
    hosts[0](endpoint)
    assert sum(len(host._children) for host in hosts) == 1


def test_a_port_that_somebody_has_is_left_to_them(make_host: MakeHost) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        endpoint = Endpoint(*taken.getsockname())
        host = make_host()
        assert host.start(endpoint) is None
        host(endpoint)
        assert not host._children


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    host = CoordinatorHost(state_dir=str(tmp_path / "file" / "state"))
    with pytest.raises(RendezvousConnectionError, match=r"Opening the log of a coordinator .*disk"):
        host.start(Endpoint(LOOPBACK, 0))


def test_why_a_coordinator_failed_is_told_and_it_is_not_started_in_a_rush(
    make_host: MakeHost, free_port: Callable[[], int], tmp_path: Path
) -> None:
    """The words of its log reach the agent that started it: a corrupt journal, here."""
    endpoint = Endpoint(LOOPBACK, free_port())
    journal = tmp_path / "state" / f"coordinator-{endpoint.port}.journal"
    journal.parent.mkdir()
    journal.write_bytes(b"something else")
    clock = ManualClock()
    host = make_host(clock=clock)
    host(endpoint)
    (child,) = host._children
    assert child.wait(READY_S) == 75
    for _ in range(2):
        with pytest.raises(RendezvousConnectionError, match=r"code 75: .*not a journal of quorate"):
            host(endpoint)
    assert journal.read_bytes() == b"something else"
    journal.unlink()
    clock.advance(host_module.RESTART_PAUSE_S)
    host(endpoint)
    assert status(endpoint)["runs"] == []


def test_a_killed_coordinator_is_started_again_at_once(
    make_host: MakeHost, free_port: Callable[[], int]
) -> None:
    endpoint = Endpoint(LOOPBACK, free_port())
    host = make_host()
    host(endpoint)
    first = status(endpoint)["coordinator"]
    (child,) = host._children
    child.kill()
    child.wait()
    host(endpoint)
    assert status(endpoint)["coordinator"] != first


def test_a_long_log_starts_anew(
    make_host: MakeHost,
    free_port: Callable[[], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host_module, "LOG_BYTES_MAX", 100)
    (tmp_path / "state").mkdir()
    for length, kept in ((100, True), (101, False)):
        endpoint = Endpoint(LOOPBACK, free_port())
        log = tmp_path / "state" / f"coordinator-{endpoint.port}.log"
        log.write_text("x" * length)
        make_host(memory=True)(endpoint)
        status(endpoint)
        assert log.read_text().startswith("x" * 100) == kept


def test_what_is_behind_a_link_in_the_place_of_its_log_is_left_alone(
    tmp_path: Path, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_module, "LOG_BYTES_MAX", 100)
    endpoint = Endpoint(LOOPBACK, free_port())
    precious = tmp_path / "checkpoint"
    precious.write_bytes(bytes(101))
    log = tmp_path / f"coordinator-{endpoint.port}.log"
    log.symlink_to(precious)
    host = CoordinatorHost(state_dir=str(tmp_path), memory=True)
    with pytest.raises(RendezvousConnectionError, match=r"coordinator-.*\.log.*remove it"):
        host(endpoint)
    assert precious.read_bytes() == bytes(101)


def test_a_log_that_has_other_names_is_not_emptied(
    make_host: MakeHost,
    free_port: Callable[[], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host_module, "LOG_BYTES_MAX", 100)
    endpoint = Endpoint(LOOPBACK, free_port())
    (tmp_path / "state").mkdir()
    precious = tmp_path / "checkpoint"
    precious.write_bytes(bytes(101))
    (tmp_path / "state" / f"coordinator-{endpoint.port}.log").hardlink_to(precious)
    make_host(memory=True)(endpoint)
    assert precious.read_bytes().startswith(bytes(101))


def test_its_coordinator_gets_its_certificate_and_asks_the_others_for_theirs() -> None:
    files = TlsFiles("ca.pem", "node.pem", "node.key")
    expected = "--tls-cert node.pem --tls-key node.key --tls-client-ca ca.pem"
    assert serve_options(files) == expected.split()
    assert serve_options(TlsFiles("", "both.pem")) == ["--tls-cert", "both.pem"]
    assert serve_options(None) == []


def test_without_a_certificate_it_starts_none_that_speaks_tls(make_host: MakeHost) -> None:
    host = make_host(tls=TlsFiles("ca.pem"))
    with pytest.raises(RendezvousConnectionError, match="This node has no certificate"):
        host(OWN)
    host(FOREIGN)
    assert not host._children


def test_a_coordinator_may_outlive_its_host_object(tmp_path: Path) -> None:
    given = CoordinatorHost(state_dir=str(tmp_path))
    given.start(Endpoint(LOOPBACK, 0))
    (child,) = map(weakref.ref, given._children)
    with warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("always")
        del given
        gc.collect()
    kept = child()
    assert kept is not None
    assert complaints == []
    kept.kill()
    kept.wait()
