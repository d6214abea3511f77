"""The checkpoint: what a training needs to go on, as JSON that carries its own checksum."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from quorate.demo.classifier import WEIGHTS_SHAPE, Weights
from quorate.errors import RendezvousStateError, translating

__all__ = ["Checkpoint", "read_checkpoint", "write_atomically"]

# A checkpoint of 65 x 10 weights takes 14 kB; more than this is another program's file.
CHECKPOINT_BYTES_MAX = 1024 * 1024


class Checkpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The state of a training between two steps.

    Attributes:
        step: Number of steps done.
        seed: The seed that the training was started with.
        rows: The weights, row by row; JSON keeps every bit of a float.
        digest: SHA-256 of the weights, in hexadecimal.
    """

    step: Annotated[int, msgspec.Meta(ge=0)]
    seed: Annotated[int, msgspec.Meta(ge=0)]
    rows: list[list[float]]
    digest: str

    @classmethod
    def of(cls, step: int, seed: int, weights: Weights) -> Checkpoint:
        """Return the checkpoint of a training that has done `step` steps."""
        return cls(step, seed, weights.tolist(), _digest(weights))

    @property
    def weights(self) -> Weights:
        """Return the weights as an array of its own."""
        return np.array(self.rows, dtype=np.float64)

    def encode(self) -> bytes:
        """Return the bytes that `decode` reads."""
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, content: bytes, source: str) -> Checkpoint:
        """Return the checkpoint that `content` holds.

        Args:
            content: What `encode` returned.
            source: Where the bytes come from, for the message.

        Raises:
            RendezvousStateError: The bytes are no checkpoint, or a damaged one.
        """
        try:
            if len(content) > CHECKPOINT_BYTES_MAX:
                raise ValueError(f"more than {CHECKPOINT_BYTES_MAX} bytes")
            checkpoint = msgspec.json.decode(content, type=cls)
            weights = checkpoint.weights
            if weights.shape != WEIGHTS_SHAPE or _digest(weights) != checkpoint.digest:
                raise ValueError("the weights do not match their checksum")
        except (ValueError, RecursionError) as error:
            raise RendezvousStateError(
                f"{source} is not a usable checkpoint: {error}; "
                "delete it to train from the first step, or restore an earlier copy"
            ) from error
        return checkpoint


def read_checkpoint(path: Path) -> Checkpoint | None:
    """Return the checkpoint of the file `path`, None if there is no such file.

    Raises:
        RendezvousStateError: The file cannot be read, or is no checkpoint.
    """
    with translating({OSError: RendezvousStateError}, f"reading the checkpoint {path}"):
        if not path.exists():
            return None
        with path.open("rb") as file:
            content = file.read(CHECKPOINT_BYTES_MAX + 1)
    return Checkpoint.decode(content, f"the file {path}")


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the file `path` by `content`: a reader sees the old bytes or the new, never a part.

    Raises:
        RendezvousStateError: The file cannot be written; the old one is still there.
    """
    with translating({OSError: RendezvousStateError}, f"writing the file {path}"):
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise


def _digest(weights: Weights) -> str:
    return hashlib.sha256(weights.astype("<f8").tobytes()).hexdigest()
