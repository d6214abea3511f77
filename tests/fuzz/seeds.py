"""What fuzzing begins with: for each target some bytes of the kind that it takes."""

from __future__ import annotations

import random
import types
import typing

import msgspec

from quorate.codec import encode_state
from quorate.config import KEYS
from quorate.coordinator.ledgers.records import StoreResult
from quorate.coordinator.ledgers.stored_state import StoredState
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.settings import AgreedSettings
from quorate.etcd.letters import Answers, Words
from quorate.wire.frames import frame
from quorate.wire.messages import Flag, Reply, Word, encode
from tests.core.support import Run, node
from tests.fuzz.routes import READER
from tests.fuzz.targets import ETCD_REPLIES, HELLO
from tests.fuzz.values import AGREED

SAMPLES: dict[object, object] = {
    int: 1,
    float: 1.5,
    str: "e1",
    bytes: b"1",
    bool: True,
    NodeDesc: NodeDesc("a", 1, 0, "s1"),
    NodeProfile: NodeProfile("n1", 2, {"block": "7"}, 29400, 8),
    AgreedSettings: AGREED,
}

DEPTH_MAX = 4


def sample_of(kind: typing.Any, depth: int = 0) -> typing.Any:
    """Return a value of a type, as it stands in an annotation; types may hold themselves."""
    if kind in SAMPLES:
        return SAMPLES[kind]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in {types.UnionType, typing.Union}:
        is_deep = depth > DEPTH_MAX and type(None) in arguments
        return None if is_deep else sample_of(arguments[0], depth)
    if origin is typing.Annotated:
        return sample_of(arguments[0], depth)
    if origin in {list, tuple}:
        kinds = [argument for argument in arguments if argument is not ...]
        return (
            origin(sample_of(each, depth + 1) for each in kinds) if depth < DEPTH_MAX else origin()
        )
    if origin is dict:
        return {sample_of(arguments[0]): sample_of(arguments[1])}
    hints = typing.get_type_hints(kind, include_extras=True)
    return kind(**{field: sample_of(hints[field], depth + 1) for field in kind.__struct_fields__})


def states() -> list[bytes]:
    """Return states of a run: new, complete, regrouping with spares and those who wait, closed."""
    run = Run(2, 3)
    found = [encode_state(run.state)]
    run.join(node("a"), node("b"))
    found.append(encode_state(run.state))
    run.completed(node("a"), node("b"), node("c"))
    run.join(node("d"))
    found.append(encode_state(run.state))
    run.comes_back(node("b"))
    run.leave(node("c"))
    run.join(node("e"))
    found.append(encode_state(run.state))
    run.state.closed, run.state.closed_reason = True, "done"
    return [*found, encode_state(run.state)]


def ledger_of(state: bytes) -> bytes:
    """Return bytes from which the target `ledger` makes the records of one run."""
    moment = msgspec.msgpack.encode(1.5)
    result = msgspec.msgpack.encode(StoreResult(2, ("e", 1), encode(Flag(2, True))))
    values = ((0, b"", state), (1, b"", moment), (2, b"\1kk", b"7"), (3, b"", result))
    return b"".join(
        bytes([kind]) + key + len(value).to_bytes(4, "big") + value for kind, key, value in values
    )


def with_history() -> bytes:
    """Return a run's state with the record of a round that has ended."""
    moment = "2020-01-01T00:00:00Z"
    record = msgspec.msgpack.encode(
        {"epoch": "e", "round": 0, "began_at": moment, "completed_at": moment, "world_size": 3}
    )
    end = msgspec.msgpack.encode((moment, "regroup"))
    return ledger_of(STATES[2]) + b"".join(
        bytes([kind, 0]) + len(value).to_bytes(4, "big") + value
        for kind, value in ((6, record), (7, end))
    )


def amended() -> bytes:
    """Return a run's state with an amendment, as the target `ledger` takes them."""
    run, stored = Run(2, 3), StoredState("run")
    run.join(node("a"), node("b"), node("c"))
    whole = stored.changes(run.state, [])
    run.leave(node("c"))
    amendment = stored.changes(run.state, [node("c")])
    values = ((0, b"", *whole.values()), (5, b"\1", *amendment.values()))
    return b"".join(
        bytes([kind]) + key + len(value or b"").to_bytes(4, "big") + (value or b"")
        for kind, key, value in values
    )


def json_of(kind: type[msgspec.Struct]) -> bytes:
    return msgspec.json.encode(sample_of(kind))


WORD_BODIES = [encode(HELLO), *(encode(sample_of(kind)) for kind in typing.get_args(Word))]
REPLY_BODIES = [encode(sample_of(kind)) for kind in typing.get_args(Reply)]
STATES = states()
CONFIGURATION = ",".join(f"{key.name}=1" for key in KEYS if "quorate" in key.backends).encode()
WATCH = b'{"result":{"header":{"revision":"5"},"events":[{"kv":{"key":"YQ=="}}]}}\n{"error":{}}\n'

# What stands before it in the input of a target: no fragments, no token, the first kind.
PLAIN = b"\0"

PATHS = ("/", "/access", "/healthz", "/readyz", "/metrics", "/status.json", "/events?run=run")
PATHS += ("/history.json?run=run", "/timeline.json?run=run", "/status.json?run=%ff", "/page.js")
REQUESTS = [
    f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ".encode()
    + READER
    + b"\r\nAccept-Encoding: gzip\r\n\r\n"
    for path in PATHS
    for method in ("GET", "HEAD")
]
ACTS = [
    b'{"run":"run","action":"%b","node":"a","reason":"why","for_s":5,"nodes":2}' % action
    for action in (b"close", b"drain", b"evict", b"hold", b"release", b"scale")
]

SEEDS: dict[str, list[bytes]] = {
    "frames": [PLAIN + b"".join(map(frame, WORD_BODIES)), b"\3\1\2\3" + frame(b"body") * 3],
    "words": WORD_BODIES,
    "replies": REPLY_BODIES,
    "door": [
        bytes([knows, 2, 1, 9]) + b"".join(map(frame, WORD_BODIES[start:]))
        for knows in (0, 1)
        for start in (0, 1)
    ],
    "proofs": [bytes([3]) + b"abc" + bytes([3]) + b"def" + bytes([3]) + b"ghi"],
    "attachment": [
        bytes([has_token, 2, 3, 50]) + b"".join(map(frame, bodies))
        for has_token in (0, 1)
        for bodies in (REPLY_BODIES, REPLY_BODIES[2:], REPLY_BODIES[::-1])
    ],
    "state": STATES,
    "ledger": [*map(ledger_of, STATES), amended(), with_history()],
    "tls": [b"\0\2\5\5" + bytes([side]) + b"\x16\3\1\0\5hello" for side in (0, 1)]
    + [b"\1\2\7\7" + bytes([side]) + b"\0\x30\2xxsaid" for side in (0, 1)],
    "routes": [bytes([guarded, 0, 2, 9, 9]) + request for request in REQUESTS for guarded in (0, 1)]
    + [b"\1\1\0" + act for act in ACTS],
    "certificates": [bytes([which]) + b"\0\x40\0x" for which in range(3)] + [b"\1\0\0\1"],
    "journal": [
        b"\4\0\5value\1\3abc\2\0\0\2zz" + garbling for garbling in (b"\0\0\x50", b"\1\0\0x")
    ],
    "file_backend": [b"\1\5state\0\0\x20", b"\1\5state\2\0\x22xyz", b"\0\0"],
    "backed_store": [msgspec.msgpack.encode({"n": b"7", "k": b"v"})],
    "bootstrap": [b"node1\n29400"],
    "etcd_replies": [bytes([number]) + json_of(kind) for number, kind in enumerate(ETCD_REPLIES)],
    "etcd_watch": [PLAIN + WATCH, b"\3\5\5\5" + WATCH],
    "etcd_client": [
        bytes([who]) + (bytes([call]) + b"\0\0" + bytes([len(body)]) + body) * 4
        for who in (0, 1)
        for call in range(13)
        for body in (json_of(ETCD_REPLIES[call % len(ETCD_REPLIES)])[:255],)
    ],
    "etcd_ledger": [
        b"\3\0\3abc\1\3def\2\0" + bytes([key, 0, kind]) + b"rest"
        for key in range(5)
        for kind in range(4)
    ],
    "letters": [
        b"\1"
        + b"".join(
            bytes([0, kind]) + len(body).to_bytes(4, "big") + body + b"\1\5\0\1"
            for body in (
                msgspec.msgpack.encode(sample_of(Words)),
                msgspec.msgpack.encode(sample_of(Answers)),
                *map(frame, WORD_BODIES[:9]),
            )
        )
        for kind in range(4)
    ],
    "endpoint": [b"node1:29400", b"[::1]:80", b"fe80::1%eth0", b"c1:1,c2:2", b"[fe80::1%eth0]:1"],
    "configuration": [
        b"\0\1\0" + CONFIGURATION,
        b"\0\1\x02" + b"12rank_policy=hint,node_id=a,labels=b:7;c:d",
        b"\1\1\0store_type=tcp,is_host=yes,read_timeout=1e3",
        b"\0\2\0rank_hint=-7",
    ],
    "labels": [b"block:7;zone:b"],
    "numbers": [b"2:8", b"16", b"auto"],
    "secrets": [b"# comment\n" + b"a" * 16 + b"\n\n" + b"b" * 32],
    "natural": [b"node2\nnode10", b"a01\na1"],
    "engine": [bytes(range(256)), *(random.Random(seed).randbytes(400) for seed in range(8))],
}
