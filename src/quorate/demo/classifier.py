"""Softmax regression: weights in, probabilities, gradients and scores out. Pure functions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from quorate.demo.digits import Digits

__all__ = ["WEIGHTS_SHAPE", "Score", "Weights", "evaluate", "gradient", "initial_weights"]

Weights = npt.NDArray[np.float64]

# 64 pixels and the bias, for each of ten digits.
WEIGHTS_SHAPE = (65, 10)


class Score(NamedTuple):
    """How well weights do on some images.

    Attributes:
        loss: Mean cross entropy, in nats.
        accuracy: Share of the images that are recognised, 0 to 1.
    """

    loss: float
    accuracy: float


def initial_weights() -> Weights:
    """Return the weights that training starts from; the problem is convex, so zeros will do."""
    return np.zeros(WEIGHTS_SHAPE)


def gradient(weights: Weights, digits: Digits) -> Weights:
    """Return the gradient of the cross entropy, summed (not averaged) over `digits`."""
    errors = _probabilities(weights, digits)
    errors[np.arange(len(digits)), digits.labels] -= 1.0
    return np.asarray(digits.pixels.T @ errors, dtype=np.float64)


def evaluate(weights: Weights, digits: Digits) -> Score:
    """Return the loss and the accuracy of `weights` on `digits`."""
    probabilities = _probabilities(weights, digits)
    given_to_truth = probabilities[np.arange(len(digits)), digits.labels]
    # The smallest normal number stands in for a probability that has underflowed to zero.
    loss = -np.log(np.maximum(given_to_truth, np.finfo(np.float64).tiny)).mean()
    accuracy = (probabilities.argmax(axis=1) == digits.labels).mean()
    return Score(float(loss), float(accuracy))


def _probabilities(weights: Weights, digits: Digits) -> npt.NDArray[np.float64]:
    logits = digits.pixels @ weights
    scaled = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(scaled / scaled.sum(axis=1, keepdims=True), dtype=np.float64)
