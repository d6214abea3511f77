"""What is measured: servers that start, are killed, start again and end."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quorate.bench.load import FLOOR
from quorate.bench.subjects import _Server, subject, without_name_service
from quorate.errors import RendezvousConnectionError, RendezvousSettingsError
from quorate.launch.wards import Wards


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_a_name_that_stands_for_nothing_is_refused() -> None:
    with pytest.raises(RendezvousSettingsError, match="'paper' is unknown: use quorate, memory"):
        subject("paper").__enter__()


def test_a_coordinator_is_started_killed_and_started_again(until: Callable[..., Any]) -> None:
    with subject("quorate") as quorate:
        assert quorate.is_coordinated
        assert quorate.is_durable
        with quorate.serving(3, os.environ) as service:
            (first,) = service.pids
            (endpoint,) = service.endpoints
            assert service.written()["journal_bytes"] >= 0
            service.restart()
            (second,) = service.pids
            assert second != first
            assert service.endpoints == [endpoint]
            until(lambda: not alive(first), what="the end of the first life")
            assert alive(second)
        assert not alive(second)


def test_what_is_no_coordinator_says_so() -> None:
    with subject(FLOOR) as floor, floor.serving(3, os.environ) as service:
        assert not floor.is_coordinated
        assert floor.is_rehearsed
        assert len(service.pids) == 1
        assert service.written() == {}
    with subject("file") as file, file.serving(3, os.environ) as service:
        assert service.pids == []
        assert not file.is_rehearsed


def test_one_that_does_not_start_is_told_with_its_last_word(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such luck')"]
    with Wards(1.0) as wards:
        server = _Server(command, tmp_path / "log", wards, os.environ)
        with pytest.raises(RendezvousConnectionError, match="did not start: no such luck"):
            server.start()
        server.kill()


def test_no_name_server_is_asked() -> None:
    assert without_name_service({"A": "B"}) == {"A": "B", "RES_OPTIONS": "attempts:0"}


@pytest.mark.etcd
def test_the_table_says_how_many_coordinators_and_members_there_are() -> None:
    with subject("etcd") as etcd:
        assert etcd.name == "etcd (2 coordinators, 3 members)"
