"""What msgspec raises, for the versions of it that are in use."""

from __future__ import annotations

import msgspec
import pytest

from quorate.undecodable import UNDECODABLE


class Thing(msgspec.Struct, array_like=True):
    text: str


@pytest.mark.parametrize(
    "data",
    [b"", b"\xc1", b"\x90", b"\x91\x01", b"\x91\xa1\xff", b"\x92\xa1a" + b"\x91" * 5000 + b"\x01"],
    ids=["nothing", "no msgpack", "too short", "another type", "no UTF-8", "too deep"],
)
def test_whatever_cannot_be_decoded_is_one_of_these(data: bytes) -> None:
    with pytest.raises(UNDECODABLE):
        msgspec.msgpack.decode(data, type=Thing)


@pytest.mark.parametrize(
    "data", [b"[", b'["\xff"]', b'["a",' + b"[" * 5000], ids=["cut", "no UTF-8", "too deep"]
)
def test_nor_json(data: bytes) -> None:
    with pytest.raises(UNDECODABLE):
        msgspec.json.decode(data, type=Thing)
