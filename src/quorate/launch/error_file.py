"""The file in which a worker records why it failed: `TORCHELASTIC_ERROR_FILE` of torch's `@record`.

torch writes ``{"message": {"message": "ValueError: boom", "extraInfo": {...}}}``, other programs
``{"message": "..."}``. Any program may write anything there, or nothing.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quorate.printable import printable

__all__ = ["ERROR_FILE_VARIABLE", "RecordedError", "read_error"]

ERROR_FILE_VARIABLE = "TORCHELASTIC_ERROR_FILE"

# A call stack has some KiB.
FILE_BYTES_MAX = 1024 * 1024

MESSAGE_CHARACTERS_MAX = 1000


@dataclass(frozen=True)
class RecordedError:
    """What a worker has recorded.

    Args:
        content: The file as it is.
        message: What went wrong, in one line; empty if the file has another shape.
    """

    content: bytes
    message: str


def read_error(path: Path) -> RecordedError | None:
    """Return what a worker has recorded in a file; `None` if it is nothing that can be read."""
    try:
        # A pipe would wait for somebody to write.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError:
        return None
    if not 0 < len(content) <= FILE_BYTES_MAX:
        return None
    return RecordedError(content, _message_in(content))


def _message_in(content: bytes) -> str:
    try:
        found: Any = json.loads(content)
    except (ValueError, RecursionError):
        return ""
    for _ in range(2):
        if isinstance(found, dict):
            found = found.get("message")
    line = printable(" ".join(found.split())) if isinstance(found, str) else ""
    if len(line) > MESSAGE_CHARACTERS_MAX:
        return line[: MESSAGE_CHARACTERS_MAX - 3] + "..."
    return line
