"""Stores of torch's where one of ours could stand: told apart without importing torch."""

from __future__ import annotations

import contextlib
from typing import Any

from quorate.stores.prefix import PrefixStore

__all__ = ["is_of_torch", "prefixed", "translating_foreign"]


def is_of_torch(store: Any) -> bool:
    """Return whether a store is one of torch's."""
    return any(base.__module__.partition(".")[0] == "torch" for base in type(store).__mro__)


def prefixed(prefix: str, store: Any) -> Any:
    """Return a store of the same family whose keys are those of `store`, after ``<prefix>/``."""
    if not is_of_torch(store):
        return PrefixStore(prefix, store)
    from quorate.backends import tcpstore

    return tcpstore.prefixed(prefix, store)


def translating_foreign(store: Any, doing: str) -> contextlib.AbstractContextManager[None]:
    """Return a context in which the errors of torch's stores become ours.

    Args:
        store: The store that is used in it.
        doing: What is being done, for the message.
    """
    if not is_of_torch(store):
        return contextlib.nullcontext()
    from quorate.backends import tcpstore

    return tcpstore.translating_torch(doing)
