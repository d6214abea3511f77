"""Compression of what repeats itself, and a limit on what it may become when it is read."""

from __future__ import annotations

import zlib

__all__ = ["compress", "decompress"]

# The state of ten thousand nodes compresses to about a sixth at the fastest level.
LEVEL = 1


def compress(data: bytes) -> bytes:
    """Return bytes that `decompress` reads."""
    return zlib.compress(data, LEVEL)


def decompress(data: bytes, bytes_max: int) -> bytes:
    """Return what was compressed.

    No more is inflated than may come of it: a few bytes can stand for a thousand times as many.

    Args:
        data: What `compress` has returned.
        bytes_max: How many bytes may come of it.

    Raises:
        ValueError: It is something else, incomplete, or would be larger.
    """
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(data, bytes_max + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(content) > bytes_max:
        raise ValueError(f"it would be larger than {bytes_max} bytes when decompressed")
    if not stream.eof:
        raise ValueError("it is incomplete")
    if stream.unused_data:
        raise ValueError("something follows it")
    return content
