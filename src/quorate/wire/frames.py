"""Frames: four bytes of length (big-endian), then that many bytes. Bytes in, bodies out; no I/O."""

from __future__ import annotations

from collections.abc import Iterator

from quorate.errors import RendezvousProtocolError

__all__ = ["FRAME_BYTES_MAX", "GREETING_BYTES_MAX", "FrameReader", "frame", "is_tls"]

# A world record of 10,000 members takes about 0.7 MB, a store value may be as large as this.
FRAME_BYTES_MAX = 4 * 1024 * 1024

# Before a peer has said who it is, it gets no more of our memory than this.
GREETING_BYTES_MAX = 16 * 1024

_HEADER_BYTES = 4


def frame(body: bytes) -> bytes:
    """Return the bytes that carry `body`.

    Raises:
        RendezvousProtocolError: The body is larger than the other side would accept.
    """
    if len(body) > FRAME_BYTES_MAX:
        raise RendezvousProtocolError(
            f"A message of {len(body)} bytes exceeds the {FRAME_BYTES_MAX} that one may have: "
            f"store large values in pieces, or elsewhere."
        )
    return len(body).to_bytes(_HEADER_BYTES, "big") + body


def is_tls(data: bytes) -> bool:
    """Return whether first bytes of a connection are TLS (RFC 8446): an alert or a handshake."""
    return data[:1] in {b"\x15", b"\x16"} and data[1:2] in {b"", b"\x03"}


class FrameReader:
    """Puts received bytes together to bodies.

    Args:
        bytes_max: The largest body that is accepted; raise it once the peer is known. It counts
            from the next body on, in the same bytes too.
    """

    __slots__ = ("_buffer", "_offset", "bytes_max")

    def __init__(self, bytes_max: int = GREETING_BYTES_MAX) -> None:
        self.bytes_max = bytes_max
        self._buffer: bytes | bytearray = b""
        self._offset = 0

    @property
    def buffered(self) -> int:
        """Return how many bytes of an unfinished frame are held."""
        return len(self._buffer) - self._offset

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take received bytes and yield the bodies that they complete, oldest first.

        Raises:
            RendezvousProtocolError: The peer announces more than it may, or speaks another
                protocol. Nothing more can be read from it.
        """
        if self.buffered:
            self._drop_read()
            self._buffer += data
        else:
            # As a rule it is one whole message, or a few: they are read where they are.
            self._buffer, self._offset = data, 0
        return self._bodies()

    def _bodies(self) -> Iterator[bytes]:
        while self.buffered >= _HEADER_BYTES:
            buffer, start = self._buffer, self._offset + _HEADER_BYTES
            header = bytes(buffer[self._offset : start])
            end = start + int.from_bytes(header, "big")
            if end - start > self.bytes_max:
                raise RendezvousProtocolError(self._refusal(header))
            if len(buffer) < end:
                break
            self._offset = end
            yield bytes(buffer[start:end])
        self._drop_read()

    def _drop_read(self) -> None:
        """Keep the unfinished frame only, where it can grow without being copied."""
        if not self.buffered:
            self._buffer, self._offset = b"", 0
        elif self._offset or isinstance(self._buffer, bytes):
            self._buffer, self._offset = bytearray(self._buffer[self._offset :]), 0

    def _refusal(self, header: bytes) -> str:
        if is_tls(header):
            return (
                "The peer speaks TLS, and this side does not: give `tls` or `tls_ca_file` with "
                "--rdzv-conf to all nodes or to none, and --tls-cert to `quorate serve`."
            )
        if header.isascii() and header.decode().isprintable():
            return (
                f"The peer sent '{header.decode()}...', which is not the protocol of quorate: "
                f"another program is on the other side. Check the host and the port."
            )
        return (
            f"The peer announced a message of {int.from_bytes(header, 'big')} bytes, more than the "
            f"{self.bytes_max} allowed: it is too large, or another program is on the other side."
        )
