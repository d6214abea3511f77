from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate import codec
from quorate.codec import decode_state, encode_state
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.state import RendezvousState, World
from quorate.errors import RendezvousStateError

MOMENT = datetime(2020, 1, 1, 12, 30, 1, 123456, tzinfo=UTC)


def full_state(nodes: int) -> RendezvousState:
    members = tuple(NodeDesc(f"node{n}.example", 10_000 + n, 0, "0" * 16) for n in range(nodes))
    profiles = {node: NodeProfile(labels={"block": "7"}, port=29500) for node in members}
    return RendezvousState(
        epoch="cafe0123",
        round=7,
        complete=True,
        participants={node: rank for rank, node in enumerate(members)},
        last_heartbeats=dict.fromkeys(members, MOMENT),
        profiles=profiles,
        world=World("cafe0123", 7, members, tuple(profiles.values())),
    )


def test_a_state_comes_back_as_it_was() -> None:
    node = NodeDesc("a", 1, 2, "f00d")
    state = full_state(3)
    state.deadline = MOMENT
    state.closed_reason = "naïve"
    state.wait_list = {node: MOMENT}
    state.identities = {"n1": node}
    state.departed = {node: "lost"}
    assert decode_state(encode_state(state)) == state


def test_the_order_of_arrival_comes_back_as_it_was() -> None:
    """R5"""
    late, early = NodeDesc("z", 1, 0), NodeDesc("a", 1, 0)
    state = RendezvousState(wait_list={late: MOMENT, early: MOMENT})
    assert list(decode_state(encode_state(state)).wait_list) == [late, early]


@pytest.mark.parametrize(
    ("nodes", "limit_bytes"), [(1, 600), (4, 1_500), (256, 70_000), (2_000, 540_000)]
)
def test_encoded_size_is_within_expected_limit(nodes: int, limit_bytes: int) -> None:
    assert len(encode_state(full_state(nodes))) <= limit_bytes


@pytest.mark.parametrize("data", [b"", b"q", b"qrs", b"qrs\x01", b"xxx\x01\x80", b"\x80\x04pickle"])
def test_what_is_no_state_is_refused(data: bytes) -> None:
    with pytest.raises(RendezvousStateError):
        decode_state(data)


@given(st.binary(max_size=200))
def test_no_bytes_do_harm(data: bytes) -> None:
    """R15"""
    for candidate in (data, b"qrs\x01" + data):
        try:
            decode_state(candidate)
        except RendezvousStateError:
            continue


def test_a_state_of_another_version_is_refused_by_both_numbers() -> None:
    data = bytearray(encode_state(RendezvousState()))
    data[3] = 9
    with pytest.raises(RendezvousStateError, match=r"version 9.*version 1"):
        decode_state(bytes(data))


def test_a_state_with_a_field_of_the_wrong_type_is_refused() -> None:
    data = encode_state(RendezvousState(epoch="zz")).replace(b"\xa2zz", b"\xc4\x01z")
    with pytest.raises(RendezvousStateError, match="corrupt"):
        decode_state(data)


def test_a_state_beyond_all_measure_is_not_even_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode_state(full_state(10))
    monkeypatch.setattr(codec, "STATE_BYTES_MAX", len(data) - 1)
    with pytest.raises(RendezvousStateError, match="more than"):
        decode_state(data)
