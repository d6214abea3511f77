from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quorate.clock import SystemClock
from quorate.errors import RendezvousConnectionError, RendezvousSettingsError
from quorate.etcd.client import EtcdClient
from quorate.etcd.member import BINARY_VARIABLE, EtcdMember, MemberAddress, etcd_binary
from quorate.etcd.server import await_ready
from quorate.launch.wards import Wards

pytestmark = pytest.mark.etcd

Until = Callable[..., Any]


@pytest.fixture
def member(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[EtcdMember]:
    address = MemberAddress("one", free_port(), free_port())
    with Wards(grace_s=1.0) as wards:
        member = EtcdMember(address, [address], tmp_path, wards)
        yield member
        member.kill()


def serve(member: EtcdMember) -> None:
    member.start()
    await_ready([member], 10.0, SystemClock())


def test_its_data_outlive_a_crash(member: EtcdMember) -> None:
    with EtcdClient([member.address.endpoint], timeout_s=5.0) as client:
        serve(member)
        client.put(b"k", b"v")
        member.kill()
        assert not member.is_running
        serve(member)
        assert client.range(b"k").kvs[0].value == b"v"
        member.stop()
        serve(member)
        assert client.range(b"k").kvs[0].value == b"v"


def test_frozen_it_says_nothing_and_thawed_it_goes_on(member: EtcdMember) -> None:
    serve(member)
    member.freeze()
    assert member.is_running
    with EtcdClient([member.address.endpoint]) as client:
        assert not client.is_healthy(0.1)
        member.thaw()
        assert client.is_healthy(5.0)
    member.freeze()
    member.stop()
    assert not member.is_running


def test_one_that_does_not_run_has_no_pid_and_can_be_stopped(member: EtcdMember) -> None:
    with pytest.raises(RendezvousConnectionError, match="does not run"):
        _ = member.pid
    member.stop()
    member.kill()


def test_one_that_was_killed_from_outside_is_seen(member: EtcdMember, until: Until) -> None:
    serve(member)
    os.kill(member.pid, signal.SIGKILL)
    until(lambda: not member.is_running)
    member.stop()


def test_its_last_words_are_kept(member: EtcdMember, tmp_path: Path, until: Until) -> None:
    assert member.last_words() == "no log"
    (tmp_path / "one").write_text("in the way")
    member.start()
    until(lambda: not member.is_running)
    assert "one" in member.last_words()


def test_where_its_program_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(BINARY_VARIABLE, raising=False)
    assert Path(etcd_binary()).name == "etcd"
    own = tmp_path / "own"
    own.write_text("")
    monkeypatch.setenv(BINARY_VARIABLE, str(own))
    with pytest.raises(RendezvousSettingsError, match=f"{BINARY_VARIABLE} names .*own"):
        etcd_binary()
    own.chmod(0o700)
    assert etcd_binary() == str(own)
    monkeypatch.delenv(BINARY_VARIABLE)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RendezvousSettingsError, match="apt-get install etcd-server"):
        etcd_binary()


def test_a_program_that_cannot_run_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF")
    broken.chmod(0o700)
    monkeypatch.setenv(BINARY_VARIABLE, str(broken))
    address = MemberAddress("one", free_port(), free_port())
    with Wards(grace_s=1.0) as wards:
        member = EtcdMember(address, [address], tmp_path, wards)
        with pytest.raises(RendezvousSettingsError, match=f"correct {BINARY_VARIABLE}"):
            member.start()
