"""Messages: they come back as they went, errors too; anything else is refused with a reason."""

from __future__ import annotations

import contextlib
import math
import tracemalloc
import zlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate import errors
from quorate.core.node import LABELS_MAX, NodeDesc, NodeProfile
from quorate.core.state import Place, World
from quorate.errors import (
    RendezvousClosedError,
    RendezvousError,
    RendezvousProtocolError,
    RendezvousTimeoutError,
)
from quorate.wire import messages
from quorate.wire.messages import (
    COMPRESSED_FROM_BYTES,
    FAILED,
    KEYS_AWAITED_MAX,
    PART_BYTES_MAX,
    PART_MEMBERS_MAX,
    ROLE_AGENT,
    TEXT_CHARACTERS_MAX,
    WHOLE_MEMBERS_MAX,
    AddNumber,
    Challenge,
    Changed,
    CheckKeys,
    Close,
    CompareSet,
    CountKeys,
    DeleteKey,
    Done,
    Drain,
    Evict,
    Failed,
    Finish,
    Flag,
    GetValue,
    GetWorld,
    Hello,
    History,
    Hold,
    Join,
    Joined,
    Leave,
    Number,
    Ping,
    Pong,
    Probe,
    Proof,
    Proven,
    Refused,
    Release,
    Report,
    Scale,
    SetValue,
    Status,
    Value,
    Waiting,
    WaitKeys,
    Welcome,
    WorldRecord,
    decode_reply,
    decode_request,
    decode_word,
    encode,
    error_of,
    failure,
    record_of,
    report_of,
    request_id_of,
)
from tests.core.support import make_settings

NODE = NodeDesc("host-1", 17, 2, "f00")
LABELS = {str(number): "" for number in range(LABELS_MAX + 1)}
PROFILE = NodeProfile("n1", 3, {"block": "b"}, 29500, 8)
PLACE = Place("e", 4, 1, 2, "digest", "host-0", 29501, 8, 16)
SPACE = ("e", 4)

REQUESTS: list[Any] = [
    Hello(1, ROLE_AGENT, "run", "s", NODE, PROFILE, make_settings().agreed, SPACE),
    Hello(1, ROLE_AGENT, "run", "s"),
    Join(1, SPACE, 600.0, PROFILE),
    Join(1, None, math.inf, NodeProfile()),
    Leave(2, "done"),
    Close(3, "it broke", FAILED),
    Finish(15),
    GetWorld(4),
    GetWorld(24, 4096),
    Ping(5, 3),
    SetValue(6, SPACE, "k\0k", b"\0v"),
    AddNumber(7, SPACE, "k", -3),
    CompareSet(8, SPACE, "k", b"", b"v"),
    DeleteKey(9, SPACE, "k"),
    GetValue(10, SPACE, "k", 1.5),
    WaitKeys(11, SPACE, ("a", "b"), 0),
    CheckKeys(12, SPACE, ()),
    CountKeys(13, SPACE),
    Status(14, "run"),
    Drain(16, "rank 3", "disks"),
    Evict(17, "n1", 60.0, "noisy"),
    Evict(18, "n1"),
    Hold(19, "a look"),
    Release(20),
    Scale(21, 4),
    Scale(22),
    History(23, "run"),
]
REPLIES: list[Any] = [
    Welcome(1, "here", True),
    Refused("settings", "no"),
    Joined(1, PLACE),
    Failed(1, "closed", "no", "done"),
    Flag(1, True),
    Number(1, -5),
    Value(1, b"\xff"),
    WorldRecord(1, None),
    WorldRecord(1, World("e", 4, (NODE,), (PROFILE,))),
    WorldRecord(1, World("e", 4, (NODE,), (PROFILE,)), 7),
    Report(1, b"{}"),
    Report(1, b"x", True),
    Done(1, True, "a_1_0", "done"),
    Pong(7),
    Probe(3),
    Changed(2, "lost", True, "done", True),
    Waiting("min_nodes", "waiting", 1.5),
    Challenge(b"nonce"),
    Proven(b"mac"),
]
# A coordinator that was deposed ends: no agent is answered with that.
ERRORS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type)
    and issubclass(kind, RendezvousError)
    and kind is not errors.RendezvousDeposedError
]


@pytest.mark.parametrize("message", REQUESTS, ids=lambda message: type(message).__name__)
def test_requests_come_back_as_they_went(message: Any) -> None:
    assert decode_request(encode(message)) == message


@pytest.mark.parametrize(
    "message", [*REQUESTS, Proof(b"nonce", b"mac")], ids=lambda message: type(message).__name__
)
def test_words_are_requests_and_proofs(message: Any) -> None:
    assert decode_word(encode(message)) == message


def test_a_proof_is_no_request() -> None:
    with pytest.raises(RendezvousProtocolError):
        decode_request(encode(Proof(b"nonce", b"mac")))


@pytest.mark.parametrize("message", REPLIES, ids=lambda message: type(message).__name__)
def test_replies_come_back_as_they_went(message: Any) -> None:
    assert decode_reply(encode(message)) == message


@pytest.mark.parametrize("message", REQUESTS, ids=lambda message: type(message).__name__)
def test_r15_no_prefix_of_a_request_is_a_request(message: Any) -> None:
    body = encode(message)
    for length in range(len(body)):
        with pytest.raises(RendezvousProtocolError):
            decode_request(body[:length])


@given(st.binary(max_size=80))
def test_r15_any_bytes_are_a_message_or_a_protocol_error(body: bytes) -> None:
    for decode in (decode_request, decode_word, decode_reply):
        with contextlib.suppress(RendezvousProtocolError):
            assert isinstance(decode(body), msgspec.Struct)


@pytest.mark.parametrize(
    "raw",
    [
        [99, 1],
        [2, "one", None, 1.0, []],
        [2, 1, None, "soon", []],
        [10, 1, ["e", 1], "k", "text, not bytes"],
        [30, 1, "a reply is no request", True],
        {"id": 1},
        None,
    ],
    ids=repr,
)
def test_r15_a_request_of_the_wrong_shape_is_refused(raw: Any) -> None:
    with pytest.raises(RendezvousProtocolError, match="malformed request"):
        decode_request(msgspec.msgpack.encode(raw))


@pytest.mark.parametrize(
    "message",
    [
        Join(1, None, math.nan, PROFILE),
        GetValue(1, SPACE, "k", math.nan),
        WaitKeys(1, SPACE, ("k",), math.nan),
    ],
    ids=lambda message: type(message).__name__,
)
def test_r15_a_timeout_that_is_no_number_is_refused(message: Any) -> None:
    """It has no order: in the queue of deadlines it would stop everybody's."""
    with pytest.raises(RendezvousProtocolError, match="malformed"):
        decode_request(encode(message))


@pytest.mark.parametrize(
    ("message", "most"),
    [
        (WaitKeys(9, SPACE, ("k",) * (KEYS_AWAITED_MAX + 1), 1.0), KEYS_AWAITED_MAX),
        (CheckKeys(9, SPACE, ("k",) * (KEYS_AWAITED_MAX + 1)), KEYS_AWAITED_MAX),
        (Join(9, None, 1.0, NodeProfile(labels=LABELS)), LABELS_MAX),
    ],
    ids=lambda value: type(value).__name__,
)
def test_r15_a_request_with_too_many_entries_is_refused_before_they_are_made(
    message: Any, most: int
) -> None:
    body = encode(message)
    with pytest.raises(RendezvousProtocolError, match=f"length <= {most} "):
        decode_request(body)
    assert request_id_of(body) == 9


@pytest.mark.parametrize(
    ("body", "request_id"),
    [
        (b"\x93\x02\x09\xc0", 9),
        (b"\x93\x02\x09\xa1\xff", 9),
        (b"\x92\x63\x09", None),
        (b"\x92\x06\x09", None),
        (b"\x91\x02", None),
        (b"\x92\x02\xa1k", None),
        (b"\x93\x02\x09" + b"\x91" * 100_000 + b"\xc0", None),
        (b"\x02", None),
        (b"", None),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_r15_the_id_of_a_request_that_means_nothing(body: bytes, request_id: int | None) -> None:
    assert request_id_of(body) == request_id


def test_r15_to_find_the_id_of_a_request_nothing_is_made_of_the_rest() -> None:
    count = 500_000
    body = b"\x93\x02\x09\xdd" + count.to_bytes(4, "big") + b"\x90" * count
    tracemalloc.start()
    try:
        assert request_id_of(body) == 9
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_is_raised_again_on_the_other_side(kind: type[RendezvousError]) -> None:
    answer = decode_reply(encode(failure(7, kind("what happened"))))
    assert isinstance(answer, Failed)
    assert answer.id == 7
    error = error_of(answer)
    assert type(error) is kind
    assert str(error) == "what happened"


def test_r7_a_closed_error_keeps_its_reason() -> None:
    error = error_of(failure(1, RendezvousClosedError("It is closed.", "the job succeeded")))
    assert isinstance(error, RendezvousClosedError)
    assert error.reason == "the job succeeded"


def test_a_refusal_is_an_error_too() -> None:
    assert type(error_of(Refused("timeout", "late"))) is RendezvousTimeoutError
    assert type(error_of(Refused("closed", "over"))) is RendezvousClosedError


def test_an_error_of_a_later_release_is_an_error() -> None:
    error = error_of(Failed(1, "not known yet", "what happened"))
    assert type(error) is RendezvousError
    assert str(error) == "what happened"


def test_r15_what_peers_sent_is_quoted_within_limits() -> None:
    answer = failure(1, RendezvousClosedError("x" * 100_000, "y" * 100_000))
    assert len(answer.message) == len(answer.reason) == TEXT_CHARACTERS_MAX


@pytest.mark.parametrize(
    "said",
    [
        Failed(1, "closed", "x\n" + "y" * 100_000, "\x1b" + "y" * 100_000),
        Refused("connection", "x\n" + "y" * 100_000),
    ],
    ids=["Failed", "Refused"],
)
def test_r15_what_anybody_may_have_sent_is_one_line_within_limits(said: Failed | Refused) -> None:
    """An impostor cuts no texts, and may write lines that look like others of the log."""
    error = error_of(said)
    texts = [str(error), error.reason if isinstance(error, RendezvousClosedError) else ""]
    assert str(error).startswith("x\\ny")
    assert all(text.isprintable() for text in texts)
    assert max(map(len, texts)) < 2 * TEXT_CHARACTERS_MAX


def test_a_large_report_is_compressed() -> None:
    data = b'{"node": "a"}' * COMPRESSED_FROM_BYTES
    report = report_of(1, data)
    assert len(encode(report)) < len(data) / 10
    assert report.text() == data
    assert report_of(1, b"{}") == Report(1, b"{}")
    assert report_of(1, b"{}").text() == b"{}"


def test_r15_what_was_not_compressed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "REPORT_BYTES_MAX", 1000)
    bomb, cut = zlib.compress(bytes(1001)), zlib.compress(bytes(1000))[:-2]
    for data in (b"no", bomb, cut):
        with pytest.raises(errors.RendezvousProtocolError):
            Report(1, data, compressed=True).text()


def make_world(size: int, profile: NodeProfile) -> World:
    nodes = tuple(NodeDesc(f"host-{number}", number, 0, f"{number:016x}") for number in range(size))
    return World("e", 4, nodes, size * (profile,))


@pytest.mark.parametrize("labels", [{}, {"words": "x" * 4000}])
def test_r1_a_record_of_any_size_comes_in_parts_that_fit(labels: dict[str, str]) -> None:
    world = make_world(9000, NodeProfile(labels=labels))
    known: World | None = None
    parts = 0
    while known is None or len(known.members) < len(world.members):
        record = record_of(GetWorld(1, len(known.members) if known else 0), world)
        assert len(encode(record)) <= PART_BYTES_MAX
        assert record.world is not None
        assert record.size == len(world.members)
        known = record.world if known is None else known.extended(record.world)
        parts += 1
    assert known == world
    assert parts == (3 if not labels else 70)


def test_what_does_not_fit_is_sent_all_the_same_one_member_at_a_time() -> None:
    world = make_world(2, NodeProfile(labels={"words": "x" * PART_BYTES_MAX}))
    record = record_of(GetWorld(1, 1), world)
    assert record.world == world.part(1, 1)


class OlderWorldRecord(msgspec.Struct, array_like=True, tag=37):
    """As it was before records came in parts."""

    id: int
    world: World | None


def test_r1_an_agent_of_an_older_release_gets_the_whole_record() -> None:
    world = make_world(9000, PROFILE)
    theirs = msgspec.msgpack.decode(encode(record_of(GetWorld(1), world)), type=OlderWorldRecord)
    assert theirs.world == world
    assert record_of(GetWorld(1, 0), None) == WorldRecord(1, None)
    asked = decode_request(msgspec.msgpack.encode([5, 1]))
    assert asked == GetWorld(1)


def test_r15_a_whole_record_has_a_largest_size() -> None:
    world = make_world(WHOLE_MEMBERS_MAX, PROFILE)
    assert record_of(GetWorld(1), world).world is world
    larger = make_world(WHOLE_MEMBERS_MAX + 1, PROFILE)
    with pytest.raises(errors.RendezvousLimitError, match="ask for its parts"):
        record_of(GetWorld(1), larger)
    assert record_of(GetWorld(1, 0), larger).world == larger.part(0, PART_MEMBERS_MAX)


def test_r15_no_member_comes_before_the_first() -> None:
    with pytest.raises(errors.RendezvousProtocolError):
        decode_request(msgspec.msgpack.encode([5, 1, -1]))
