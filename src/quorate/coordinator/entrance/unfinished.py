"""Messages of which a part has come, and who goes when there is too much of them. Pure.

A part is kept until the rest is there. Who sends a large message sends on; who has said for longest
nothing more of one has the least to lose, and goes first.
"""

from __future__ import annotations

from collections import OrderedDict

from quorate.wire.frames import GREETING_BYTES_MAX

__all__ = ["Unfinished"]

# Of all connections together: many agents may store a value at the same moment.
UNFINISHED_BYTES_TOTAL_MAX = 256 * 1024 * 1024


class Unfinished:
    """Counts the parts of unfinished messages, but for small ones: nobody need go for them."""

    def __init__(self) -> None:
        self._bytes: OrderedDict[int, int] = OrderedDict()
        self._total = 0

    def note(self, number: int, size: int) -> list[int]:
        """Note what is kept of a connection's unfinished message now.

        Args:
            number: The connection.
            size: In bytes; 0 if its messages are whole.

        Returns:
            Those who have to go, which do not count any more; as a rule nobody.
        """
        self.gone(number)
        if size > GREETING_BYTES_MAX:
            self._bytes[number] = size
            self._total += size
        leaving = []
        while self._total > UNFINISHED_BYTES_TOTAL_MAX:
            longest, freed = self._bytes.popitem(last=False)
            self._total -= freed
            leaving.append(longest)
        return leaving

    def gone(self, number: int) -> None:
        """Note that a connection has ended."""
        self._total -= self._bytes.pop(number, 0)
