from __future__ import annotations

import os
from pathlib import Path

import msgspec
import numpy as np
import pytest

from quorate.demo.checkpoint import (
    CHECKPOINT_BYTES_MAX,
    Checkpoint,
    read_checkpoint,
    write_atomically,
)
from quorate.demo.classifier import WEIGHTS_SHAPE
from quorate.errors import RendezvousStateError


@pytest.fixture
def checkpoint() -> Checkpoint:
    weights = np.random.default_rng(2).normal(size=WEIGHTS_SHAPE) * 1e-3
    return Checkpoint.of(40, 7, weights)


def test_reading_returns_every_bit_that_was_written(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "digits.checkpoint"
    write_atomically(path, checkpoint.encode())
    read = read_checkpoint(path)
    assert read == checkpoint
    assert read.weights.tobytes() == checkpoint.weights.tobytes()


def test_there_is_none_before_the_first(tmp_path: Path) -> None:
    assert read_checkpoint(tmp_path / "digits.checkpoint") is None


def test_equal_weights_have_equal_digests(checkpoint: Checkpoint) -> None:
    assert Checkpoint.of(41, 8, checkpoint.weights).digest == checkpoint.digest
    assert Checkpoint.of(40, 7, checkpoint.weights + 1e-15).digest != checkpoint.digest


def test_a_damaged_file_is_named_and_the_way_out_too(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    path = tmp_path / "digits.checkpoint"
    whole = checkpoint.encode()
    mark = whole.index(b"[[") + 6
    other_digit = whole[:mark] + bytes([whole[mark] ^ 1]) + whole[mark + 1 :]
    fewer_rows = msgspec.json.encode({**msgspec.to_builtins(checkpoint), "rows": [[1.0]]})
    ragged = msgspec.json.encode({**msgspec.to_builtins(checkpoint), "rows": [[1.0], []]})
    damaged = [
        b"",
        b"\x80\x04K\x01.",
        whole[:-1],
        whole[: len(whole) // 2],
        other_digit,
        fewer_rows,
        ragged,
        whole + b" " * CHECKPOINT_BYTES_MAX,
        b"[" * CHECKPOINT_BYTES_MAX,
        whole.replace(b'"step":40', b'"step":-1'),
    ]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(RendezvousStateError, match=r"digits\.checkpoint is not .* delete it"):
            read_checkpoint(path)
        assert path.read_bytes() == content


def test_a_folder_in_its_place_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RendezvousStateError, match="reading the checkpoint"):
        read_checkpoint(tmp_path)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "digits.checkpoint"
    write_atomically(path, b"old")

    def fail(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RendezvousStateError, match="no space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RendezvousStateError, match="writing the file"):
        write_atomically(tmp_path / "nowhere" / "digits.checkpoint", b"new")
