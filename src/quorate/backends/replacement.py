"""Put a whole new file in the place of an old one: afterwards there is the one or the other."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["replace_file", "sync_directory", "write_all"]


def replace_file(path: Path, chunks: Iterable[bytes]) -> int:
    """Write `chunks` to a file beside `path`, make them durable, and give them its name.

    Call `sync_directory` next: only then the new name survives a loss of power. Writers must
    exclude each other, since they share the name of the temporary file.

    Args:
        path: The file to replace; its directory must exist.
        chunks: The new content, in order.

    Returns:
        The descriptor of the new file, open for appending; the caller closes it.

    Raises:
        OSError: Nothing was replaced; the temporary file is removed.
    """
    temporary = temporary_path(path)
    # What is there was left by a crash; or somebody else has put a link to a file of ours there.
    temporary.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600)
    try:
        for chunk in chunks:
            write_all(descriptor, chunk)
        os.fsync(descriptor)
        temporary.replace(path)
    except BaseException:
        os.close(descriptor)
        temporary.unlink(missing_ok=True)
        raise
    return descriptor


def temporary_path(path: Path) -> Path:
    """Return the name that the replacement of `path` has until it is complete."""
    return path.with_name(path.name + ".tmp")


def sync_directory(path: Path) -> None:
    """Make the names in the directory `path` durable.

    Raises:
        OSError: The directory cannot be opened or synchronised.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, content: bytes) -> None:
    """Write all of `content`, however many writes the system makes of it.

    Raises:
        OSError: A write failed; a part may have been written.
    """
    written = os.write(descriptor, content)
    while written < len(content):
        written += os.write(descriptor, memoryview(content)[written:])
