"""What a coordinator must keep back until it is stored, as seen from beside the engine (R14)."""

from __future__ import annotations

from collections.abc import Iterable

from quorate.coordinator.engine import Batch
from quorate.coordinator.runs.outbox import Send
from quorate.testing.sim.rules import require
from quorate.wire.messages import Pong

__all__ = ["Custody"]


class Custody:
    """Checks what one life of a coordinator lets out while something is not stored yet.

    Only a pong may pass then, whatever the message says: it is the one answer that is from no
    state. All else has to come out of a batch that was stored.
    """

    def __init__(self) -> None:
        self._kept: tuple[Send, ...] | None = None
        # By identity: two messages that say the same may belong to two batches.
        self._free: dict[int, Send] = {}

    @property
    def keeps(self) -> bool:
        """Whether a batch is being stored."""
        return self._kept is not None

    def keep(self, batch: Batch) -> None:
        """Note a batch that is to be stored now."""
        require(self._kept is None, "R14", "a batch is taken before the last one is stored")
        self._kept = tuple(batch.sends)

    def release(self) -> None:
        """Note that the batch is stored."""
        self._free |= {id(send): send for send in self._kept or ()}
        self._kept = None

    def let_out(self, sends: Iterable[Send]) -> None:
        """Look at what is let out.

        Raises:
            Violation: A message is told before what it may be from is stored.
        """
        for send in sends:
            is_free = self._free.pop(id(send), None) is not None or self._kept is None
            may_pass = is_free or isinstance(send.message, Pong)
            require(may_pass, "R14", "{} is told before the batch is stored", send.message)
