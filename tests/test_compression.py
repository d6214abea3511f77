from __future__ import annotations

import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate.compression import compress, decompress

MIB = 1024 * 1024


@given(st.binary())
def test_what_was_compressed_comes_back_if_it_may_be_as_large(data: bytes) -> None:
    assert decompress(compress(data), len(data)) == data
    if data:
        with pytest.raises(ValueError, match=f"larger than {len(data) - 1} bytes"):
            decompress(compress(data), len(data) - 1)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"no", "incorrect header"),
        (b"", "incomplete"),
        (compress(b"abc")[:-1], "incomplete"),
        (compress(b"abc")[:-1] + b"\0", "incorrect data check"),
        (compress(b"abc") + b"d", "something follows"),
    ],
    ids=["another thing", "nothing", "cut", "changed", "longer"],
)
def test_r15_anything_else_is_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decompress(data, 100)


def test_r15_what_would_become_too_large_is_not_inflated() -> None:
    bomb = zlib.compress(bytes(64 * MIB))
    assert len(bomb) < MIB / 10
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="larger"):
            decompress(bomb, MIB)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * MIB
