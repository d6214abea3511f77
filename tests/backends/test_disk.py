"""What a disk refuses is told in words, with what to do about it."""

from __future__ import annotations

import errno
import os

import pytest

from quorate.backends.disk import explaining_disk
from quorate.errors import RendezvousConnectionError


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.ENOSPC, "Writing /x failed: No space left on device. Free space there."),
        (errno.EFBIG, "Writing /x failed: File too large. Raise the limit on the size of files"),
        (
            errno.ELOOP,
            "Writing /x failed: Too many levels of symbolic links. A link stands in its ",
        ),
        (errno.EIO, "Writing /x failed: Input/output error. See to that disk, or use another"),
    ],
)
def test_the_error_says_what_to_do(number: int, told: str) -> None:
    cause = OSError(number, os.strerror(number), "/x.tmp")
    with pytest.raises(RendezvousConnectionError) as caught, explaining_disk("Writing /x"):
        raise cause
    assert str(caught.value).startswith(told)
    assert caught.value.__cause__ is cause


def test_an_error_without_a_number_is_told_as_it_is() -> None:
    with (
        pytest.raises(RendezvousConnectionError, match=r"^Reading failed: gone\. See to"),
        explaining_disk("Reading"),
    ):
        raise OSError("gone")
