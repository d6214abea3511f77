"""Where secrets come from, that they can be changed on the way, and that nobody sees them."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from quorate.credentials import (
    FILE_BYTES_MAX,
    FILE_VARIABLE,
    SECRET_BYTES_MAX,
    SECRET_BYTES_MIN,
    VARIABLE,
    Secrets,
    Token,
    exported,
    parse_secrets,
    token_from,
)
from quorate.errors import RendezvousSettingsError
from quorate.renewal import LOOK_EVERY_S
from quorate.testing import ManualClock

OLD, NEW, NEWEST = (name * SECRET_BYTES_MIN for name in ("o", "n", "w"))


def write(path: Path, *lines: str, mode: int = 0o600) -> Path:
    path.write_text("\n".join([*lines, ""]))
    path.chmod(mode)
    return path


def accepted(token: Token | None) -> list[str]:
    assert token is not None
    return [secret.decode() for secret in token.current().accepted]


@pytest.mark.parametrize(
    "lines",
    [(OLD,), (f"  {OLD}\t",), ("# ours", "", OLD, "   "), (f"{OLD}\r",)],
    ids=["plain", "spaces", "comments", "carriage return"],
)
def test_a_file_holds_one_secret(lines: tuple[str, ...], tmp_path: Path) -> None:
    assert accepted(Token.from_file(write(tmp_path / "token", *lines))) == [OLD]


def test_of_two_secrets_the_first_is_ones_own(tmp_path: Path) -> None:
    secrets = Token.from_file(write(tmp_path / "token", NEW, OLD)).current()
    assert (secrets.own, secrets.accepted) == (NEW.encode(), (NEW.encode(), OLD.encode()))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "holds 0 tokens"),
        ("# a comment that is long enough", "holds 0 tokens"),
        (f"{OLD}\n{NEW}\n{NEWEST}", "holds 3 tokens"),
        (f"{OLD}\nmuch-too-short", "line 2 of here has 14 bytes: it must have 16 to 512"),
        ("x" * (SECRET_BYTES_MAX + 1), "line 1 of here has 513 bytes"),
    ],
    ids=["empty", "comment", "three", "short", "long"],
)
def test_r15_what_is_no_token_is_refused_and_not_quoted(text: str, reason: str) -> None:
    with pytest.raises(RendezvousSettingsError, match=reason) as caught:
        parse_secrets(text.encode(), "here")
    assert not any(line in str(caught.value) for line in text.split("\n") if line)


def test_the_limits_are_allowed() -> None:
    for length in (SECRET_BYTES_MIN, SECRET_BYTES_MAX):
        assert parse_secrets(b"\xff" * length, "here").own == b"\xff" * length


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(RendezvousSettingsError, match=r"missing cannot be read: no such file"):
        Token.from_file(tmp_path / "missing")
    with pytest.raises(RendezvousSettingsError, match="is a directory"):
        Token.from_file(tmp_path)
    with pytest.raises(RendezvousSettingsError, match="is it the right one"):
        Token.from_file(write(tmp_path / "large", "#" * FILE_BYTES_MAX))


def test_r15_nothing_shows_a_secret(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    clock = ManualClock()
    path = write(tmp_path / "token", OLD, mode=0o644)
    token = Token.from_file(path, clock)
    write(path, NEW, "broken")
    clock.advance(LOOK_EVERY_S)
    token.current()
    shown = f"{token!r} {token} {token.current()!r} {token.current()} {caplog.text}"
    assert OLD not in shown
    assert NEW not in shown
    assert repr(Secrets(OLD.encode())) == "Secrets(<1 hidden>)"


def test_a_file_that_everybody_can_read_is_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Token.from_file(write(tmp_path / "private", OLD, mode=0o640))
    assert not caplog.records
    for _ in range(2):
        Token.from_file(write(tmp_path / "public", OLD, mode=0o644))
    (record,) = caplog.records
    assert "public: chmod 600" in record.getMessage()


class TestChange:
    @pytest.fixture(autouse=True)
    def _token(self, tmp_path: Path) -> None:
        self.clock = ManualClock()
        self.path = write(tmp_path / "token", OLD)
        self.token = Token.from_file(self.path, self.clock)
        assert accepted(self.token) == [OLD]

    def later(self) -> list[str]:
        self.clock.advance(LOOK_EVERY_S)
        return accepted(self.token)

    def test_a_file_that_has_changed_is_read_again(self) -> None:
        write(self.path, OLD, NEW)
        assert self.later() == [OLD, NEW]
        write(self.path, NEW)
        assert self.later() == [NEW]

    def test_a_file_that_was_replaced_is_read_again(self, tmp_path: Path) -> None:
        """As secrets are that are mounted into a container."""
        seen = self.path.stat()
        other = write(tmp_path / "other", NEW)
        os.utime(other, ns=(seen.st_atime_ns, seen.st_mtime_ns))
        other.rename(self.path)
        assert self.later() == [NEW]

    def test_it_is_looked_at_once_a_second(self) -> None:
        write(self.path, OLD, NEW)
        self.clock.advance(LOOK_EVERY_S * 0.9)
        assert accepted(self.token) == [OLD]
        self.clock.advance(LOOK_EVERY_S * 0.2)
        assert accepted(self.token) == [OLD, NEW]

    @pytest.mark.parametrize("broken", ["short", None], ids=["too short", "missing"])
    def test_a_broken_file_leaves_what_was_and_is_told_once(
        self, broken: str | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        if broken is None:
            self.path.unlink()
        else:
            write(self.path, broken)
        assert [self.later() for _ in range(3)] == [[OLD]] * 3
        (record,) = caplog.records
        assert "stays valid" in record.getMessage()
        write(self.path, NEW)
        assert self.later() == [NEW]


class TestEnvironment:
    def test_without_a_word_there_is_none(self) -> None:
        assert token_from(None, {}) is None

    def test_the_secret_itself(self) -> None:
        assert accepted(token_from(None, {VARIABLE: OLD})) == [OLD]

    def test_a_file_goes_before_the_secret_and_an_option_before_both(self, tmp_path: Path) -> None:
        named = str(write(tmp_path / "named", NEW))
        option = str(write(tmp_path / "option", NEWEST))
        environment = {VARIABLE: OLD, FILE_VARIABLE: named}
        assert accepted(token_from(None, environment)) == [NEW]
        assert accepted(token_from(option, environment)) == [NEWEST]

    @pytest.mark.parametrize("name", [VARIABLE, FILE_VARIABLE])
    def test_r15_an_empty_one_is_no_way_in(self, name: str) -> None:
        with pytest.raises(RendezvousSettingsError):
            token_from(None, {name: ""})

    def test_r15_an_empty_option_is_no_way_in(self) -> None:
        with pytest.raises(RendezvousSettingsError):
            token_from("", {})

    def test_a_child_gets_the_file_by_its_full_name_and_no_other_token(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(tmp_path / "token", OLD)
        monkeypatch.chdir(tmp_path)
        token = token_from("token", {})
        told = exported(token, {"A": "b", VARIABLE: NEW})
        assert told == {"A": "b", FILE_VARIABLE: str(tmp_path / "token")}
        assert accepted(token_from(None, told)) == [OLD]

    def test_a_child_gets_secrets_that_are_from_no_file(self) -> None:
        token = Token(Secrets(OLD.encode(), NEW.encode()))
        told = exported(token, {FILE_VARIABLE: "elsewhere"})
        assert accepted(token_from(None, told)) == [OLD, NEW]

    def test_a_child_gets_none_where_there_is_none(self) -> None:
        assert exported(None, {"A": "b", VARIABLE: OLD, FILE_VARIABLE: "x"}) == {"A": "b"}
