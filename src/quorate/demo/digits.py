"""The data set: images of handwritten digits (see data/README.md for its source and licence)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["Digits", "load_digits"]

DATA = Path(__file__).with_name("data") / "digits.csv.gz"
PIXEL_MAX = 16
# Neighbours in the file are often one writer's: taking every fifth mixes the writers.
HELD_OUT_EVERY = 5


@dataclass(frozen=True)
class Digits:
    """Images and the digits that they show.

    Attributes:
        pixels: One row per image: 64 pixels from 0 to 1, then a constant 1 for the bias.
        labels: The digit of each row, 0 to 9.
    """

    pixels: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def take(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Digits:
        """Return the images of `rows`, in that order."""
        return Digits(self.pixels[rows], self.labels[rows])


def load_digits() -> tuple[Digits, Digits]:
    """Read the images and return those to train on and those held out to judge by."""
    table = np.loadtxt(DATA, delimiter=",", dtype=np.int64)
    images, labels = table[:, :-1], table[:, -1]
    pixels = np.hstack([images / PIXEL_MAX, np.ones((len(images), 1))])
    digits = Digits(pixels, labels)
    held_out = np.arange(len(digits)) % HELD_OUT_EVERY == 0
    return digits.take(~held_out), digits.take(held_out)
