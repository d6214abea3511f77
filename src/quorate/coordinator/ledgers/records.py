"""How a coordinator's runs lie in a ledger of keys and bytes.

The parts of a key are separated by a zero character, which neither a run id nor an epoch has; a
store key comes last and may hold anything.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

__all__ = [
    "EntryKey",
    "StoreResult",
    "amendment_key",
    "end_key",
    "entry_key",
    "parse_key",
    "result_key",
    "round_key",
    "run_key",
    "seen_key",
    "store_key",
]

# As `str` writes a number: another spelling would be another key.
_NUMBER = re.compile("0|[1-9][0-9]{0,18}")

_RUN, _AMENDMENT, _SEEN, _ENTRY, _RESULT = "run", "amendment", "seen", "entry", "result"
_ROUND, _END = "round", "end"


class EntryKey(NamedTuple):
    """A parsed key of the ledger.

    Args:
        kind: What is stored: `run`, `amendment`, `seen`, `entry`, `result`, `round` or `end`.
        run_id: The run it belongs to.
        space: For an entry, the epoch and round of its store.
        name: For an entry its key, for a result its session.
        number: For an amendment, which one it is; for a round and its end, the round.
    """

    kind: str
    run_id: str
    space: tuple[str, int] | None = None
    name: str = ""
    number: int = 0


class StoreResult(msgspec.Struct, array_like=True):
    """The last change of a store by one session, and what it was answered (R14).

    Args:
        request_id: The id of the request.
        space: The store that it changed; the result is kept as long as that store.
        answer: The encoded answer.
    """

    request_id: int
    space: tuple[str, int]
    answer: bytes


def run_key(run_id: str) -> str:
    """Return the key of a run's state."""
    return f"{_RUN}\0{run_id}"


def amendment_key(run_id: str, number: int) -> str:
    """Return the key of one amendment to a run's state."""
    return f"{_AMENDMENT}\0{run_id}\0{number}"


def seen_key(run_id: str) -> str:
    """Return the key of the moment at which a run's state was last stored."""
    return f"{_SEEN}\0{run_id}"


def entry_key(run_id: str, space: tuple[str, int], key: str) -> str:
    """Return the key of one entry of a round's store."""
    return f"{_ENTRY}\0{run_id}\0{space[0]}\0{space[1]}\0{key}"


def result_key(run_id: str, session: str) -> str:
    """Return the key of a session's last store result."""
    return f"{_RESULT}\0{run_id}\0{session}"


def store_key(key: EntryKey) -> str:
    """Return the key that was parsed, of an entry or a result of a run's stores."""
    if key.space is None:
        return result_key(key.run_id, key.name)
    return entry_key(key.run_id, key.space, key.name)


def round_key(run_id: str, number: int) -> str:
    """Return the key of the record of a round."""
    return f"{_ROUND}\0{run_id}\0{number}"


def end_key(run_id: str, number: int) -> str:
    """Return the key of the record of a round's end."""
    return f"{_END}\0{run_id}\0{number}"


def parse_key(text: str) -> EntryKey:
    """Return what a key of the ledger stands for.

    Raises:
        ValueError: It is none of the above.
    """
    kind, *rest = text.split("\0", 4)
    if kind in {_RUN, _SEEN} and len(rest) == 1:
        return EntryKey(kind, rest[0])
    if kind == _RESULT and len(rest) == 2:
        return EntryKey(kind, rest[0], name=rest[1])
    is_numbered = kind in {_AMENDMENT, _ROUND, _END} and len(rest) == 2
    if is_numbered and _NUMBER.fullmatch(rest[1]):
        return EntryKey(kind, rest[0], number=int(rest[1]))
    if kind == _ENTRY and len(rest) == 4 and _NUMBER.fullmatch(rest[2]):
        return EntryKey(kind, rest[0], (rest[1], int(rest[2])), rest[3])
    raise ValueError(f"The key {text!r} is not one of a coordinator's ledger.")
