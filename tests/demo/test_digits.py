from __future__ import annotations

import hashlib

import numpy as np

from quorate.demo import TRAINING_SCRIPT
from quorate.demo.digits import DATA, load_digits


def test_every_image_is_either_trained_on_or_held_out() -> None:
    train, held_out = load_digits()
    assert len(train) + len(held_out) == 1797
    assert len(held_out) == 360
    for digits in (train, held_out):
        assert set(digits.labels.tolist()) == set(range(10))


def test_pixels_are_scaled_and_end_in_a_constant() -> None:
    train, _ = load_digits()
    assert train.pixels.shape == (len(train), 65)
    assert (train.pixels.min(), train.pixels.max()) == (0.0, 1.0)
    assert (train.pixels[:, -1] == 1.0).all()


def test_take_keeps_images_and_labels_together() -> None:
    train, _ = load_digits()
    rows = np.array([7, 3])
    taken = train.take(rows)
    assert taken.labels.tolist() == [train.labels[7], train.labels[3]]
    assert np.array_equal(taken.pixels[1], train.pixels[3])


def test_the_data_is_the_file_that_its_readme_describes() -> None:
    content = DATA.read_bytes()
    readme = (TRAINING_SCRIPT.parent / "data" / "README.md").read_text()
    assert hashlib.sha256(content).hexdigest() in readme
    assert f"{len(content):,} bytes" in readme
