from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quorate.errors import (
    RendezvousConnectionError,
    RendezvousSettingsError,
    RendezvousTimeoutError,
)
from quorate.etcd import server as server_module
from quorate.etcd.member import BINARY_VARIABLE
from quorate.etcd.server import EtcdServer
from tests.launch.scripted import is_running

pytestmark = pytest.mark.etcd

START_ONE = """
import sys
from quorate.etcd.server import EtcdServer
server = EtcdServer()
server.start()
print(server.pid, server.get_endpoint(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which temporary directories are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def use_etcd(monkeypatch: pytest.MonkeyPatch, path: Path, script: str) -> None:
    """Let a script stand for etcd."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)
    monkeypatch.setenv(BINARY_VARIABLE, str(path))


def test_it_serves_and_leaves_nothing(temporary: Path) -> None:
    server = EtcdServer()
    server.start()
    pid = server.pid
    with server.get_client() as client:
        client.put(b"k", b"v")
        assert client.range(b"k").kvs[0].value == b"v"
    assert server.get_endpoint() == f"{server.get_host()}:{server.get_port()}"
    assert list(temporary.iterdir())
    server.stop()
    assert not is_running(pid)
    assert not list(temporary.iterdir())
    server.stop()


def test_two_of_them_do_not_meet() -> None:
    with EtcdServer() as one, EtcdServer() as other:
        assert one.get_endpoint() != other.get_endpoint()


def test_it_can_be_started_again_and_is_empty_then(tmp_path: Path) -> None:
    server = EtcdServer(str(tmp_path / "data"))
    for _ in range(2):
        with server, server.get_client() as client:
            assert (tmp_path / "data").is_dir()
            assert not client.range(b"k").kvs
            client.put(b"k", b"v")
        assert not (tmp_path / "data").exists()


def test_what_does_not_run_has_no_address() -> None:
    with pytest.raises(RendezvousConnectionError, match=r"call start\(\) first"):
        EtcdServer().get_endpoint()


def test_it_ends_with_its_parent_even_on_kill(tmp_path: Path, until: Callable[..., Any]) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", START_ONE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline().split()[0])
        assert is_running(pid)
        assert list(tmp_path.iterdir())
        parent.send_signal(signal.SIGKILL)
    until(lambda: not is_running(pid), timeout_s=10.0, what="the end of etcd")
    until(lambda: not list(tmp_path.iterdir()), timeout_s=10.0, what="the data to be removed")


def test_ports_that_others_have_are_not_insisted_on(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, free_port: Callable[[], int]
) -> None:
    with EtcdServer() as other:
        ports = iter([other.get_port(), free_port(), free_port(), free_port()])
        monkeypatch.setattr(server_module, "free_port", lambda: next(ports))
        with EtcdServer() as server:
            assert server.get_port() != other.get_port()


def test_one_that_ends_at_once_is_told_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_etcd(monkeypatch, tmp_path / "hasty", "echo no room >&2; exit 1")
    server = EtcdServer(str(tmp_path / "data"))
    with pytest.raises(RendezvousConnectionError, match=r"before it served.*no room"):
        server.start(num_retries=1)
    assert not (tmp_path / "data").exists()


def test_what_is_somebodys_is_refused_and_stays(tmp_path: Path) -> None:
    kept = tmp_path / "data" / "kept"
    kept.parent.mkdir()
    kept.write_text("mine")
    for given in (kept, kept.parent):
        with pytest.raises(RendezvousSettingsError, match=f"'{given}' is not an empty directory"):
            EtcdServer(str(given)).start()
    assert kept.read_text() == "mine"


def test_one_that_does_not_serve_in_time_is_told(
    temporary: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_etcd(monkeypatch, tmp_path_factory.mktemp("bin") / "lazy", "exec sleep 600")
    with pytest.raises(RendezvousTimeoutError, match=r"within 0\.2 s: give it more time"):
        EtcdServer().start(timeout=0.2, num_retries=1)
    assert not list(temporary.iterdir())
