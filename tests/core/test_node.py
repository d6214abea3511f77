from __future__ import annotations

import random
import re
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate.core.node import NodeDesc, NodeProfile, natural_order, natural_text


def test_repr() -> None:
    assert repr(NodeDesc("dummy_fqdn", 3, 5, "f00d")) == "dummy_fqdn_3_5"
    assert str(NodeDesc("dummy_fqdn", 3, 5)) == "dummy_fqdn_3_5"


def test_hash() -> None:
    first, same, other = NodeDesc("a", 2, 4), NodeDesc("a", 2, 4), NodeDesc("b", 2, 4)
    assert hash(first) == hash(same)
    assert {first, same, other} == {first, other}
    assert {first: 1}[same] == 1


def test_a_restarted_process_with_the_same_pid_is_another_life() -> None:
    """R12"""
    assert NodeDesc("a", 1, 0, "first") != NodeDesc("a", 1, 0, "second")


def test_a_node_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        NodeDesc("a", 1, 0).addr = "b"  # type: ignore[misc]


def test_natural_order_puts_node2_before_node10() -> None:
    """R3"""
    names = ["node10", "node2", "node1", "node02x", "10.0.0.10", "10.0.0.9"]
    ordered = sorted((NodeDesc(name, 1, 0) for name in names), key=natural_order)
    expected = ["10.0.0.9", "10.0.0.10", "node1", "node2", "node02x", "node10"]
    assert [each.addr for each in ordered] == expected


def test_natural_order_compares_address_then_pid_then_local_id() -> None:
    """R3"""
    ordered = [
        NodeDesc("a", 2, 9),
        NodeDesc("a", 10, 0),
        NodeDesc("a", 10, 1),
        NodeDesc("b", 1, 0),
    ]
    assert sorted(reversed(ordered), key=natural_order) == ordered


@pytest.mark.parametrize("text", ["²", "x¹²", "٣", "9" * 5000, "node" + "0" * 5000 + "1"])
def test_any_text_can_be_ordered(text: str) -> None:
    """R15: digits that are no numbers, and numbers that `int` refuses, come from the network."""
    assert sorted(["b", text, "1"], key=natural_text)


@given(st.lists(st.text(alphabet="ab.019²", max_size=8), unique=True), st.randoms())
def test_natural_order_is_one_order(names: list[str], chance: random.Random) -> None:
    """R3: whoever ranks, and in whatever order it met the nodes, ranks alike."""
    nodes = [NodeDesc(name, 1, 0) for name in names]
    shuffled = list(nodes)
    chance.shuffle(shuffled)
    assert sorted(nodes, key=natural_order) == sorted(shuffled, key=natural_order)


def plain_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """The order as it is meant: words as texts, runs of digits as numbers, the end first."""
    parts = re.split(r"([0-9]+)", text)
    key = [
        (0, len(part.lstrip("0")), part.lstrip("0")) if index % 2 else (1, 0, part)
        for index, part in enumerate(parts)
    ]
    return (*key, (-1, 0, text))


@given(
    st.lists(
        st.text(alphabet="ab.\0\1\2\N{LATIN SMALL LETTER Y WITH DIAERESIS}0129", max_size=8),
        max_size=8,
    )
)
def test_r3_texts_are_in_natural_order(texts: list[str]) -> None:
    assert sorted(texts, key=natural_text) == sorted(texts, key=plain_key)
    assert len(set(map(natural_text, texts))) == len(set(texts))


def test_r15_a_number_longer_than_any_is_ordered_too() -> None:
    long = "9" * (sys.maxunicode + 2)
    assert sorted([long, "n", "10", "9"], key=natural_text) == ["9", "10", long, "n"]


def test_descriptor_and_profile_survive_msgpack() -> None:
    who = NodeDesc("a", 1, 2, "life")
    profile = NodeProfile("n1", 3, {"block": "x"}, 29500, 8)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode({who: 1}), type=dict[NodeDesc, int]) == {
        who: 1
    }
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(profile), type=NodeProfile) == profile
