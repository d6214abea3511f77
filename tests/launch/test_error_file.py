from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from quorate.launch.error_file import FILE_BYTES_MAX, MESSAGE_CHARACTERS_MAX, read_error


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "0.error.json"


def message_of(path: Path, content: str) -> str:
    path.write_text(content)
    error = read_error(path)
    assert error is not None
    assert error.content == content.encode()
    return error.message


@pytest.mark.parametrize(
    ("recorded", "message"),
    [
        ({"message": {"message": "ValueError: boom", "extraInfo": {}}}, "ValueError: boom"),
        ({"message": "plain"}, "plain"),
        ({"message": "two\n lines \x1b[2J"}, "two lines \\x1b[2J"),
        ({"message": {"message": {"message": "too deep"}}}, ""),
        ({"message": 3}, ""),
        ({"other": "x"}, ""),
        (["message"], ""),
        (None, ""),
    ],
)
def test_the_message_is_found_where_there_is_one(path: Path, recorded: Any, message: str) -> None:
    assert message_of(path, json.dumps(recorded)) == message


@pytest.mark.parametrize("content", ["not JSON", "[" * 100_000, '{"message": ', "\ufeff{}"])
def test_what_is_no_json_has_no_message(path: Path, content: str) -> None:
    assert message_of(path, content) == ""


def test_what_is_not_utf_8_has_no_message(path: Path) -> None:
    path.write_bytes(b'{"message": "\xff"}')
    error = read_error(path)
    assert error is not None
    assert error.message == ""


def test_a_message_has_a_largest_length(path: Path) -> None:
    message = message_of(path, json.dumps({"message": "x" * 5000}))
    assert message == "x" * (MESSAGE_CHARACTERS_MAX - 3) + "..."


def test_what_cannot_be_an_error_is_none(path: Path, tmp_path: Path) -> None:
    assert read_error(path) is None
    path.touch()
    assert read_error(path) is None
    path.write_bytes(b" " * (FILE_BYTES_MAX + 1))
    assert read_error(path) is None
    assert read_error(tmp_path) is None
    os.mkfifo(tmp_path / "pipe")
    assert read_error(tmp_path / "pipe") is None
