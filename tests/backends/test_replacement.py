"""Replacing a file: all of the new one, or the old one and no trace."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quorate.backends import replacement
from quorate.backends.replacement import replace_file, sync_directory, write_all


def test_the_new_content_is_there_and_can_be_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old and longer")
    descriptor = replace_file(path, [b"new", b"er"])
    os.write(descriptor, b"!")
    os.close(descriptor)
    assert path.read_bytes() == b"newer!"
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o077 == 0


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"half"
        raise OSError("no space")

    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="no space"):
        replace_file(path, chunks())
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_crash_left_behind_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "file"
    replacement.temporary_path(path).write_bytes(b"left by a crash")
    os.close(replace_file(path, [b"new"]))
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_a_link_in_the_way_is_removed_and_not_followed(
    tmp_path: Path, link: Callable[[Path, Path], None]
) -> None:
    """Somebody else may have put it there."""
    victim, path = tmp_path / "victim", tmp_path / "file"
    victim.write_bytes(b"precious")
    link(replacement.temporary_path(path), victim)
    os.close(replace_file(path, [b"new"]))
    assert (victim.read_bytes(), path.read_bytes()) == (b"precious", b"new")
    assert sorted(tmp_path.iterdir()) == [path, victim]


def test_the_content_is_durable_before_it_has_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    synced: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(path.exists()))
    os.close(replace_file(path, [b"new"]))
    sync_directory(tmp_path)
    assert synced == [False, True]


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_write = os.write
    monkeypatch.setattr(
        os, "write", lambda descriptor, content: real_write(descriptor, content[:3])
    )
    descriptor = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    write_all(descriptor, b"0123456789")
    os.close(descriptor)
    assert (tmp_path / "file").read_bytes() == b"0123456789"
