"""A coordinator and its agents without sockets: the figures are those of the protocol."""

from __future__ import annotations

import json

import pytest

from quorate.bench import simulation
from quorate.bench.figures import MEASURES, growth_exponent
from quorate.bench.simulation import main, simulate


@pytest.mark.parametrize("backend", ["quorate", "memory"])
def test_it_has_every_figure(backend: str) -> None:
    figures = simulate(60, backend)
    assert figures.keys() == {measure.name for measure in MEASURES["simulate"]}
    # The memory of this process has been used before.
    del figures["held_bytes_per_node"], figures["peak_bytes_per_node"]
    assert all(value >= 0 for value in figures.values())


def test_messages_are_those_of_the_model() -> None:
    """docs/scaling.md: what a node says and is told, whatever the number of nodes."""
    figures = simulate(100, "memory")
    assert (figures["join_up_per_node"], figures["join_down_per_node"]) == (2, 2)
    assert figures["steady_up_per_node_per_s"] == pytest.approx(0.4)
    # The last one is lost, and the others are told, come back, and are told their places.
    for name in ("loss_down", "regroup_up", "regroup_down", "reattach_up"):
        assert figures[f"{name}_per_node"] == 0.99
    # Who comes back is welcomed, and told what holds.
    assert figures["reattach_down_per_node"] == 1.98
    assert figures["loss_up_per_node"] == 0
    assert figures["steady_up_bytes_per_node_per_s"] < 4
    assert figures["join_up_bytes_per_node"] < 500
    assert figures["join_down_bytes_per_node"] < 100


def test_a_join_of_many_ticks_has_beats_and_explanations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "ARRIVALS_PER_S", 20)
    figures = simulate(80, "memory")
    assert 2 < figures["join_up_per_node"] < 4
    assert 2 < figures["join_down_per_node"] < 5


def test_bytes_of_a_node_do_not_grow() -> None:
    small, large = simulate(100, "quorate"), simulate(800, "quorate")
    for name in ("join_up_bytes", "join_down_bytes", "join_stored_bytes", "loss_down_bytes"):
        power = growth_exponent((100, small[f"{name}_per_node"]), (800, large[f"{name}_per_node"]))
        assert power < 0.3, name


def test_agents_that_come_back_too_late_are_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """R8: whoever is not heard of for 15 s after a restart is lost."""
    monkeypatch.setattr(simulation, "RETURNS_PER_S", 4)
    with pytest.raises(AssertionError, match="have come back"):
        simulate(70, "memory")


def test_the_program_prints_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["simulation", "2", "memory"])
    main()
    assert json.loads(capsys.readouterr().out)["world_parts"] == 1
