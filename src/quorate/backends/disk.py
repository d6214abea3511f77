"""What a disk that refuses something means, in words."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from quorate.errors import RendezvousConnectionError

__all__ = ["explaining_disk"]

ADVICE = {
    errno.ENOSPC: "Free space there",
    errno.EDQUOT: "Free space there, or have the quota raised",
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f)",
    errno.EROFS: "Mount it for writing, or use another path",
    errno.EACCES: "Give this user the right to it, or use another path",
    errno.EPERM: "Give this user the right to it, or use another path",
    errno.ELOOP: "A link stands in its place: remove it, or use another path",
}
ADVICE_ELSE = "See to that disk, or use another path"


@contextlib.contextmanager
def explaining_disk(doing: str) -> Iterator[None]:
    """Turn errors of the system into one that says what to do.

    Args:
        doing: What was being done, for the message: ``"Writing the state /x/y"``.

    Raises:
        RendezvousConnectionError: The system has refused it; it may be done again.
    """
    try:
        yield
    except OSError as error:
        number = error.errno or 0
        why = os.strerror(number) if number else str(error)
        advice = ADVICE.get(number, ADVICE_ELSE)
        raise RendezvousConnectionError(f"{doing} failed: {why}. {advice}.") from error
