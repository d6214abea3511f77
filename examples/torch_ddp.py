"""Train a classifier of handwritten digits with DistributedDataParallel on gloo.

    torchrun --rdzv-backend=quorate --rdzv-endpoint=node1:29400 --rdzv-id=digits --nnodes=1:4
        --nproc-per-node=1 --max-restarts=10 examples/torch_ddp.py --checkpoint digits.pt

It needs torch and nothing else: with `quorate run` instead of `torchrun --rdzv-backend=quorate`,
and with torchrun's own rendezvous, it runs as it is.

All it does for its elasticity is to keep a checkpoint. When the world changes, the workers are
stopped and started again in the new world: rank 0 reads the checkpoint, DDP hands its parameters to
the others, and they go on where it was written. A batch is defined by the seed and the step alone
and shared out among the ranks, so that the world's size changes how fast the training is and not
what it learns.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import gzip
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = REPOSITORY / "src" / "quorate" / "demo" / "data" / "digits.csv.gz"

PIXELS = 64
PIXEL_MAX = 16
DIGITS = 10
HIDDEN = 32
# Neighbours in the file are often one writer's: taking every fifth mixes the writers.
HELD_OUT_EVERY = 5
BATCH_IMAGES = 120
LEARNING_RATE = 0.5
# How often, in seconds, rank 0 says how far it is.
REPORT_INTERVAL_S = 1.0


class Images(NamedTuple):
    """Images and the digits that they show."""

    pixels: torch.Tensor
    labels: torch.Tensor


def load_digits(path: Path) -> tuple[Images, Images]:
    """Return the images to train on, and those held out to judge by."""
    with gzip.open(path, "rt") as file:
        table = torch.tensor([[int(cell) for cell in row] for row in csv.reader(file)])
    pixels, labels = table[:, :PIXELS].double() / PIXEL_MAX, table[:, PIXELS]
    held_out = torch.arange(len(table)) % HELD_OUT_EVERY == 0
    return Images(pixels[~held_out], labels[~held_out]), Images(pixels[held_out], labels[held_out])


def new_model(seed: int) -> nn.Module:
    """Return the model that training starts from, the same at every rank."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, DIGITS)).double()


def read_checkpoint(path: Path) -> Mapping[str, Any] | None:
    """Return what `write_checkpoint` has written last, `None` if nothing."""
    if not path.exists():
        return None
    checkpoint: Mapping[str, Any] = torch.load(path, weights_only=True)
    return checkpoint


def write_checkpoint(path: Path, checkpoint: Mapping[str, Any]) -> None:
    """Replace the checkpoint: whoever is stopped on the way leaves the old one as it was."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


class Training:
    """One rank's part of the training."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.train, self.held_out = load_digits(options.data)
        self.model = new_model(options.seed)
        self.step = self.resume()
        self.parallel = DistributedDataParallel(self.model)
        self.optimizer = torch.optim.SGD(self.parallel.parameters(), lr=LEARNING_RATE)

    def resume(self) -> int:
        """Return the step to go on from. Rank 0 alone reads: the file could change in between."""
        step = torch.zeros(1, dtype=torch.int64)
        if self.rank == 0 and self.options.checkpoint is not None:
            checkpoint = read_checkpoint(self.options.checkpoint)
            if checkpoint is not None:
                self.model.load_state_dict(checkpoint["model"])
                step[0] = checkpoint["step"]
        dist.broadcast(step, src=0)
        origin = "resumed from the checkpoint" if step else "from the beginning"
        self.say(f"step {step.item()}/{self.options.steps}: {origin}, world {self.world}")
        return int(step.item())

    def run(self) -> None:
        """Train until all steps are done."""
        reported_at = time.monotonic()
        while self.step < self.options.steps:
            ends_at = time.monotonic() + self.options.step_time_ms / 1000
            self.advance()
            self.keep()
            if time.monotonic() - reported_at >= REPORT_INTERVAL_S:
                reported_at = time.monotonic()
                self.say(f"step {self.step}/{self.options.steps}: {self.score()}")
            time.sleep(max(0.0, ends_at - time.monotonic()))
        self.say(f"finished: {self.score()}, parameters {self.fingerprint()}")

    def fingerprint(self) -> str:
        """Return the same text for the same parameters, bit for bit."""
        digest = hashlib.sha256()
        for tensor in self.model.state_dict().values():
            digest.update(bytes(tensor.flatten().view(torch.uint8).tolist()))
        return digest.hexdigest()[:16]

    def advance(self) -> None:
        """Do one step: this rank's share of the batch, and DDP's mean of all ranks' gradients."""
        generator = torch.Generator().manual_seed(self.options.seed * 1_000_003 + self.step)
        batch = torch.randperm(len(self.train.labels), generator=generator)[:BATCH_IMAGES]
        share = batch[self.rank :: self.world]
        self.optimizer.zero_grad()
        outputs = self.parallel(self.train.pixels[share])
        loss = nn.functional.cross_entropy(outputs, self.train.labels[share], reduction="sum")
        # The mean over the ranks of this is the mean over the batch, however it is shared out.
        (loss * self.world / BATCH_IMAGES).backward()
        self.optimizer.step()
        self.step += 1

    def keep(self) -> None:
        """Write the checkpoint if it is due."""
        path = self.options.checkpoint
        due = self.step % self.options.checkpoint_every == 0 or self.step == self.options.steps
        if path is not None and self.rank == 0 and due:
            write_checkpoint(path, {"step": self.step, "model": self.model.state_dict()})

    def score(self) -> str:
        """Return how good the model is on the images that it was not trained on."""
        with torch.no_grad():
            outputs = self.model(self.held_out.pixels)
        loss = nn.functional.cross_entropy(outputs, self.held_out.labels).item()
        accuracy = (outputs.argmax(dim=1) == self.held_out.labels).double().mean().item()
        return f"loss {loss:.4f} accuracy {accuracy:.4f} world {self.world}"

    def say(self, line: str) -> None:
        """Print a line, once for all ranks."""
        if self.rank == 0:
            print(line, flush=True)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description="Train a classifier of handwritten digits.")
    parser.add_argument("--steps", type=int, default=400, help="steps to train (400)")
    parser.add_argument(
        "--step-time-ms", type=int, default=0, help="shortest time of a step, in ms, to watch (0)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the model and the batches (0)")
    parser.add_argument("--checkpoint", type=Path, help="a file on a disk that all machines share")
    parser.add_argument(
        "--checkpoint-every", type=int, default=20, help="steps between checkpoints (20)"
    )
    parser.add_argument("--data", type=Path, default=DATA, help="the images, as digits.csv.gz")
    options = parser.parse_args(arguments)
    if not options.data.exists():
        parser.error(
            f"there are no images at {options.data}: run the script from a checkout of quorate, or "
            "name a copy of its src/quorate/demo/data/digits.csv.gz with --data"
        )
    return options


def main() -> None:
    """Run this rank's part."""
    options = parse(sys.argv[1:])
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    try:
        Training(options).run()
        # Rank 0 keeps the store that the others use: nobody leaves before all are done.
        dist.barrier()
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
