"""What every key-value store of quorate can do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias, runtime_checkable

from quorate.errors import StoreTimeoutError

__all__ = ["Store", "Value", "timeout_error", "to_bytes"]

# Text is stored as UTF-8.
Value: TypeAlias = bytes | str


@runtime_checkable
class Store(Protocol):
    """Keys and values that all nodes of a run see; any number of threads may call it.

    The names and the semantics are those of torch's stores. A timeout of None means the store's
    own default. Every call may raise RendezvousConnectionError where the store is remote.
    """

    def set(self, key: str, value: Value) -> None:
        """Give `key` a value, whatever it held before."""
        ...

    def get(self, key: str, timeout_s: float | None = None) -> bytes:
        """Return the value of `key`, once it is there.

        Raises:
            StoreTimeoutError: It did not appear within `timeout_s` seconds.
        """
        ...

    def add(self, key: str, amount: int) -> int:
        """Add `amount` to the number at `key`, 0 if it is absent, and return the sum.

        The number is kept as decimal text, for `get` and `compare_set`.

        Raises:
            RendezvousStateError: The key holds something else than a number.
            RendezvousLimitError: The sum does not fit into 64 bits.
        """
        ...

    def compare_set(self, key: str, expected: Value, desired: Value) -> bytes:
        """Replace the value of `key` by `desired` if it is `expected`.

        An absent key is set if `expected` is empty, and stays absent otherwise.

        Returns:
            The value after the call: `desired` if it was set; what is there if it was not;
            `expected` if the key stays absent.
        """
        ...

    def wait(self, keys: Sequence[str], timeout_s: float | None = None) -> None:
        """Return once all of `keys` are there.

        Raises:
            StoreTimeoutError: Some were missing for `timeout_s` seconds; the message names them.
        """
        ...

    def check(self, keys: Sequence[str]) -> bool:
        """Return at once whether all of `keys` are there."""
        ...

    def delete(self, key: str) -> bool:
        """Remove `key`; return whether it was there."""
        ...

    def num_keys(self) -> int:
        """Return how many keys there are."""
        ...


def to_bytes(value: Value) -> bytes:
    """Return `value` as the bytes that a store keeps."""
    return value.encode() if isinstance(value, str) else bytes(value)


def timeout_error(missing: Sequence[str], timeout_s: float) -> StoreTimeoutError:
    """Return the error of a wait that ended without the keys `missing` (R16)."""
    shown = ", ".join(repr(key) for key in missing[:5])
    more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
    return StoreTimeoutError(
        f"No value for {shown}{more} appeared in the store within {timeout_s:g} s. See whether "
        "the node that sets it is alive, or wait longer."
    )
