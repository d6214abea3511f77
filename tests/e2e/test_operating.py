"""`docs/operating.md`: every command on the page is run, and says what stands there.

The commands of its console blocks are run in their order against a coordinator and agents that are
processes of their own. What differs from run to run (process ids, epochs, times) is left out of the
comparison. A command that only looks may be asked again until the agents are as far.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from quorate import errors
from quorate.cli.main import COMMANDS, commands
from quorate.errors import RendezvousError
from tests.conftest import wait_until
from tests.e2e.cluster import Cluster, Program

pytestmark = pytest.mark.timeout(90)

PAGE = Path(__file__).parents[2] / "docs" / "operating.md"
LOOKS = {"status", "history", "doctor"}
PATIENCE_S = 30.0

# What differs each time, and what stands in its place.
DIFFERS = (
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "MOMENT"),
    (r"(node\d)_\d+_0", r"\1_PID_0"),
    (r"epoch [0-9a-f]+", "epoch EPOCH"),
    (r"\S+ \(process \d+\)", "HOST (process PID)"),
    # The coordinator of this test is on this machine alone.
    (r"\b(127|10)\.0\.0\.\d+", "ADDRESS"),
    (r"\S+ is ADDRESS", "HOST is ADDRESS"),
    (r"^\S+ +advertised .*", "advertised"),
    (r"\b\d+(\.\d+)? s\b", "N s"),
    (r":\d{4,5}\b", ":PORT"),
    (r"may have .*", "may have N"),
    (r" +", " "),
)


def blocks() -> Iterator[tuple[str, list[str]]]:
    """Yield the commands of the page with what it says they print."""
    for block in re.findall(r"```console\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *output = part.rstrip("\n").split("\n")
            yield command, output


def plain(lines: list[str]) -> list[str]:
    """Return lines without what differs each time."""
    for pattern, instead in DIFFERS:
        lines = [re.sub(pattern, instead, line).strip() for line in lines]
    return [line for line in lines if line]


class Walk:
    """The coordinator and the agents of the page."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.nodes: dict[str, Program] = {}

    def add(self, name: str) -> None:
        """Start an agent, and wait until the coordinator knows it."""
        number = name.removeprefix("node")
        node = ("--node-id", f"n{number}", "--local-addr", name)
        conf = "last_call_timeout=1"
        agent = self._cluster.run("2:4", *node, "--", "sleep", "600", name=name, conf=conf)
        self.nodes[name] = agent
        wait_until(lambda: name in self.say("quorate status")[1], PATIENCE_S, name)

    def say(self, command: str) -> tuple[int, str]:
        """Run a command of the page; return its exit code and what it printed."""
        program, name, *words = shlex.split(command)
        assert program == "quorate"
        if words[:1] == ["--endpoint"]:
            words = words[2:]
        done = CliRunner().invoke(commands, [name, "--endpoint", self._cluster.endpoint, *words])
        if isinstance(done.exception, RendezvousError):
            return done.exception.exit_code, f"quorate: {done.exception}"
        return done.exit_code, done.output

    def meet(self, command: str, output: list[str]) -> None:
        """Run a command, and compare."""
        expected = plain(output)
        told: list[str] = []

        def same() -> bool:
            told[:] = plain(self.say(command)[1].splitlines())
            return told == expected

        if command.split()[1] not in LOOKS:
            assert same(), (command, told, expected)
            return
        try:
            wait_until(same, PATIENCE_S)
        except pytest.fail.Exception:
            assert told == expected, command


def test_the_page_says_what_the_commands_do(cluster: Cluster) -> None:
    serving = cluster.serve("--memory")
    walk = Walk(cluster)
    walk.add("node0")
    # All shall be in the first round, however long they take to start.
    walk.say("quorate hold job")
    for name in ("node1", "node2", "node3"):
        walk.add(name)
    walk.say("quorate release job")
    for command, output in blocks():
        walk.meet(command, output)
        if command.startswith("quorate hold"):
            walk.add("node4")
    assert walk.nodes["node3"].exit_code() == 0, "it was drained"
    assert walk.nodes["node2"].exit_code() == 80, "it was evicted"
    assert serving.running


def test_the_page_has_every_command() -> None:
    text = PAGE.read_text(encoding="utf-8")
    about_others = {"run", "serve", "bench", "demo"}
    for name in COMMANDS.keys() - about_others:
        assert f"`quorate {name}" in text or f"$ quorate {name}" in text, name
        command = commands.get_command(click.Context(commands), name)
        assert command is not None
        options = {option for each in command.params for option in each.opts}
        assert {"--json", "--endpoint"} <= options, name


def test_the_page_has_every_exit_code() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in errors.__all__:
        kind = getattr(errors, name)
        if isinstance(kind, type) and "exit_code" in vars(kind):
            assert f"| {kind.exit_code} |" in text, name
