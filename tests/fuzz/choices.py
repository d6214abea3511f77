"""Choices that a fuzzer makes, from the bytes that it gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

FRAGMENTS_MAX = 16


class Choices:
    """Reads choices from the front of some bytes; once they are used up, all choices are 0."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        """How many bytes there still are."""
        return max(len(self._data) - self._at, 0)

    def take(self, count: int) -> bytes:
        """Return the next bytes, fewer at the end."""
        part = self._data[self._at : self._at + count]
        self._at += len(part)
        return part

    def rest(self) -> bytes:
        return self.take(self.left)

    def number(self, size: int = 1) -> int:
        return int.from_bytes(self.take(size), "big")

    def below(self, limit: int) -> int:
        if limit > 256:
            return self.number(4) % limit
        at, self._at = self._at, self._at + 1
        return self._data[at] % limit if at < len(self._data) else 0

    def one_of(self, options: Sequence[T]) -> T:
        return options[self.below(len(options))]

    def fragments(self) -> Callable[[bytes], Iterator[bytes]]:
        """Return a way to cut bytes into pieces, which come one after the other."""
        sizes = list(self.take(self.below(FRAGMENTS_MAX)))

        def cut(data: bytes) -> Iterator[bytes]:
            at = 0
            for size in sizes:
                yield data[at : at + size]
                at += size
            yield data[at:]

        return cut


def text_of(data: bytes) -> str:
    """Return bytes as a program gets them for its arguments (PEP 383)."""
    return data.decode("utf-8", "surrogateescape")
