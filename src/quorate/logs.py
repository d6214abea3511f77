"""What every line of the log says besides its words: run, round, node and rank, where known."""

from __future__ import annotations

import logging
from typing import Any

from quorate.printable import printable

__all__ = ["FIELDS", "FieldsFilter", "FieldsFormatter", "fields", "note"]

FIELDS = ("run", "round", "node", "rank")

_process: dict[str, Any] = {}


def fields(
    run: str = "", round: int | None = None, node: str = "", rank: int | None = None
) -> dict[str, Any]:
    """Return what a line is about, for a logger's `extra`; what is unknown is left out.

    Args:
        run: The id of the run.
        round: The number of the round.
        node: The node, as its descriptor names it.
        rank: Its rank.
    """
    given = {"run": run or None, "round": round, "node": node or None, "rank": rank}
    return {name: value for name, value in given.items() if value is not None}


def note(**known: Any) -> None:
    """Say what all further lines of this process are about, such as those of an agent.

    Args:
        known: Some of `FIELDS`; `None` where it is not known any more.
    """
    _process.update(known)


class FieldsFilter(logging.Filter):
    """Gives each line the fields that it has not got, as attributes; lets every line pass."""

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`."""
        for name in FIELDS:
            if not hasattr(record, name):
                setattr(record, name, _process.get(name))
        return True


class FieldsFormatter(logging.Formatter):
    """Writes the fields that are known behind the message, as in `[run=job17 rank=0]`.

    What cannot be printed is written out: a peer chooses some of the words, and neither begins a
    line of its own nor reaches the terminal with them.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        known = [
            f"{name}={value}"
            for name in FIELDS
            if (value := getattr(record, name, None)) is not None
        ]
        record.message = printable(record.message)
        message = super().formatMessage(record)
        return f"{message} [{printable(' '.join(known))}]" if known else message

    def formatException(self, ei: Any) -> str:
        """See `logging.Formatter`."""
        return "\n".join(map(printable, super().formatException(ei).split("\n")))
