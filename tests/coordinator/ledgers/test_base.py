"""Where a coordinator keeps its journal."""

from __future__ import annotations

from pathlib import Path

import pytest

from quorate.backends.journal import Journal
from quorate.coordinator.ledgers.base import Ledger, journal_path, state_directory
from quorate.errors import RendezvousSettingsError


def test_the_given_folder_counts_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/elsewhere")
    assert state_directory("/here") == Path("/here")


def test_then_the_users_state_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/elsewhere")
    assert state_directory() == Path("/elsewhere/quorate")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert state_directory("") == Path("/home/someone/.local/state/quorate")


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(RendezvousSettingsError, match=r"state_dir, or set XDG_STATE_HOME"):
        state_directory()


def test_each_port_has_a_journal_of_its_own(tmp_path: Path) -> None:
    assert journal_path(tmp_path, 29400) == tmp_path / "coordinator-29400.journal"
    assert journal_path(tmp_path, 29400) != journal_path(tmp_path, 29401)


def test_a_journal_is_a_ledger(tmp_path: Path) -> None:
    """What is committed is there for the next coordinator, what was deleted is not."""
    path = journal_path(tmp_path, 1)
    ledger: Ledger = Journal(path)
    ledger.commit({"a": b"1", "b": b"2"})
    ledger.commit({"a": None}, durable=False)
    ledger.close()
    ledger = Journal(path)
    assert ledger.load() == {"b": b"2"}
    ledger.close()
