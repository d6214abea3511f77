"""`quorate watch`: redrawn on a terminal, printed elsewhere, ended by Ctrl-C with 0."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from quorate.cli import watch
from quorate.cli.watch import BEGIN, END, Screen, signature
from tests.served import LOOPBACK, ThreadedCoordinator, make_handler
from tests.terminal import Terminal

Until = Callable[..., None]
COMMAND = [sys.executable, "-m", "quorate", "watch", "--interval", "0.1"]
COMMAND += ["--timeout", "1", "--endpoint"]


def test_what_changes_is_printed_until_ctrl_c(tmp_path: Path, until: Until) -> None:
    coordinator = ThreadedCoordinator()
    handler = make_handler(coordinator.endpoint)
    printed = tmp_path / "printed"
    with printed.open("wb") as out:
        watching = subprocess.Popen([*COMMAND, str(coordinator.endpoint), "--json"], stdout=out)
    try:
        until(lambda: printed.read_bytes().count(b"\n") == 1)
        handler.next_rendezvous()
        until(lambda: b'"complete"' in printed.read_bytes())
        handler.leave()
        until(lambda: printed.read_bytes().splitlines()[-1].count(b'"nodes":[]') == 1)
    finally:
        watching.send_signal(signal.SIGINT)
        assert watching.wait(10) == 0
        coordinator.stop()
    seen = [msgspec.json.decode(line) for line in printed.read_bytes().splitlines()]
    assert seen[0]["runs"] == []
    assert all(signature(one) != signature(next_) for one, next_ in pairwise(seen))


def test_a_terminal_is_redrawn_and_left_as_it_was() -> None:
    coordinator = ThreadedCoordinator()
    terminal = Terminal([*COMMAND, str(coordinator.endpoint)])
    while terminal.drawn.count(watch.HOME.encode()) < 3 and terminal.read():
        pass
    coordinator.stop()
    while b"this is old: " not in terminal.drawn and terminal.read():
        pass
    assert terminal.end() == 0
    assert terminal.drawn.startswith(BEGIN.encode())
    assert terminal.drawn.endswith(END.encode())
    assert b"no runs" in terminal.drawn
    assert b"this is old: " in terminal.drawn


def test_nobody_there_is_an_error(free_port: Callable[[], int]) -> None:
    command = [*COMMAND, f"{LOOPBACK}:{free_port()}", "--timeout", "0.2"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=15, check=False)
    assert ended.returncode == 73
    assert "could not be reached" in ended.stderr


def test_what_does_not_fit_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch.shutil, "get_terminal_size", lambda: os.terminal_size((5, 3)))
    out = io.StringIO()
    Screen(out).draw(["first line", "b", "c", "d"])
    shown = out.getvalue().replace(watch.HOME, "").replace(watch.REST_OF_SCREEN, "")
    lines = [line.removesuffix(watch.END_OF_LINE) for line in shown.split("\r\n")]
    assert lines == ["first", "b", "... a"]


def test_what_changes_all_the_time_is_no_news() -> None:
    one = {"time": 1, "runs": [{"nodes": [{"node": "a", "heard_s_ago": 1}]}]}
    other = {"time": 2, "runs": [{"nodes": [{"node": "a", "heard_s_ago": 2}]}]}
    assert signature(one) == signature(other) == {"runs": [{"nodes": [{"node": "a"}]}]}
