"""A round's store at the coordinator, as agents and workers use it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from quorate.coordinator.agent.answers import Kind, answered
from quorate.coordinator.agent.client import Client
from quorate.stores.base import Value as StoreValue
from quorate.stores.base import to_bytes
from quorate.wire.messages import (
    AddNumber,
    Answer,
    CheckKeys,
    CompareSet,
    CountKeys,
    DeleteKey,
    Flag,
    GetValue,
    Number,
    Request,
    SetValue,
    Value,
    WaitKeys,
)

__all__ = ["RemoteStore"]

# What a caller that names no timeout gets; PyTorch's stores have the same.
TIMEOUT_S = 300.0

# How much longer than the coordinator, who counts the time, the caller waits at least.
ANSWER_SLACK_S = 30.0


class RemoteStore:
    """A `quorate.stores.base.Store` of one round; it is removed two rounds later.

    A coordinator that restarts, or a connection that breaks, costs time and nothing else: calls
    are repeated, and a change that was carried out is not carried out again (R14).

    Args:
        client: The session to use.
        space: Epoch and round.
        timeout_s: How long calls wait that name no timeout of their own.
        owns_client: Whether the session is the store's alone, and ends with it.
    """

    def __init__(
        self,
        client: Client,
        space: tuple[str, int],
        timeout_s: float = TIMEOUT_S,
        owns_client: bool = False,
    ) -> None:
        self._client = client
        self._space = space
        self._timeout_s = timeout_s
        self._owns_client = owns_client

    def set(self, key: str, value: StoreValue) -> None:
        """Give a key a value."""
        self._change(lambda id: SetValue(id, self._space, key, to_bytes(value)), Flag)

    def get(self, key: str, timeout_s: float | None = None) -> bytes:
        """Return a key's value, waiting for it if need be.

        Raises:
            StoreTimeoutError: It did not appear in time.
        """
        wait_s = self._timeout_s if timeout_s is None else timeout_s
        answer = self._ask(lambda id: GetValue(id, self._space, key, wait_s), wait_s)
        return answered(answer, Value).value

    def add(self, key: str, amount: int) -> int:
        """Add to a decimal number, 0 if it is absent, and return the sum."""
        return self._change(lambda id: AddNumber(id, self._space, key, amount), Number).value

    def compare_set(self, key: str, expected: StoreValue, desired: StoreValue) -> bytes:
        """Replace a value if it is the expected one, and return the value after the call."""
        old, new = to_bytes(expected), to_bytes(desired)
        return self._change(lambda id: CompareSet(id, self._space, key, old, new), Value).value

    def wait(self, keys: Sequence[str], timeout_s: float | None = None) -> None:
        """Return once all keys are there.

        Raises:
            StoreTimeoutError: They did not appear in time.
        """
        wait_s = self._timeout_s if timeout_s is None else timeout_s
        names = tuple(keys)
        self._ask(lambda id: WaitKeys(id, self._space, names, wait_s), wait_s)

    def check(self, keys: Sequence[str]) -> bool:
        """Return whether all keys are there now."""
        names = tuple(keys)
        answer = self._ask(lambda id: CheckKeys(id, self._space, names), 0.0)
        return answered(answer, Flag).value

    def delete(self, key: str) -> bool:
        """Remove a key, and return whether it was there."""
        return self._change(lambda id: DeleteKey(id, self._space, key), Flag).value

    def num_keys(self) -> int:
        """Return the number of keys of the round."""
        answer = self._ask(lambda id: CountKeys(id, self._space), 0.0)
        return answered(answer, Number).value

    def close(self) -> None:
        """End the store's session; one that it shares, as with an agent, goes on."""
        if self._owns_client:
            self._client.close()

    def _change(self, make_request: Callable[[int], Request], kind: type[Kind]) -> Kind:
        return answered(self._client.change(make_request, self._timeout_s), kind)

    def _ask(self, make_request: Callable[[int], Request], wait_s: float) -> Answer:
        # The coordinator counts the time, and says what is missing. While there is none, a call
        # goes on for as long as one of this store may take at all (R11).
        return self._client.call(make_request, wait_s + max(self._timeout_s, ANSWER_SLACK_S))
