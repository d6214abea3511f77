from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from quorate.demo.checkpoint import read_checkpoint
from quorate.demo.train import Result, Training, batch_rows, main, parse
from quorate.errors import RendezvousConnectionError, RendezvousStateError, StoreTimeoutError

from .conftest import ThreadStore

OnEveryRank = Callable[..., list[Any]]


class SleepingClock:
    """Only sleep lets its time pass."""

    def __init__(self) -> None:
        self.elapsed_s = 0.0

    def monotonic(self) -> float:
        return self.elapsed_s

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.elapsed_s, UTC)

    def sleep(self, seconds: float) -> None:
        self.elapsed_s += seconds


@pytest.fixture
def train(on_every_rank: OnEveryRank) -> Callable[..., Result]:
    """Train with some ranks, as one round with a store of its own; return rank 0's result."""

    def run(world_size: int, *arguments: object) -> Result:
        options = parse([str(argument) for argument in arguments])
        store = ThreadStore()

        def work(rank: int) -> Result:
            return Training(options, store, rank, world_size, SleepingClock()).run()

        results = on_every_rank(world_size, work)
        assert all(result == results[0] for result in results)
        return results[0]

    return run


def test_held_out_digits_are_recognised(train: Callable[..., Result]) -> None:
    result = train(2, "--steps", 400)
    assert result.accuracy > 0.93
    assert result.loss < 0.3


@pytest.mark.parametrize("world_size", [2, 3, 5, 13])
def test_the_world_size_changes_no_bit(world_size: int, train: Callable[..., Result]) -> None:
    assert train(world_size, "--steps", 20).digest == train(1, "--steps", 20).digest


def test_an_interrupted_training_ends_as_an_undisturbed_one(
    train: Callable[..., Result], tmp_path: Path
) -> None:
    undisturbed = train(3, "--steps", 50)
    kept = ["--checkpoint", tmp_path / "checkpoint", "--checkpoint-every", 10]
    assert train(3, "--steps", 10, *kept).resumed_from == 0
    assert train(2, "--steps", 27, *kept).resumed_from == 10
    last = train(4, "--steps", 50, *kept)
    assert last.resumed_from == 27
    assert last.digest == undisturbed.digest
    assert last.accuracy == undisturbed.accuracy


def test_what_came_after_the_checkpoint_is_trained_again(
    train: Callable[..., Result], tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint"

    class LostStore(ThreadStore):
        def delete(self, key: str) -> bool:
            if key == "sum/24":
                raise RendezvousConnectionError("the store is gone")
            return super().delete(key)

    options = parse(["--steps", "40", "--checkpoint", str(path)])
    with pytest.raises(RendezvousConnectionError):
        Training(options, LostStore(), 0, 1, SleepingClock()).run()
    assert read_checkpoint(path).step == 20
    resumed = train(2, "--steps", 40, "--checkpoint", path)
    assert resumed.resumed_from == 20
    assert resumed.digest == train(1, "--steps", 40).digest


def test_only_rank_0_reads_the_checkpoint(train: Callable[..., Result], tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    train(1, "--steps", 5, "--checkpoint", path)
    store = ThreadStore()
    store.set("start", path.read_bytes())
    other_machines = tmp_path / "other-machines"
    other_machines.write_bytes(b"not what rank 0 sees")
    options = parse(["--steps", "5", "--checkpoint", str(other_machines)])
    assert Training(options, store, 1, 2, SleepingClock()).run().resumed_from == 5


def test_a_finished_training_has_nothing_left_to_do(
    train: Callable[..., Result], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = ["--steps", 5, "--checkpoint", tmp_path / "checkpoint"]
    first = train(2, *kept)
    again = train(2, *kept)
    assert (again.resumed_from, again.digest) == (5, first.digest)
    assert "[step 5] resumed from checkpoint, world 2" in capsys.readouterr().out


def test_a_step_takes_at_least_its_time(capsys: pytest.CaptureFixture[str]) -> None:
    clock = SleepingClock()
    options = parse(["--steps", "60", "--step-time-ms", "50"])
    Training(options, ThreadStore(), 0, 1, clock).run()
    assert clock.elapsed_s == pytest.approx(3.0)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "[step 0] training from the beginning, world 1"
    assert [line.partition(" loss")[0] for line in lines[1:-1]] == ["[step 21/60]", "[step 41/60]"]
    assert lines[-1].startswith("accuracy 0.")
    assert lines[-1].endswith(" after 60 steps")


def test_batches_differ_by_step_and_by_seed() -> None:
    assert np.array_equal(batch_rows(1, 2, 1000), batch_rows(1, 2, 1000))
    batches = [batch_rows(1, 2, 1000), batch_rows(1, 3, 1000), batch_rows(2, 2, 1000)]
    for one, other in itertools.combinations(batches, 2):
        assert not np.array_equal(one, other)
    assert len(np.unique(batches[0])) == 120


def run_main(*arguments: object, store: Any = None) -> int:
    texts = [str(argument) for argument in arguments]
    place = {"RANK": "0", "WORLD_SIZE": "1"}
    return main([*texts, "--step-time-ms", "0"], lambda: store or ThreadStore(), place)


def test_main_writes_the_result(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    assert run_main("--steps", 3, "--result", path) == 0
    result = msgspec.json.decode(path.read_bytes(), type=Result)
    assert (result.steps, result.resumed_from, result.world_size) == (3, 0, 1)
    assert len(result.digest) == 64


def test_main_explains_a_corrupt_checkpoint_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "checkpoint"
    path.write_bytes(b"not a checkpoint")
    assert run_main("--steps", 3, "--checkpoint", path) == RendezvousStateError.exit_code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"train.py: the file {path} is not a usable checkpoint: ")
    assert "delete it" in line


def test_main_refuses_the_checkpoint_of_another_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = ["--steps", 3, "--checkpoint", tmp_path / "checkpoint"]
    assert run_main(*kept) == 0
    assert run_main(*kept, "--seed", 4) != 0
    assert "seed 0, this one has 4: give --seed 0" in capsys.readouterr().err


def test_main_reports_a_store_that_fails(capsys: pytest.CaptureFixture[str]) -> None:
    class DeafStore(ThreadStore):
        def set(self, key: str, value: bytes) -> None:
            raise StoreTimeoutError("the store did not answer")

    assert run_main("--steps", 3, store=DeafStore()) == StoreTimeoutError.exit_code
    assert capsys.readouterr().err == "train.py: the store did not answer\n"


@pytest.mark.parametrize("arguments", [["--steps", "0"], ["--seed", "-1"], ["--steps", "x"]])
def test_a_bad_number_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(arguments)
    assert "is not a whole number from" in capsys.readouterr().err
