from __future__ import annotations

import math

import numpy as np
import pytest

from quorate.demo.classifier import WEIGHTS_SHAPE, evaluate, gradient, initial_weights
from quorate.demo.digits import Digits, load_digits


def some_weights() -> np.ndarray:
    return np.random.default_rng(1).normal(size=WEIGHTS_SHAPE)


def some_digits(count: int = 20) -> Digits:
    return load_digits()[0].take(np.arange(count))


def test_gradient_is_the_slope_of_the_loss() -> None:
    weights, digits, width = some_weights(), some_digits(), 1e-6
    slope = gradient(weights, digits) / len(digits)
    for place in [(20, 3), (64, 9), (36, 0)]:
        offset = np.zeros(WEIGHTS_SHAPE)
        offset[place] = width
        rise = evaluate(weights + offset, digits).loss - evaluate(weights - offset, digits).loss
        assert slope[place] == pytest.approx(rise / (2 * width), abs=1e-6)


def test_gradient_of_all_is_the_sum_of_the_gradients_of_the_parts() -> None:
    weights, digits = some_weights(), some_digits()
    parts = [
        gradient(weights, digits.take(np.arange(start, start + 5))) for start in range(0, 20, 5)
    ]
    assert np.allclose(sum(parts), gradient(weights, digits), rtol=0, atol=1e-12)


def test_untrained_weights_guess() -> None:
    digits = some_digits()
    score = evaluate(initial_weights(), digits)
    assert score.loss == pytest.approx(math.log(10))
    assert score.accuracy == (digits.labels == 0).mean()


def test_a_certain_error_has_a_finite_loss() -> None:
    weights = initial_weights()
    weights[64, 1] = 1e6
    assert math.isfinite(evaluate(weights, some_digits()).loss)
