"""A local store of keys and bytes that survives the process: an append-only log.

Format (all numbers little-endian): a header of 30 bytes (the magic, a version, eight random bytes
of salt, a CRC-32 of those), then records: the first four bytes of the salt as a mark, the length of
the body, a CRC-32, the offset up to which the file was known to be on the disk when the record was
written, and the body: a msgpack map of key to bytes, or to nil where the key is deleted. The CRC-32
is that of length, offset and body. A mark that nobody else knows keeps a value that was made to
look like a record from being taken for one.

A loss of power may take any pages of what was not on the disk yet, and leave later ones. The
offset tells such a gap, which costs what follows, from damage of what was safe, which is told.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from quorate.backends.disk import explaining_disk
from quorate.backends.lockfile import LockFile
from quorate.backends.replacement import replace_file, sync_directory, write_all
from quorate.errors import (
    RendezvousConnectionError,
    RendezvousLimitError,
    RendezvousStateError,
)
from quorate.undecodable import UNDECODABLE

__all__ = ["Journal"]

MAGIC = b"quorate journal\n"
VERSION = 2
FILE_HEADER = struct.Struct("<16sH8sI")
SALT_BYTES = 8

MARK_BYTES = 4
RECORD_HEADER = struct.Struct("<4sIIQ")
# The state of 100,000 nodes takes 20 to 40 MB; a commit has at most 32 MiB of stores beside it.
RECORD_BYTES_MAX = 320 * 1024 * 1024

# A rewrite costs the live bytes: at four times their size it is paid for by what was appended.
REWRITE_RATIO = 4
REWRITE_BYTES_MIN = 1024 * 1024
REWRITE_CHUNK_BYTES = 1024 * 1024
ENTRY_OVERHEAD_BYTES = 8

encode_body: Final = msgspec.msgpack.Encoder().encode
decode_body: Final = msgspec.msgpack.Decoder(dict[str, bytes | None]).decode


class Journal:
    """Keys and their bytes in one file, each commit all there or not at all after a crash.

    Opening takes an exclusive lock (on a file beside it, ``<name>.lock``), reads what is there
    and cuts off what a crash may have torn at the end: commits since the last durable one. Call
    `load` next. One caller at a time; call `close` at the end.

    Args:
        path: The journal; it and its directory are created where they are missing.

    Attributes:
        dropped_bytes: What was cut off the end of the file when it was opened.

    Raises:
        RendezvousConnectionError: Another process has it open, or the file cannot be used.
        RendezvousStateError: The file is damaged where it was safe on the disk, or is of another
            version.
    """

    def __init__(self, path: Path) -> None:
        self.dropped_bytes = 0
        self._path = path
        self._live: dict[str, bytes] = {}
        self._live_bytes = 0
        self._salt = b""
        self._descriptor: int | None = None
        self._end = 0
        self._synced = 0
        self._rewrite_at_bytes = REWRITE_BYTES_MIN
        self._must_rewrite = False
        self._lock = LockFile(path.with_name(path.name + ".lock"), timeout_s=0)
        with explaining_disk(f"Opening the journal {path}"):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock.acquire()
            try:
                self._open()
            except BaseException:
                self.close()
                raise

    def load(self) -> dict[str, bytes]:
        """Return a copy of every key and its bytes, as of the last commit."""
        return dict(self._live)

    def commit(self, changes: Mapping[str, bytes | None], durable: bool = True) -> None:
        """Write `changes` as one: after a crash all of them are there, or none.

        Args:
            changes: New bytes of each key, None to delete it.
            durable: Whether they, and all commits before, must survive a loss of power too.
                Otherwise they survive the end of this process only.

        Raises:
            RendezvousConnectionError: The disk is full or failed; the journal is as before
                the call, and a later commit may succeed.
            RendezvousLimitError: The changes are larger than one record may be.
        """
        body = encode_body(dict(changes))
        if len(body) > RECORD_BYTES_MAX:
            raise RendezvousLimitError(
                f"A commit of {len(body)} bytes to the journal {self._path} was refused: a record "
                f"holds at most {RECORD_BYTES_MAX} bytes. Store smaller values."
            )
        descriptor = self._ready_descriptor()
        record = pack_record(body, self._salt, self._synced)
        self._append(descriptor, record, durable)
        self._end += len(record)
        if durable:
            self._synced = self._end
        self._apply(changes)
        if self._end > self._rewrite_at_bytes:
            self._compact()

    def is_held(self) -> bool:
        """Return whether this process still has the journal, to itself."""
        return self._descriptor is not None

    def close(self) -> None:
        """Close the file and give the lock back; a second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        self._lock.release()

    def _open(self) -> None:
        content = read_journal(self._path)
        if not content:
            self._rewrite()
            return
        self._salt = check_header(content, self._path)
        self._end = self._replay(content)
        self.dropped_bytes = len(content) - self._end
        flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags)
        if self.dropped_bytes:
            os.ftruncate(self._descriptor, self._end)
        # What the last process wrote may still be on its way to the disk.
        os.fdatasync(self._descriptor)
        self._synced = self._end
        self._plan_rewrite()

    def _replay(self, content: bytes) -> int:
        """Apply every record before the first bad one; return where the last good one ends."""
        offset = FILE_HEADER.size
        while offset < len(content):
            record = unpack_record(content, offset, self._salt)
            if record is None:
                self._refuse_damage(content, offset)
                break
            self._apply(decode_record(record.body, offset, self._path))
            offset = record.end
        return offset

    def _refuse_damage(self, content: bytes, damage: int) -> None:
        """Raise if a good record says that the bad one at `damage` had been safe on the disk."""
        mark = self._salt[:MARK_BYTES]
        offset = content.find(mark, damage + 1)
        while offset >= 0:
            record = unpack_record(content, offset, self._salt)
            if record is not None and record.synced > damage:
                raise damage_error(self._path, damage)
            offset = content.find(mark, offset + 1 if record is None else record.end)

    def _apply(self, changes: Mapping[str, bytes | None]) -> None:
        for key, value in changes.items():
            previous = self._live.pop(key, None)
            if previous is not None:
                self._live_bytes -= entry_bytes(key, previous)
            if value is not None:
                self._live[key] = value
                self._live_bytes += entry_bytes(key, value)

    def _ready_descriptor(self) -> int:
        if self._descriptor is None:
            raise RendezvousConnectionError(f"The journal {self._path} is closed: open it again.")
        if self._must_rewrite:
            with explaining_disk(self._doing()):
                self._rewrite()
        return self._descriptor

    def _append(self, descriptor: int, record: bytes, durable: bool) -> None:
        with explaining_disk(self._doing()):
            try:
                write_all(descriptor, record)
                if durable:
                    self._sync(descriptor)
            except OSError:
                self._take_back(descriptor)
                raise

    def _sync(self, descriptor: int) -> None:
        try:
            os.fdatasync(descriptor)
        except OSError:
            # Which earlier pages reached the disk is unknown now, and the next sync would not
            # say (Linux reports the error once): everything has to be written anew.
            self._must_rewrite = True
            raise

    def _take_back(self, descriptor: int) -> None:
        """Remove what a failed append left at the end."""
        try:
            os.ftruncate(descriptor, self._end)
        except OSError:
            self._must_rewrite = True

    def _compact(self) -> None:
        try:
            self._rewrite()
        except OSError:
            # The commit itself is stored: only the log stays long. Try again when it has grown.
            self._rewrite_at_bytes = 2 * self._end

    def _rewrite(self) -> None:
        salt = os.urandom(SALT_BYTES)
        descriptor = replace_file(self._path, self._snapshot(salt))
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = descriptor
        self._salt = salt
        self._end = self._synced = os.fstat(descriptor).st_size
        self._plan_rewrite()
        self._must_rewrite = True
        sync_directory(self._path.parent)
        self._must_rewrite = False

    def _snapshot(self, salt: bytes) -> Iterator[bytes]:
        yield pack_header(salt)
        # The file gets its name once all of it is on the disk: a record vouches for those before.
        offset = FILE_HEADER.size
        for chunk in self._chunks():
            record = pack_record(encode_body(chunk), salt, offset)
            offset += len(record)
            yield record

    def _chunks(self) -> Iterator[dict[str, bytes]]:
        chunk: dict[str, bytes] = {}
        chunk_bytes = 0
        for key, value in self._live.items():
            chunk[key] = value
            chunk_bytes += entry_bytes(key, value)
            if chunk_bytes >= REWRITE_CHUNK_BYTES:
                yield chunk
                chunk, chunk_bytes = {}, 0
        if chunk:
            yield chunk

    def _plan_rewrite(self) -> None:
        self._rewrite_at_bytes = max(REWRITE_BYTES_MIN, REWRITE_RATIO * self._live_bytes)

    def _doing(self) -> str:
        return f"Writing to the journal {self._path}"


def entry_bytes(key: str, value: bytes) -> int:
    """Return about how many bytes one entry takes in a record."""
    return len(key) + len(value) + ENTRY_OVERHEAD_BYTES


def pack_header(salt: bytes) -> bytes:
    """Return the header of a journal whose records are salted with `salt`."""
    crc = zlib.crc32(struct.pack("<16sH8s", MAGIC, VERSION, salt))
    return FILE_HEADER.pack(MAGIC, VERSION, salt, crc)


class Record(NamedTuple):
    """A whole record of a journal.

    Attributes:
        body: What was committed.
        synced: Up to where the file was known to be on the disk when the record was written.
        end: Where the next record begins.
    """

    body: memoryview
    synced: int
    end: int


def pack_record(body: bytes, salt: bytes, synced: int) -> bytes:
    """Return the record that holds `body`, when the file is on the disk up to `synced`."""
    crc = record_crc(body, synced)
    return RECORD_HEADER.pack(salt[:MARK_BYTES], len(body), crc, synced) + body


def record_crc(body: bytes | memoryview, synced: int) -> int:
    """Return the checksum of the record that holds `body` and `synced`."""
    return zlib.crc32(body, zlib.crc32(struct.pack("<IQ", len(body), synced)))


def unpack_record(content: bytes, offset: int, salt: bytes) -> Record | None:
    """Return the record at `offset`, None if no whole one is there."""
    start = offset + RECORD_HEADER.size
    if start > len(content):
        return None
    mark, length, crc, synced = RECORD_HEADER.unpack_from(content, offset)
    end = start + length
    if mark != salt[:MARK_BYTES] or end > len(content):
        return None
    body = memoryview(content)[start:end]
    return Record(body, synced, end) if record_crc(body, synced) == crc else None


def decode_record(body: memoryview, offset: int, path: Path) -> dict[str, bytes | None]:
    """Return the changes in a record's body.

    Raises:
        RendezvousStateError: The checksum is right but the content is not a journal's.
    """
    try:
        return decode_body(body)
    except UNDECODABLE as error:
        raise damage_error(path, offset) from error


def read_journal(path: Path) -> bytes:
    """Return the content of the journal, empty if there is none yet.

    Only the header of a file that is not a journal is read, however large the file.
    """
    try:
        with path.open("rb") as file:
            header = file.read(FILE_HEADER.size)
            return header + file.read() if header.startswith(MAGIC) else header
    except FileNotFoundError:
        return b""


def check_header(content: bytes, path: Path) -> bytes:
    """Return the salt in the header of `content`.

    Raises:
        RendezvousStateError: It is no journal, a damaged one, or one of another version.
    """
    if len(content) < FILE_HEADER.size or not content.startswith(MAGIC):
        raise RendezvousStateError(
            f"The file {path} is not a journal of quorate; it was left as it is. "
            "Use another path, or move the file away."
        )
    version: int
    salt: bytes
    _, version, salt, _ = FILE_HEADER.unpack_from(content)
    if version != VERSION:
        raise RendezvousStateError(
            f"The journal {path} has format version {version}, and this is version {VERSION}. "
            "Use the quorate that wrote it, or move the file away and lose its runs."
        )
    if not content.startswith(pack_header(salt)):
        raise damage_error(path, 0)
    return salt


def damage_error(path: Path, offset: int) -> RendezvousStateError:
    """Return the error for a journal that is damaged at `offset`."""
    return RendezvousStateError(
        f"The journal {path} is damaged at byte {offset}, before its end; it was left as it is. "
        "Restore the file from a copy, or move it away and let the runs in it start anew."
    )
