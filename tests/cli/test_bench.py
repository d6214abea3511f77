"""What `quorate bench` makes of its command line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from quorate.bench.figures import Row, Sample
from quorate.bench.measuring import BENCHES
from quorate.cli import bench
from quorate.coordinator.engine import NODES_MAX


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    asked: list[tuple[Any, ...]] = []

    def measure(*arguments: Any) -> list[Row]:
        asked.append(arguments)
        return [Row("quorate", 8, [Sample({"seconds": 1.0})])]

    monkeypatch.setattr(bench, "measure", measure)
    return asked


def test_sizes_backends_and_options_are_handed_on(asked: list[tuple[Any, ...]]) -> None:
    arguments = ["join", "--nodes", "8,64", "--backend", "floor", "--backend", "quorate"]
    arguments += ["--repeat", "3", "--limit", "5", "--load-processes", "2", "--connected"]
    result = CliRunner().invoke(bench.command, arguments)
    assert result.exit_code == 0, result.output
    ((name, backends, sizes, repeat, options, conf, _),) = asked
    assert (name, backends, sizes, repeat, conf) == ("join", ("floor", "quorate"), (8, 64), 3, "")
    assert (options.limit_s, options.load_processes, options.connected) == (5.0, 2, True)
    assert result.output.splitlines()[1].split()[:2] == ["8", "quorate"]


@pytest.mark.parametrize(
    "sizes", ["", "0", "20001", "8,,9", "8;9", "-1", "eight", "2,2", "9" * 5000]
)
def test_sizes_that_are_none_are_refused(asked: list[tuple[Any, ...]], sizes: str) -> None:
    result = CliRunner().invoke(bench.command, ["join", "--nodes", sizes])
    assert result.exit_code == 2
    assert "N[,N...]" in result.output
    assert asked == []


def test_a_simulation_may_have_as_many_nodes_as_a_run(asked: list[tuple[Any, ...]]) -> None:
    result = CliRunner().invoke(bench.command, ["simulate", "--nodes", f"2,{NODES_MAX}", "--json"])
    assert result.exit_code == 0, result.output
    ((name, backends, sizes, repeat, options, conf, _),) = asked
    assert (name, backends, sizes, repeat) == ("simulate", ("quorate",), (2, NODES_MAX), 1)
    assert (options.limit_s, conf) == (300.0, "")
    assert json.loads(result.output)["options"] == {"repeat": 1, "limit_s": 300.0}
    for size in (1, NODES_MAX + 1):
        refused = CliRunner().invoke(bench.command, ["simulate", "--nodes", str(size)])
        assert refused.exit_code == 2
        assert f"each from 2 to {NODES_MAX}" in refused.output


def test_there_is_a_command_for_every_benchmark() -> None:
    assert bench.command.commands.keys() == BENCHES.keys()
