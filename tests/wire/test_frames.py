"""Frames: whatever way bytes arrive, bodies come out whole; what is no frame is refused."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate.errors import RendezvousProtocolError
from quorate.wire.frames import (
    FRAME_BYTES_MAX,
    GREETING_BYTES_MAX,
    FrameReader,
    frame,
    is_tls,
)

BODY = b"a body of some bytes"


@given(bodies=st.lists(st.binary(max_size=50), max_size=6), cuts=st.lists(st.integers(0, 300)))
def test_bodies_come_out_whole_however_their_bytes_are_cut(
    bodies: list[bytes], cuts: list[int]
) -> None:
    data = b"".join(map(frame, bodies))
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    reader = FrameReader()
    read = []
    for start, end in pairwise(edges):
        read += reader.feed(data[start:end])
    assert read == bodies
    assert reader.buffered == 0


def test_no_prefix_of_a_frame_is_a_body() -> None:
    data = frame(BODY)
    for length in range(len(data)):
        reader = FrameReader()
        assert list(reader.feed(data[:length])) == []
        assert reader.buffered == length
        assert list(reader.feed(data[length:])) == [BODY]


def test_bodies_that_were_not_fetched_come_with_the_next_bytes() -> None:
    reader = FrameReader()
    data = frame(BODY) + frame(b"second") + frame(b"third")
    assert next(iter(reader.feed(data[:-1]))) == BODY
    assert list(reader.feed(data[-1:])) == [b"second", b"third"]


def test_r15_the_largest_body_is_read_and_a_larger_one_is_refused() -> None:
    assert list(FrameReader(5).feed(frame(b"12345"))) == [b"12345"]
    with pytest.raises(RendezvousProtocolError, match="6 bytes"):
        list(FrameReader(5).feed(frame(b"123456")))


def test_r15_a_body_is_refused_by_its_length_alone() -> None:
    reader = FrameReader()
    header = (GREETING_BYTES_MAX + 1).to_bytes(4, "big")
    assert list(reader.feed(header[:3])) == []
    with pytest.raises(RendezvousProtocolError, match=str(GREETING_BYTES_MAX)):
        list(reader.feed(header[3:]))


def test_a_greeting_raises_the_limit_for_what_follows_in_the_same_bytes() -> None:
    """A session that resumes says hello and asks again at once, large values included."""
    large = bytes(GREETING_BYTES_MAX + 1)
    reader = FrameReader()
    read = []
    for body in reader.feed(frame(BODY) + frame(large)):
        read.append(body)
        reader.bytes_max = FRAME_BYTES_MAX
    assert read == [BODY, large]


def test_bodies_before_a_refused_one_are_not_lost() -> None:
    bodies = FrameReader(len(BODY)).feed(frame(BODY) + frame(BODY + b"x"))
    assert next(bodies) == BODY
    with pytest.raises(RendezvousProtocolError):
        next(bodies)


@pytest.mark.parametrize("greeting", [b"GET / HTTP/1.1\r\n\r\n", b"SSH-2.0-x\r\n"])
def test_r15_text_of_another_protocol_is_named(greeting: bytes) -> None:
    with pytest.raises(RendezvousProtocolError, match=greeting[:4].decode() + ".*another program"):
        list(FrameReader().feed(greeting))


@pytest.mark.parametrize("record", ["16030102000100", "15030300020230"], ids=["hello", "alert"])
def test_r15_tls_is_refused_by_its_name(record: str) -> None:
    with pytest.raises(RendezvousProtocolError, match=r"speaks TLS.*--tls-cert"):
        list(FrameReader().feed(bytes.fromhex(record)))


def test_what_is_tls() -> None:
    assert is_tls(b"\x16")
    assert is_tls(b"\x15\x03\x03")
    assert not is_tls(b"\x16\x04")
    assert not is_tls(b"\x17\x03")
    assert not is_tls(b"\x00\x00\x16\x03")
    assert not is_tls(b"")


def test_r15_the_sender_refuses_what_the_receiver_would() -> None:
    assert len(frame(bytes(FRAME_BYTES_MAX))) == FRAME_BYTES_MAX + 4
    with pytest.raises(RendezvousProtocolError, match=str(FRAME_BYTES_MAX)):
        frame(bytes(FRAME_BYTES_MAX + 1))
