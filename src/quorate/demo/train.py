"""Train a classifier of handwritten digits: the worker script of `quorate demo`.

    quorate run --standalone --nproc-per-node 3 train.py --checkpoint digits.checkpoint

Every rank computes its part of the gradient of each batch and all apply the same sum, so all hold
the same weights at all times. Rank 0 keeps a checkpoint. When a worker is lost or one is added,
the agents stop all workers and start them again in a new round; rank 0 reads the checkpoint and
tells the others where to go on. A step is defined by the seed and its number alone, so that the
weights at the end are, bit for bit, those of a run that nothing disturbed, whatever its size.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

import quorate
from quorate.clock import Clock, SystemClock
from quorate.demo.checkpoint import Checkpoint, read_checkpoint, write_atomically
from quorate.demo.classifier import WEIGHTS_SHAPE, evaluate, gradient, initial_weights
from quorate.demo.digits import load_digits
from quorate.demo.reduction import GradientReduction, SharedKeys
from quorate.errors import RendezvousError, RendezvousSettingsError

__all__ = ["Result", "Training", "main"]

# Twelve slices can be dealt out evenly to 1, 2, 3, 4, 6 and 12 ranks.
SLICES = 12
SLICE_IMAGES = 10
BATCH_IMAGES = SLICES * SLICE_IMAGES
LEARNING_RATE = 0.5
REPORT_INTERVAL_S = 1.0


class Result(msgspec.Struct, frozen=True):
    """What a training came to; `--result` writes it as JSON.

    Attributes:
        accuracy: Share of the held-out images that are recognised, 0 to 1.
        loss: Mean cross entropy on the held-out images, in nats.
        steps: Number of steps done, by all rounds together.
        resumed_from: The step at which the last round began.
        world_size: The number of ranks of the last round.
        digest: SHA-256 of the weights: equal digests mean equal trainings.
    """

    accuracy: float
    loss: float
    steps: int
    resumed_from: int
    world_size: int
    digest: str


class Training:
    """One rank's share of a training, from the checkpoint to the last step.

    Args:
        options: The parsed command line, see `parse`.
        store: The store that the ranks of this round share.
        rank: This worker's rank.
        world_size: The number of workers.
        clock: Paces the steps and the reports.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        store: SharedKeys,
        rank: int,
        world_size: int,
        clock: Clock,
    ) -> None:
        self._options = options
        self._rank = rank
        self._world_size = world_size
        self._clock = clock
        self._train, self._held_out = load_digits()
        self._reduction = GradientReduction(store, rank, world_size, SLICES, WEIGHTS_SHAPE)
        self._step = 0
        self._weights = initial_weights()
        self._reported_at = clock.monotonic()

    def run(self) -> Result:
        """Train until `--steps` steps are done, and return what came of it.

        Raises:
            StoreTimeoutError: Another rank did not deliver its part in time.
            RendezvousProtocolError: Another rank delivered something else.
            RendezvousStateError: The checkpoint is damaged, or a file cannot be written.
            RendezvousSettingsError: The checkpoint is that of a run with another seed.
        """
        self._resume()
        resumed_from = self._step
        while self._step < self._options.steps:
            ends_at = self._clock.monotonic() + self._options.step_time_ms / 1000
            self._advance()
            self._keep()
            self._report()
            self._clock.sleep(max(0.0, ends_at - self._clock.monotonic()))
        return self._finish(resumed_from)

    def _resume(self) -> None:
        """Begin where rank 0 says: were each rank to read the file, it could change in between."""
        start = Checkpoint.of(self._step, self._options.seed, self._weights)
        kept = None
        if self._rank == 0 and self._options.checkpoint:
            kept = read_checkpoint(self._options.checkpoint)
        shared = self._reduction.share_start((kept or start).encode())
        start = Checkpoint.decode(shared, "the start that rank 0 sent")
        if start.seed != self._options.seed:
            raise RendezvousSettingsError(
                f"the checkpoint {self._options.checkpoint} belongs to a training with seed "
                f"{start.seed}, this one has {self._options.seed}: give --seed {start.seed}, "
                "or another --checkpoint"
            )
        self._step, self._weights = start.step, start.weights
        origin = "resumed from checkpoint" if kept else "training from the beginning"
        self._say(f"[step {self._step}] {origin}, world {self._world_size}")

    def _advance(self) -> None:
        rows = batch_rows(self._options.seed, self._step, len(self._train))
        own = [
            gradient(self._weights, self._train.take(rows[part]))
            for part in self._reduction.own_slices()
        ]
        total = self._reduction.sum(self._step, np.array(own))
        self._weights = self._weights - LEARNING_RATE / BATCH_IMAGES * total
        self._step += 1

    def _keep(self) -> None:
        due = self._step % self._options.checkpoint_every == 0 or self._step == self._options.steps
        if self._rank == 0 and self._options.checkpoint and due:
            write_atomically(self._options.checkpoint, self._checkpoint().encode())

    def _report(self) -> None:
        now = self._clock.monotonic()
        if self._rank == 0 and now - self._reported_at >= REPORT_INTERVAL_S:
            self._reported_at = now
            score = evaluate(self._weights, self._held_out)
            self._say(
                f"[step {self._step}/{self._options.steps}] "
                f"loss {score.loss:.3f} accuracy {score.accuracy:.3f} world {self._world_size}"
            )

    def _finish(self, resumed_from: int) -> Result:
        score = evaluate(self._weights, self._held_out)
        digest = self._checkpoint().digest
        result = Result(
            score.accuracy, score.loss, self._step, resumed_from, self._world_size, digest
        )
        if self._rank == 0 and self._options.result:
            write_atomically(self._options.result, msgspec.json.encode(result))
        self._say(f"accuracy {score.accuracy:.3f} after {self._step} steps")
        return result

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint.of(self._step, self._options.seed, self._weights)

    def _say(self, line: str) -> None:
        if self._rank == 0:
            print(line, flush=True)


def batch_rows(seed: int, step: int, images: int) -> npt.NDArray[np.int64]:
    """Return the rows of the batch of `step`: one line per slice, the same at every rank."""
    generator = np.random.default_rng((seed, step))
    return generator.choice(images, (SLICES, SLICE_IMAGES), replace=False)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options of the command line; ends the process with a usage line if one is bad."""
    parser = argparse.ArgumentParser(
        prog="train.py", description="Train a classifier of handwritten digits, with all ranks."
    )
    parser.add_argument("--steps", type=_positive, default=800, help="steps to train (800)")
    parser.add_argument(
        "--step-time-ms",
        type=_not_negative,
        default=25,
        help="shortest time of a step, in ms (25): a real step is over in a few, which leaves "
        "nothing to watch; 0 trains at full speed",
    )
    parser.add_argument("--seed", type=_not_negative, default=0, help="choice of the batches (0)")
    parser.add_argument(
        "--checkpoint", type=Path, help="file to go on from, on a disk that all machines share"
    )
    parser.add_argument(
        "--checkpoint-every", type=_positive, default=20, help="steps between checkpoints (20)"
    )
    parser.add_argument("--result", type=Path, help="file for the result, as JSON")
    return parser.parse_args(arguments)


def main(
    arguments: Sequence[str],
    connect: Callable[[], SharedKeys],
    environment: Mapping[str, str] = os.environ,
) -> int:
    """Run this worker's part of the training and return the exit code of the process.

    Args:
        arguments: The command line without the name of the program.
        connect: Returns the store that the ranks of this round share.
        environment: Holds RANK and WORLD_SIZE, as an agent sets them.
    """
    options = parse(arguments)
    try:
        store = connect()
        rank, world_size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        Training(options, store, rank, world_size, SystemClock()).run()
    except RendezvousError as error:
        print(f"train.py: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


def _positive(text: str) -> int:
    return _at_least(1, text)


def _not_negative(text: str) -> int:
    return _at_least(0, text)


def _at_least(minimum: int, text: str) -> int:
    if not text.isdecimal() or int(text) < minimum:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {minimum} up")
    return int(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], quorate.worker_store))
