"""The letters: where they lie, and what of them is one."""

from __future__ import annotations

import msgspec
import pytest

from quorate.core.node import NodeProfile
from quorate.core.state import World, WorldName
from quorate.errors import RendezvousProtocolError
from quorate.etcd import letters
from quorate.etcd.letters import Answers, Keys, Words, framed, read, requests_in
from quorate.wire.frames import FrameReader, frame
from quorate.wire.messages import Failed, Join, Pong, WorldRecord, decode_reply, encode


def test_keys_of_a_run_lie_below_it_and_below_no_other() -> None:
    keys = Keys.of_run("/p", "a/b c")
    assert keys.prefix == "/p/a%2Fb%20c"
    assert keys.node("x/y") == b"/p/a%2Fb%20c/node/x%2Fy"
    assert keys.node("x").startswith(keys.nodes)
    assert keys.answer("x") == b"/p/a%2Fb%20c/answer/x"
    assert Keys.of_run("/p", "a").prefix + "/" not in keys.prefix


def test_stores_of_later_rounds_sort_behind_earlier_ones() -> None:
    keys = Keys.of_run("/p", "r")
    stores = [keys.store(WorldName("e", number)) for number in (0, 9, 10, 255, 256)]
    assert stores == sorted(stores)
    assert all(store.encode().startswith(keys.stores) for store in stores)


@pytest.mark.parametrize("letter", [Words(1, 2, 3, b"x"), Answers(1, 2, True, [(4, b"y")])])
def test_letters_are_read_as_they_were_written(letter: Words | Answers) -> None:
    assert read(msgspec.msgpack.encode(letter), type(letter)) == letter


@pytest.mark.parametrize("value", [b"", b"\x80", msgspec.msgpack.encode([-1, 0, 0, b""])])
def test_r15_what_is_no_letter_is_refused(value: bytes) -> None:
    with pytest.raises(RendezvousProtocolError, match="another `etcd_prefix`"):
        read(value, Words)


def test_requests_are_read_in_order() -> None:
    asked = [Join(number, None, 1.0, NodeProfile()) for number in (1, 2)]
    said = b"".join(frame(encode(request)) for request in asked)
    assert list(requests_in(Words(1, 0, 0, said))) == asked


def test_half_a_request_is_refused() -> None:
    with pytest.raises(RendezvousProtocolError, match="in the middle"):
        list(requests_in(Words(1, 0, 0, frame(b"abc")[:-1])))


def test_an_answer_that_is_too_large_becomes_a_failure_of_the_same_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = WorldRecord(9, World("e" * 100, 0, (), ()))
    assert framed(record) == frame(encode(record))
    monkeypatch.setattr(letters, "ANSWER_BYTES_MAX", 50)
    (body,) = FrameReader().feed(framed(record))
    failed = decode_reply(body)
    assert isinstance(failed, Failed)
    assert (failed.id, failed.code) == (9, "limit")
    assert framed(Pong(1)) == frame(encode(Pong(1)))
