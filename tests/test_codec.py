from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate import codec
from quorate.codec import decode_state, encode_state
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.state import RendezvousState, World
from quorate.errors import RendezvousStateError
from tests.core.support import Run, make_settings, node

MOMENT = datetime(2020, 1, 1, 12, 30, 1, 123456, tzinfo=UTC)


def full_state(nodes: int) -> RendezvousState:
    members = tuple(NodeDesc(f"node{n}.example", 10_000 + n, 0, "0" * 16) for n in range(nodes))
    profiles = {each: NodeProfile(labels={"block": "7"}, port=29500) for each in members}
    return RendezvousState(
        epoch="cafe0123",
        round=7,
        agreed=make_settings(1, max(nodes, 1)).agreed,
        complete=True,
        participants={each: rank for rank, each in enumerate(members)},
        last_heartbeats=dict.fromkeys(members, MOMENT),
        profiles=profiles,
        world=World("cafe0123", 7, members, tuple(profiles.values())),
    )


def attach(state: RendezvousState, *nodes: NodeDesc) -> None:
    for each in nodes:
        state.last_heartbeats[each], state.profiles[each] = MOMENT, NodeProfile()


def test_a_state_comes_back_as_it_was() -> None:
    newcomer = NodeDesc("a", 1, 2, "f00d")
    state = full_state(3)
    attach(state, newcomer)
    state.deadline = MOMENT
    state.closed_reason = "naïve"
    state.wait_list = {newcomer: MOMENT}
    state.identities = {"n1": newcomer, "n2": NodeDesc("c", 1, 2)}
    state.gone = {NodeDesc("c", 1, 2): "n2"}
    state.departed = {NodeDesc("b", 1, 2): "lost"}
    assert decode_state(encode_state(state)) == state


def test_the_order_of_arrival_comes_back_as_it_was() -> None:
    """R5"""
    late, early = NodeDesc("z", 1, 0), NodeDesc("a", 1, 0)
    state = full_state(3)
    attach(state, late, early)
    state.wait_list = {late: MOMENT, early: MOMENT}
    assert list(decode_state(encode_state(state)).wait_list) == [late, early]


@pytest.mark.parametrize(
    ("nodes", "limit_bytes"), [(1, 900), (4, 1_500), (256, 70_000), (2_000, 540_000)]
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


def unsound() -> dict[str, RendezvousState]:
    """Return states that are of the right type, and that no run can have; each with its fault."""
    found: dict[str, RendezvousState] = {}

    def fresh(fault: str) -> RendezvousState:
        run = Run(2, 3)
        run.completed(node("a"), node("b"), node("c"))
        found[fault] = decode_state(encode_state(run.state))
        return found[fault]

    fresh("not attached").last_heartbeats.clear()
    fresh("no settings").agreed = None
    state = fresh("members and profiles differ")
    state.world = msgspec.structs.replace(state.world, profiles=())
    state = fresh("later round")
    state.world = msgspec.structs.replace(state.world, round=9)
    state = fresh("another epoch")
    state.world = msgspec.structs.replace(state.world, epoch="another")
    fresh("rank differs").participants[node("a")] = -1
    fresh("before the first").round = -1
    fresh("year 9999").last_heartbeats[node("a")] = datetime.max.replace(tzinfo=UTC)
    fresh("year 1").last_heartbeats[node("a")] = datetime.min.replace(tzinfo=UTC)
    fresh("timezone").deadline = datetime(2020, 1, 1)  # noqa: DTZ001
    state = fresh("positive")
    state.agreed = msgspec.structs.replace(state.agreed, join_timeout=-1.0)
    state = fresh("int")
    state.agreed = msgspec.structs.replace(state.agreed, join_timeout=1e300)
    return found


@pytest.mark.parametrize("fault", unsound())
def test_a_state_that_no_run_can_have_is_refused(fault: str) -> None:
    with pytest.raises(RendezvousStateError, match=fault):
        decode_state(encode_state(unsound()[fault]))


@pytest.mark.parametrize(
    "data", [b"\x81\xa1x" + b"\x91" * 5000 + b"\x01", b"\x81\xa5epoch\xa1\xff"]
)
def test_what_msgspec_has_no_error_of_its_own_for_is_refused(data: bytes) -> None:
    with pytest.raises(RendezvousStateError, match="corrupt"):
        decode_state(b"qrs\x01" + data)


def test_a_state_beyond_all_measure_is_not_even_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode_state(full_state(10))
    monkeypatch.setattr(codec, "STATE_BYTES_MAX", len(data) - 1)
    with pytest.raises(RendezvousStateError, match="more than"):
        decode_state(data)
