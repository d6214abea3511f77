"""Files that are read again when they change, and again while they cannot be used."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from quorate.errors import RendezvousSettingsError
from quorate.renewal import LOOK_EVERY_S, Renewal
from quorate.testing import ManualClock

logger = logging.getLogger("quorate.test")


class Desk:
    """A file, and what is made of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.write_text("old")
        self.reads = 0
        self.why_not = ""
        self.clock = ManualClock()
        self.renewal = Renewal(
            [path], self._read, logger, "What was read before stays.", "it has changed", self.clock
        )

    def _read(self) -> str:
        self.reads += 1
        if self.why_not:
            raise RendezvousSettingsError(self.why_not)
        return self.path.read_text()

    def later(self) -> str:
        self.clock.advance(LOOK_EVERY_S)
        return self.renewal.current()


@pytest.fixture
def desk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Desk:
    caplog.set_level(logging.INFO)
    return Desk(tmp_path / "file")


def test_what_has_not_changed_is_read_once(desk: Desk) -> None:
    assert [desk.later() for _ in range(3)] == ["old"] * 3
    assert desk.reads == 1


def test_what_has_changed_is_read_once_a_second_at_most(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.path.write_text("newer")
    assert desk.renewal.current() == "old"
    assert [desk.later() for _ in range(3)] == ["newer"] * 3
    assert desk.reads == 2
    assert caplog.messages == ["it has changed"]


def test_what_could_not_be_read_for_a_moment_is_read_in_the_next(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """Too many open files, say: nothing about the file changes when they are fewer."""
    desk.path.write_text("newer")
    for why in ("no file left", "no file left", "no memory left"):
        desk.why_not = why
        assert desk.later() == "old"
    desk.why_not = ""
    assert [desk.later() for _ in range(2)] == ["newer"] * 2
    assert desk.reads == 5
    assert caplog.messages == [
        "no file left What was read before stays.",
        "no memory left What was read before stays.",
        "it has changed",
    ]


def test_a_failure_that_comes_again_after_a_success_is_told_again(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    for text in ("newer", "newest"):
        desk.path.write_text(text)
        desk.why_not = "no file left"
        desk.later()
        desk.why_not = ""
        assert desk.later() == text
    assert len(caplog.messages) == 4


def test_a_file_whose_rights_change_is_looked_at(desk: Desk) -> None:
    """As by one that is written by root, and given to its user then."""
    seen = desk.path.stat()
    # The system's clock for files goes on every few milliseconds.
    while desk.path.stat().st_ctime_ns == seen.st_ctime_ns:
        desk.path.chmod(0o600)
    assert desk.path.stat().st_mtime_ns == seen.st_mtime_ns
    desk.later()
    assert desk.reads == 2


def test_a_file_that_is_gone_is_a_change(desk: Desk) -> None:
    os.unlink(desk.path)
    desk.why_not = "no such file"
    assert desk.later() == "old"
    assert desk.reads == 2


def test_files_that_cannot_be_used_are_refused_at_once(tmp_path: Path) -> None:
    def fail() -> None:
        raise RendezvousSettingsError("no such file")

    with pytest.raises(RendezvousSettingsError):
        Renewal([tmp_path / "missing"], fail, logger, "", "")
