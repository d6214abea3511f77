"""The sum of all ranks' gradients, formed through a key-value store.

A batch is cut into a fixed number of slices, which are dealt out to the ranks: rank r of n
computes the slices r, r + n, r + 2n, ... Rank 0 gathers all of them, adds them in the order of
the slices and publishes the sum. What is added to what thus never depends on the number of
ranks, and neither does a single bit of the sum.

    gradients/<step>/<rank>   one rank's slices; deleted when rank 0 has read them
    sum/<step>                the sum; deleted when every rank has sent a later step
    start                     where training starts; deleted like a sum
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from quorate.errors import RendezvousProtocolError

__all__ = ["GradientReduction", "SharedKeys"]

# An agent that went silent is noticed within 15 s and workers may take 30 s to stop: whoever
# waits longer for a peer than this waits for one that no agent is going to replace.
PEER_TIMEOUT_S = 120.0


class SharedKeys(Protocol):
    """The part of a store that the reduction uses; the store of a worker has it."""

    def set(self, key: str, value: bytes, /) -> None:
        """Store `value` under `key`."""
        ...

    def get(self, key: str, /, timeout_s: float | None = None) -> bytes:
        """Return the value of `key`, waiting for it for at most `timeout_s` seconds."""
        ...

    def delete(self, key: str, /) -> bool:
        """Remove `key`; False if it was not there."""
        ...


class GradientReduction:
    """One rank's part in the sums of a training. Every rank calls the same methods in turn.

    Args:
        store: A store that is this round's alone.
        rank: This worker's rank.
        world_size: The number of ranks.
        slices: The number of slices of a batch, the same at every rank.
        shape: The shape of one gradient.
    """

    def __init__(
        self, store: SharedKeys, rank: int, world_size: int, slices: int, shape: tuple[int, ...]
    ) -> None:
        self._store = store
        self._rank = rank
        self._world_size = world_size
        self._slices = slices
        self._shape = shape
        self._published = ""

    def own_slices(self) -> range:
        """Return the indices of the slices that this rank computes; more ranks than slices idle."""
        return self._slices_of(self._rank)

    def share_start(self, start: bytes) -> bytes:
        """Return rank 0's `start` at every rank; the other ranks' own is not used.

        Raises:
            StoreTimeoutError: Rank 0 did not say where to start.
        """
        return self._publish("start", start) if self._rank == 0 else self._get("start")

    def sum(self, step: int, gradients: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the sum of the gradients of all slices of one step.

        Args:
            step: The number of the step; every step is summed once.
            gradients: One gradient per slice of `own_slices()`, in that order.

        Raises:
            StoreTimeoutError: A rank did not deliver its part.
            RendezvousProtocolError: A rank delivered something else.
        """
        if self._rank > 0:
            self._store.set(f"gradients/{step}/{self._rank}", gradients.tobytes())
            return self._array(self._get(f"sum/{step}"), 1, "rank 0").reshape(self._shape)
        gathered = self._gather(step, gradients)
        # Nobody sends a step without having read what was published before it.
        self._store.delete(self._published)
        total = np.asarray(gathered.sum(axis=0), dtype=np.float64)
        self._publish(f"sum/{step}", total.tobytes())
        return total

    def _gather(self, step: int, own: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        gathered = np.empty((self._slices, *self._shape))
        gathered[self.own_slices()] = own
        for rank in range(1, self._world_size):
            key = f"gradients/{step}/{rank}"
            part = self._slices_of(rank)
            gathered[part] = self._array(self._get(key), len(part), f"rank {rank}")
            self._store.delete(key)
        return gathered

    def _slices_of(self, rank: int) -> range:
        return range(rank, self._slices, self._world_size)

    def _publish(self, key: str, value: bytes) -> bytes:
        self._store.set(key, value)
        self._published = key
        return value

    def _get(self, key: str) -> bytes:
        return self._store.get(key, timeout_s=PEER_TIMEOUT_S)

    def _array(self, value: bytes, count: int, sender: str) -> npt.NDArray[np.float64]:
        shape = (count, *self._shape)
        expected_bytes = int(np.prod(shape)) * np.dtype(np.float64).itemsize
        if len(value) != expected_bytes:
            raise RendezvousProtocolError(
                f"{sender} sent {len(value)} bytes of gradients instead of {expected_bytes}: "
                "start the same version of the script everywhere"
            )
        return np.frombuffer(value, dtype=np.float64).reshape(shape)
