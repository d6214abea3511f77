"""A backend in one file on a local or shared directory.

Format: a header of 40 bytes (magic, the version's 16 random bytes, a CRC-32 of version and state,
the length of the state as a little-endian number of 4 bytes), then the state.
"""

from __future__ import annotations

import os
import secrets
import struct
import zlib
from pathlib import Path

from quorate.backends.base import RendezvousBackend, Token
from quorate.backends.disk import explaining_disk
from quorate.backends.lockfile import LockFile
from quorate.backends.replacement import replace_file, sync_directory
from quorate.clock import Clock
from quorate.errors import (
    RendezvousConnectionError,
    RendezvousLimitError,
    RendezvousStateError,
)

__all__ = ["FileRendezvousBackend"]

MAGIC = b"quorate state 1\n"
HEADER = struct.Struct("<16s16sII")
VERSION_BYTES = 16

# The state of 10,000 nodes takes about 4 MiB.
STATE_BYTES_MAX = 64 * 1024 * 1024
LOCK_TIMEOUT_S = 10.0


class FileRendezvousBackend(RendezvousBackend):
    """Keeps the state in a file that is replaced as a whole.

    Readers see one complete write, whenever a writer or its machine dies. Writers exclude each
    other with a lock on a file beside it, ``<name>.lock``. On a shared directory the file
    system must carry flock(2) between machines, as NFS version 4 does.

    Args:
        path: The file, the same for every node of the run; its directory must exist.
        timeout_s: How long a write waits for other writers, in seconds.
        clock: Where the time of that wait comes from.

    Raises:
        RendezvousConnectionError: The directory does not exist.
    """

    def __init__(
        self, path: Path, timeout_s: float = LOCK_TIMEOUT_S, clock: Clock | None = None
    ) -> None:
        self._path = path
        self._lock_path = path.with_name(path.name + ".lock")
        self._timeout_s = timeout_s
        self._clock = clock
        self._require_directory()

    @property
    def name(self) -> str:
        """See `RendezvousBackend`."""
        return "file"

    def get_state(self) -> tuple[bytes, Token] | None:
        """Read the file; None if there is none. Waits for no writer.

        Raises:
            RendezvousConnectionError: The file or its directory cannot be read.
            RendezvousStateError: The file is corrupt.
        """
        with explaining_disk(f"Reading the state {self._path}"):
            content = self._read()
        return None if content is None else self._unpack(content)

    def set_state(
        self, state: bytes, token: Token | None = None
    ) -> tuple[bytes, Token, bool] | None:
        """Replace the file if `token` is the current one; see `RendezvousBackend`.

        Raises:
            RendezvousConnectionError: The file cannot be written, or another writer held the
                lock for longer than the timeout.
            RendezvousLimitError: The state is larger than a state can be.
            RendezvousStateError: The file is corrupt; it was left as it is.
        """
        if len(state) > STATE_BYTES_MAX:
            raise RendezvousLimitError(
                f"A state of {len(state)} bytes was refused: the file {self._path} holds at most "
                f"{STATE_BYTES_MAX} bytes. Use fewer nodes per run."
            )
        with (
            explaining_disk(f"Writing the state {self._path}"),
            LockFile(self._lock_path, self._timeout_s, self._clock),
        ):
            current = self.get_state()
            if current is None and token is not None:
                return None
            if current is not None and not (isinstance(token, bytes) and token == current[1]):
                return *current, False
            return state, self._write(state), True

    def _read(self) -> bytes | None:
        try:
            with self._path.open("rb") as file:
                return file.read(HEADER.size + STATE_BYTES_MAX + 1)
        except FileNotFoundError:
            self._require_directory()
            return None

    def _write(self, state: bytes) -> bytes:
        version = secrets.token_bytes(VERSION_BYTES)
        header = HEADER.pack(MAGIC, version, checksum(version, state), len(state))
        os.close(replace_file(self._path, (header, state)))
        sync_directory(self._path.parent)
        return version

    def _unpack(self, content: bytes) -> tuple[bytes, bytes]:
        state = content[HEADER.size :]
        if len(content) >= HEADER.size:
            magic, version, crc, length = HEADER.unpack_from(content)
            if (magic, length, crc) == (MAGIC, len(state), checksum(version, state)):
                return state, version
        raise RendezvousStateError(
            f"The state in {self._path} is corrupt, or not quorate's; it was left as it is. "
            "If no node of the run is alive, delete the file; else start a run of another id."
        )

    def _require_directory(self) -> None:
        if not self._path.parent.is_dir():
            raise RendezvousConnectionError(
                f"The directory {self._path.parent} of the rendezvous state does not exist. "
                "Create or mount it, or correct the endpoint."
            )


def checksum(version: bytes, state: bytes) -> int:
    """Return the CRC-32 of a version and its state."""
    return zlib.crc32(state, zlib.crc32(version))
