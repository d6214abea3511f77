"""Values of the protocol's types, made from the bytes that a fuzzer gives.

How a type is made follows from its annotations: a message that is added to the protocol is fuzzed
without a change here.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache

import msgspec

from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.settings import PROTOCOL_VERSION, RANK_POLICIES, AgreedSettings
from quorate.wire.messages import (
    FAILED,
    ROLE_AGENT,
    ROLE_OPERATOR,
    ROLE_STORE,
    SUCCEEDED,
    Hello,
)
from tests.fuzz.choices import Choices

Maker = Callable[[Choices], typing.Any]

COUNT_MAX = 3

AGREED = AgreedSettings(
    protocol_version=PROTOCOL_VERSION,
    min_nodes=1,
    max_nodes=3,
    join_timeout=30.0,
    last_call_timeout=0.5,
    regroup_timeout=1.0,
    keep_alive_interval=0.5,
    keep_alive_max_attempt=3,
    rank_policy="stable",
    reconnect_grace=0.3,
    failures_max=2,
    failures_window=2.0,
    cool_down=1.0,
)


def one_of(*values: object) -> Maker:
    """Return what chooses among values; one that is named twice is chosen twice as often."""
    return lambda choices: choices.one_of(values)


def made_by(*makers: Maker) -> Maker:
    return lambda choices: choices.one_of(makers)(choices)


def several(make: Maker, count_max: int = COUNT_MAX) -> Maker:
    return lambda choices: tuple(make(choices) for _ in range(choices.below(count_max + 1)))


def built(kind: Callable[..., object], *makers: Maker) -> Maker:
    return lambda choices: kind(*[make(choices) for make in makers])


def pairs(key: Maker, value: Maker) -> Maker:
    entries = several(built(lambda *pair: pair, key, value), 2)
    return lambda choices: dict(entries(choices))


def bounded(make: Maker, limits: msgspec.Meta) -> Maker:
    """Return what makes values that can be decoded; others are refused unseen."""
    least = limits.ge
    return make if least is None else lambda choices: max(make(choices), least)


SECONDS = one_of(0.0, 0.5, 2.0, 1e9, -1.0, -1e12, float("inf"))
SPACE = built(lambda *space: space, one_of("e1", "e2", "e3", ""), one_of(0, 1, 2))
MAYBE_SPACE = made_by(one_of(None), SPACE)
INCARNATION = one_of("s1", "s2")
POLICY = one_of(*RANK_POLICIES)

# What counts is chosen often: fields of these names.
BY_NAME: dict[str, Maker] = {
    "version": one_of(*[PROTOCOL_VERSION] * 9, 0),
    "role": one_of(*[ROLE_AGENT] * 6, ROLE_STORE, ROLE_OPERATOR, ""),
    "run_id": one_of(*["run"] * 6, "run2", ""),
    "session": one_of("s1", "s2", "s3"),
    "incarnation": INCARNATION,
    "outcome": one_of("", FAILED, SUCCEEDED, "?"),
    "space": SPACE,
    "holding": MAYBE_SPACE,
    "after": MAYBE_SPACE,
    "key": one_of("k", "l", "x" * 1100),
    "keys": several(one_of("k", "l")),
    "for_s": one_of(None, 0.0, 1.0, 1e9, float("inf")),
    "nodes": one_of(None, 0, 1, 2, 3, 4),
    "rank_policy": POLICY,
}

NODE = built(NodeDesc, one_of("a", "b2", "b10"), one_of(1), one_of(0), INCARNATION)
PROFILE = built(
    NodeProfile,
    one_of("", "", "", "n1"),
    one_of(None, -1, 0, 1, 2),
    one_of({}, {"block": "1"}, {"block": "2"}),
    one_of(0, 29400, 65535),
    one_of(1, 2, 0, 65536),
)


def odd_settings(choices: Choices) -> AgreedSettings:
    return msgspec.structs.replace(
        AGREED,
        min_nodes=choices.below(4),
        max_nodes=choices.one_of([1, 2, 2**63]),
        rank_policy=POLICY(choices),
        join_timeout=SECONDS(choices),
        node_unit=choices.below(3),
    )


def moment(choices: Choices) -> datetime:
    year, day = choices.one_of([(2020, 2), (1, 1), (9999, 31)])
    return datetime(year, 12, day, 12, 30, 15, 250, choices.one_of([UTC, None]))


BY_TYPE: dict[object, Maker] = {
    int: one_of(0, 1, 2, 3, 4, -1, 2**31, 2**63 - 1, -(2**63), 2**64 - 1),
    float: SECONDS,
    str: one_of("", "a", "b", "b2", "b10", "x" * 1100, "\0", "é\n{}"),
    bytes: one_of(b"", b"1", b"x", b"-9", b"9" * 30),
    bool: one_of(False, True),
    type(None): one_of(None),
    datetime: moment,
    NodeDesc: NODE,
    NodeProfile: PROFILE,
    AgreedSettings: made_by(one_of(AGREED), one_of(AGREED), odd_settings),
}


@cache
def maker_of(kind: typing.Any) -> Maker:
    """Return what makes values of a type, as it stands in an annotation."""
    if kind in BY_TYPE:
        return BY_TYPE[kind]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return one_of(*arguments)
    if origin is typing.Annotated:
        return bounded(maker_of(arguments[0]), arguments[1])
    if origin is tuple and arguments[-1] is ...:
        return several(maker_of(arguments[0]))
    if origin is tuple:
        return built(lambda *items: items, *map(maker_of, arguments))
    if origin is dict:
        return pairs(*map(maker_of, arguments))
    if origin in {types.UnionType, typing.Union}:
        return made_by(*map(maker_of, arguments))
    return struct_of(kind)


def struct_of(kind: type[msgspec.Struct]) -> Maker:
    """Return what makes messages or records of a type."""
    hints = typing.get_type_hints(kind, include_extras=True)
    if hints.get("node") is str:
        hints["node"] = typing.Literal["a", "b2", "n1", "0", "1", ""]
    fields = kind.__struct_fields__
    return built(kind, *(BY_NAME.get(field) or maker_of(hints[field]) for field in fields))


GREETING = built(
    Hello,
    one_of(PROTOCOL_VERSION),
    one_of(ROLE_AGENT),
    one_of("run"),
    BY_NAME["session"],
    NODE,
    PROFILE,
    one_of(AGREED),
    MAYBE_SPACE,
)
