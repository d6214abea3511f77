"""Inputs that broke a promise once, by what it was; each is given to its target in every run."""

from __future__ import annotations

from datetime import datetime

import msgspec

from quorate.codec import decode_state, encode_state
from quorate.coordinator.ledgers.records import StoreResult
from tests.fuzz.seeds import STATES, ledger_of

TOO_DEEP = b"\x91" * 5000 + b"\x01"
DIGITS = b"9" * 5000


def record(kind: int, value: bytes, key: bytes = b"") -> bytes:
    """Return what the target `ledger` makes a record of."""
    return bytes([kind]) + key + len(value).to_bytes(4, "big") + value


def state_with(field: str, value: object) -> bytes:
    state = msgspec.msgpack.decode(STATES[2][4:])
    return STATES[2][:4] + msgspec.msgpack.encode(state | {field: value})


def world_with(**changes: object) -> bytes:
    world = msgspec.msgpack.decode(STATES[2][4:])["world"]
    return state_with("world", world | changes)


def agreed_with(**changes: object) -> bytes:
    agreed = msgspec.msgpack.decode(STATES[2][4:])["agreed"]
    return state_with("agreed", agreed | changes)


def naive() -> bytes:
    state = decode_state(STATES[2])
    state.last_heartbeats = {each: datetime(2020, 1, 1) for each in state.last_heartbeats}  # noqa: DTZ001
    return encode_state(state)


FINDINGS: dict[str, tuple[str, bytes]] = {
    "text that is not UTF-8 in a request": ("words", b"\x93\x03\x01\xa2\xff\xff"),
    "a request that is nested too deep": ("words", b"\x94\x03\x01\xa1a" + TOO_DEEP),
    "text that is not UTF-8 in a reply": ("replies", b"\x94\x1e\x01\xa1\x80\xc3"),
    "a reply that is nested too deep": ("replies", b"\x93\x28\x01" + TOO_DEEP),
    "a state that is nested too deep": ("state", b"qrs\x01\x81\xa1x" + TOO_DEEP),
    "a moment without a zone": ("state", naive()),
    "a moment before all others": ("state", state_with("deadline", "0001-01-01T00:00:00+23:59")),
    "a world without members": ("state", world_with(members=[], profiles=[])),
    "a member without a profile": ("state", world_with(profiles=[])),
    "a rank that the world has not": ("state", world_with(members=[["a", 1, 0, ""]])),
    "settings that overflow": ("state", agreed_with(join_timeout=1e300)),
    "nodes without settings": ("state", state_with("agreed", None)),
    "an answer in a ledger that is none": (
        "ledger",
        record(0, STATES[2]) + record(3, msgspec.msgpack.encode(StoreResult(2, ("e", 0), b"\xc1"))),
    ),
    "a round spelled another way": (
        "ledger",
        ledger_of(STATES[2]) + record(4, b"7", b"\x10entry\0run\0e\0+1\0k"),
    ),
    "a store in a backend, not UTF-8": ("backed_store", b"\x81\xa1\x80\xc4\x01v"),
    "an address that is not UTF-8": ("bootstrap", b"\xff\n29400"),
    "a port that is none": ("bootstrap", b"node1\n"),
    "a port of too many digits": ("bootstrap", b"node1\n" + DIGITS),
    "a port beyond all": ("bootstrap", b"node1\n65536"),
    "JSON of etcd that is nested too deep": ("etcd_replies", b'\0{"x":' + b"[" * 5000),
    "a host of HTTP that is not UTF-8": (
        "routes",
        b"\0\0\0GET / HTTP/1.1\r\nHost: \x80\r\n\r\n",
    ),
    "a transaction of etcd whose steps are not answered": (
        "etcd_client",
        b"\0\x0c" + b"\0\0\2{}" * 3,
    ),
    "a commit without a number": ("etcd_ledger", b"\0\0\0\1r\0"),
    "more parts than there are": ("etcd_ledger", b"\0\1\4\0\2" + b"\x3b" * 8),
    "a commit that is not UTF-8": (
        "etcd_ledger",
        b"\0\1\4\0\1" + bytes(8) + b"\x81\xa1\xff\xc4\x01v",
    ),
    "a number of nodes of too many digits": ("numbers", DIGITS),
    "a number of workers that is none": ("numbers", "²".encode()),
    "a zone that is none": ("endpoint", b"[::1%\0]"),
    "a zone with a blank": ("endpoint", b"[::1% x]:1"),
    "a rank hint that cannot be sent": ("configuration", b"\0\1\0rank_hint=" + DIGITS[:30]),
    "a number of attempts that cannot be sent": (
        "configuration",
        b"\0\1\0keep_alive_max_attempt=" + DIGITS[:30],
    ),
    "a number of attempts beyond all floats": (
        "configuration",
        b"\0\1\0keep_alive_max_attempt=" + DIGITS[:400],
    ),
    "a scheduler's index of too many digits": (
        "configuration",
        b"\0\1\x1f" + DIGITS[:31] + b"rank_policy=hint",
    ),
    "a label that is not UTF-8": ("configuration", b"\0\1\0labels=a:\xff"),
    "a node id that is not UTF-8": ("configuration", b"\0\1\0node_id=\xff"),
    "more nodes than can be sent": ("configuration", b"\0\3\0"),
}
