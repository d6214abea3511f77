"""The simulator: whole runs keep the rules, a seed replays to the byte, the command reports."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any

import pytest

from quorate.coordinator.entrance.door import Door, Keys
from quorate.testing.sim import DirectWorld, SimResult, SimWorld, Violation, coordinator
from quorate.testing.sim.campaign import PART, WAYS, play

pytestmark = pytest.mark.sim

SEEDS = 60
SEEDS_OF_CI = 500

FAULTS = {
    "coordinated": [
        "killed",
        "frozen",
        "half open",
        "(up)",
        "journal lost",
        "etcd",
        "close",
        "operator",
    ],
    "direct": ["killed", "frozen", "reply to a write lost", "state lost", "unreachable", "close"],
}

COMMAND = [sys.executable, "-m", "quorate.testing.sim"]


def explained(violations: list[SimResult]) -> str:
    """Return how to see the violations again."""
    return "\n".join(f"{each.way} seed {each.seed}: {each.violation}" for each in violations)


@pytest.mark.parametrize("way", WAYS)
def test_the_rules_hold(way: str) -> None:
    tally = play(way, range(1, SEEDS + 1))
    assert not tally.violations, explained(tally.violations)
    assert tally.rounds > tally.runs, "the runs complete rounds, most of them several"
    kinds = " ".join(tally.faults)
    for kind in FAULTS[way]:
        assert kind in kinds, "what never happens is not tested"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", WAYS)
def test_the_rules_hold_at_length(way: str) -> None:
    tally = play(way, range(1000, 1000 + SEEDS_OF_CI))
    assert not tally.violations, explained(tally.violations)


@pytest.mark.parametrize("way", WAYS)
def test_a_seed_replays_to_the_byte(way: str) -> None:
    """The coordinated one with a token, whose nonces follow from the seed too."""
    program = (
        "from quorate.testing.sim.campaign import WAYS\n"
        f"world = WAYS[{way!r}](10, None)\n"
        "world.run()\n"
        "print('\\n'.join(world.trace.lines()))\n"
    )
    digests = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        output = subprocess.check_output([sys.executable, "-c", program], env=environment)
        assert len(output) > 1000
        digests.add(hashlib.sha256(output).hexdigest())
    assert len(digests) == 1


def test_some_runs_have_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    doors: list[Door] = []

    class Noted(Door):
        def __init__(self, keys: Keys, nonce: bytes) -> None:
            super().__init__(keys, nonce)
            doors.append(self)

    monkeypatch.setattr(coordinator, "Door", Noted)
    world = SimWorld(10)
    assert world.run().violation is None
    proved = [door for door in doors if door.is_open]
    assert len(proved) >= world.nodes
    assert all(door._keys.token is not None for door in doors)


def test_operators_are_heard() -> None:
    """Where there is a token too: one seed in seven has one."""
    told = []
    for seed in range(1, SEEDS + 1):
        world = SimWorld(seed, None)
        world.run()
        told += [(seed, line) for line in world.trace.lines() if "operator is told: " in line]
    said = " ".join(line for _, line in told)
    for answer in ("leaves ", "is kept out", "until the run is released", "is to have"):
        assert answer in said, "what is never carried out is not tested"
    assert any(seed % 7 == 3 for seed, _ in told)


def test_seeds_differ() -> None:
    for make in (SimWorld, DirectWorld):
        one, other = make(1, None), make(2, None)
        one.run()
        other.run()
        assert one.trace.lines() != other.trace.lines()


def test_the_command_prints_what_was_played() -> None:
    output = subprocess.check_output([*COMMAND, "--seeds", "1-3"], text=True)
    assert "coordinated: 3 runs" in output
    assert "direct: 3 runs" in output
    assert "0 violations" in output


@pytest.mark.timeout(60)
def test_several_processes_play_what_one_plays() -> None:
    seeds = range(1, PART + 2)
    assert play("coordinated", seeds, jobs=2) == play("coordinated", seeds)


def test_processes_end_with_the_one_that_started_them(until: Callable[..., Any]) -> None:
    command = [*COMMAND, "--seeds", "1-100000", "--jobs", "2"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as parent:
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        until(lambda: len(children.read_text().split()) == 3, 15, "two players and a tracker")
        players = [Path("/proc", pid) for pid in children.read_text().split()]
        parent.kill()
    until(lambda: not any(map(is_running, players)), 15, "the players' end")


def is_running(process: Path) -> bool:
    """Whether a process has not ended, though nobody may have asked for how it did."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_violations_of_other_processes_can_be_read() -> None:
    violation = copy(Violation("R1", "it was edited"))
    assert (str(violation), violation.rule) == ("R1: it was edited", "R1")


def test_the_command_refuses_what_it_does_not_know() -> None:
    for wrong in (["--ways", "sideways"], ["--seeds", "many"], ["--seeds", "9-3"]):
        done = subprocess.run([*COMMAND, *wrong], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert wrong[1] in done.stderr
