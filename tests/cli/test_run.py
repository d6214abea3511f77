"""`quorate run`: its options, and what it shows while it waits."""

from __future__ import annotations

import array
import fcntl
import os
import re
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quorate.cli.common import Connection
from quorate.cli.inquiry import inquire
from quorate.cli.run import _program, _with_ports, parse_nodes, parse_workers
from quorate.errors import RendezvousSettingsError
from quorate.terminal import ERASE_LINE
from quorate.wire.messages import History, Report
from tests.launch.scripted import is_running, pid_in
from tests.served import ThreadedCoordinator
from tests.terminal import Terminal

COMMAND = [sys.executable, "-m", "quorate", "run", "--nnodes", "2", "--rdzv-endpoint"]
ALONE = [sys.executable, "-m", "quorate", "run", "--nnodes", "1:2", "--rdzv-endpoint"]
WAITS = re.compile(r"quorate: waiting for 1 more node \(1 of 2\), since (\d) s; gives up in 1?\d s")


def test_nodes_are_a_number_or_a_range() -> None:
    assert parse_nodes("3") == (3, 3)
    assert parse_nodes(" 2:8 ") == (2, 8)


@pytest.mark.parametrize("text", ["", "0", "3:2", "a", "1:2:3", "-1"])
def test_other_numbers_of_nodes_are_refused(text: str) -> None:
    with pytest.raises(RendezvousSettingsError, match="MIN:MAX"):
        parse_nodes(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("localhost", "localhost:29400"),
        ("c1,c2:7,[::1]", "c1:29400,c2:7,[::1]:29400"),
        ("c1:29401", "c1:29401"),
    ],
)
def test_workers_are_told_an_endpoint_with_its_port(text: str, told: str) -> None:
    assert _with_ports(text) == told


def test_a_module_is_one_after_dashes_too() -> None:
    module = (sys.executable, "-u", "-m", "platform", "x")
    assert _program(("platform", "x"), module=True, as_it_is=False) == module
    assert _program(("platform", "x"), module=True, as_it_is=True) == module
    assert _program(("platform", "x"), module=False, as_it_is=True) == ("platform", "x")


@pytest.mark.parametrize(
    ("text", "accelerators", "workers"),
    [("3", 8, 3), ("auto", 8, 8), ("auto", 0, 64), ("gpu", 8, 8), ("cpu", 8, 64)],
)
def test_workers_are_a_number_or_one_for_each_device(
    text: str, accelerators: int, workers: int
) -> None:
    assert parse_workers(text, accelerators, processors=64) == workers


@pytest.mark.parametrize("text", ["", "0", "-1", "xpu", "1.5"])
def test_other_numbers_of_workers_are_refused(text: str) -> None:
    with pytest.raises(RendezvousSettingsError, match="write a number from 1"):
        parse_workers(text, 8, 64)


def test_without_accelerators_it_is_said_what_was_looked_at() -> None:
    looked_at = r"CUDA_VISIBLE_DEVICES, .*, /dev/nvidia\[0-9\]\* and /sys/class/kfd/"
    with pytest.raises(RendezvousSettingsError, match=looked_at):
        parse_workers("gpu", 0, 64)


def test_r16_a_terminal_shows_one_live_line_while_the_node_waits() -> None:
    coordinator = ThreadedCoordinator()
    conf = ("--rdzv-conf", "join_timeout=20,is_host=0")
    terminal = Terminal([*COMMAND, str(coordinator.endpoint), *conf, "--", "true"])
    while len(set(WAITS.findall(terminal.drawn.decode()))) < 2 and terminal.read():
        pass
    assert terminal.end() == 128 + signal.SIGINT
    coordinator.stop()
    text = terminal.drawn.decode()
    shown = text.split(ERASE_LINE)
    assert len({WAITS.fullmatch(line)[1] for line in shown if WAITS.fullmatch(line)}) >= 2  # type: ignore[index]
    assert text.count("\n") == 1, "only the agent's last word is a line of its own"
    assert shown[-1].startswith("quorate: received SIGINT")


def test_a_sick_node_starts_nothing_and_exits_with_its_own_code() -> None:
    coordinator = ThreadedCoordinator()
    check = ("--health-check", "sh -c 'echo no disk; exit 1'", "--health-check-timeout", "9")
    command = [*ALONE, str(coordinator.endpoint), "--rdzv-conf", "join_timeout=1,is_host=0", *check]
    ended = subprocess.run(
        [*command, "--", "echo", "started"], capture_output=True, text=True, timeout=30, check=False
    )
    connection = Connection([coordinator.endpoint], 5.0)
    history = inquire(connection, lambda id: History(id, "none"), Report).text().decode()
    coordinator.stop()
    assert ended.returncode == 81, ended.stderr
    assert "left: unhealthy: the health check ended with exit code 1: no disk" in history
    assert ended.stdout == ""
    waiting, error = ended.stderr.splitlines()
    problem = "the health check ended with exit code 1: no disk"
    assert waiting == f"quorate: unhealthy: {problem}; the next check is in 1 s"
    assert error.startswith("quorate: This node was not healthy within 1 s (2 checks): ")


def is_full(pipe: int) -> bool:
    """Return whether nothing more fits into a pipe but some last bytes; tell by its reading end."""
    waiting = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, waiting)
    return waiting[0] > fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ) - select.PIPE_BUF


def test_an_agent_ends_though_nobody_reads_what_it_and_its_workers_say(
    until: Callable[..., Any], tmp_path: Path
) -> None:
    script = 'echo $$ >"$0"; exec yes >&2'
    command = [sys.executable, "-m", "quorate", "run", "--standalone", "--", "sh", "-c", script]
    reading, writing = os.pipe()
    agent = subprocess.Popen([*command, str(tmp_path / "worker")], stderr=writing)
    os.close(writing)
    try:
        until(lambda: is_full(reading), 30.0)
        worker = pid_in(tmp_path / "worker")
        agent.terminate()
        until(lambda: not is_running(worker), 10.0)
        assert agent.wait(30) == 128 + signal.SIGTERM
    finally:
        os.close(reading)
        agent.kill()
        agent.wait()


def test_an_agent_works_and_ends_though_nobody_reads_what_it_says() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"x" * (fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ) - 10))
    command = [sys.executable, "-m", "quorate", "run", "--standalone", "--", "echo", "started"]
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=writing, timeout=30, check=False)
    os.close(writing)
    os.close(reading)
    assert ended.stdout == b"[0]:started\n"
    assert ended.returncode == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--health-check", ""], "The health check is empty"),
        (["--rdzv-conf", "join_timeout=2e8"], "not a reasonable number of seconds: 1e+08 at most"),
        (["--health-check", "no-such-program"], "there is no program 'no-such-program'"),
        (["--rdzv-conf", "slots=1,slots=2"], "'slots' is given twice"),
        (["--rdzv-endpoint", "localhost:0", "--nnodes", "1:2"], "at port 0 ('localhost:0')"),
    ],
)
def test_what_makes_no_sense_is_one_line(options: list[str], message: str) -> None:
    alone = [] if "--rdzv-endpoint" in options else ["--standalone"]
    command = [sys.executable, "-m", "quorate", "run", *alone, *options, "--", "true"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 76
    assert ended.stderr.startswith("quorate: ")
    assert message in ended.stderr
    assert ended.stderr.count("\n") == 1
