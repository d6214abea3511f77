"""Every target on its seeds, on what was done to them, and on what was once found."""

from __future__ import annotations

import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.codec import encode_state
from quorate.coordinator.engine.holdings import Holdings
from quorate.coordinator.engine.reports import Reports
from quorate.coordinator.runs.deadlines import Deadlines
from quorate.coordinator.runs.tally import Tally
from quorate.core.state import RendezvousState
from quorate.wire.messages import GetValue, Reply, Status, Word, decode_reply, decode_word, encode
from tests.fuzz.choices import Choices
from tests.fuzz.findings import FINDINGS
from tests.fuzz.seeds import SEEDS
from tests.fuzz.sequences import FIRST, play
from tests.fuzz.targets import TARGETS
from tests.fuzz.values import maker_of

EDITS = st.lists(
    st.tuples(
        st.integers(0, 2000),
        st.sampled_from(["set", "insert", "delete", "cut", "double"]),
        st.one_of(
            st.binary(min_size=1, max_size=4),
            st.sampled_from([b"\xff", b"\x91" * 3000, b"9" * 5000]),
        ),
    ),
    max_size=6,
)


def edited(seed: bytes, edits: list[tuple[int, str, bytes]]) -> bytes:
    """Return bytes after some changes at places that are counted from the front."""
    for place, kind, what in edits:
        at = place % (len(seed) + 1)
        before, after = seed[:at], seed[at:]
        match kind:
            case "set":
                seed = before + what + after[len(what) :]
            case "insert":
                seed = before + what + after
            case "delete":
                seed = before + after[len(what) :]
            case "cut":
                seed = before
            case "double":
                seed = before + before[-20:] + after
    return seed


def test_every_target_has_seeds() -> None:
    assert SEEDS.keys() == TARGETS.keys()


@pytest.mark.parametrize("name", TARGETS)
def test_seeds(name: str) -> None:
    for seed in (b"", *SEEDS[name]):
        TARGETS[name](seed)


@pytest.mark.parametrize("name", TARGETS)
def test_edited_seeds(name: str) -> None:
    @settings(max_examples=60, database=None)
    @given(st.sampled_from(SEEDS[name]), EDITS)
    def run(seed: bytes, edits: list[tuple[int, str, bytes]]) -> None:
        TARGETS[name](edited(seed, edits))

    run()


@pytest.mark.parametrize("finding", FINDINGS)
def test_findings(finding: str) -> None:
    name, data = FINDINGS[finding]
    TARGETS[name](data)


# As long as it takes to choose every part of a value or a sequence.
BYTES = st.binary(min_size=64, max_size=1024)


@settings(max_examples=200)
@given(BYTES)
def test_states_of_every_kind(data: bytes) -> None:
    TARGETS["state"](encode_state(maker_of(RendezvousState)(Choices(data))))


@settings(max_examples=200)
@given(st.sampled_from(typing.get_args(Word)), BYTES)
def test_words_of_every_kind(kind: type[Word], data: bytes) -> None:
    word = maker_of(kind)(Choices(data))
    TARGETS["words"](encode(word))
    assert decode_word(encode(word)) == word


@settings(max_examples=200)
@given(st.sampled_from(typing.get_args(Reply)), BYTES)
def test_replies_of_every_kind(kind: type[Reply], data: bytes) -> None:
    reply = maker_of(kind)(Choices(data))
    TARGETS["replies"](encode(reply))
    assert decode_reply(encode(reply)) == reply


@settings(max_examples=200)
@given(BYTES)
def test_an_engine_that_is_told_anything(data: bytes) -> None:
    """R1, R2, R6, R8, R14, R15"""
    TARGETS["engine"](data)


# A peer names a deadline in thirty years, asks how things are, and is gone; again and again.
COMING_AND_GOING = [
    ("use", 0, GetValue(0, ("", 0), "absent", 1e9)),
    ("join", 0, 1e9),
    ("say", 0, Status(1, "")),
    ("end", 0, True),
    ("greet", 0, FIRST),
]


def test_an_engine_forgets_what_has_long_been_settled() -> None:
    """R15"""
    play(COMING_AND_GOING * 100)


def test_a_run_that_nobody_would_miss_is_forgotten_as_well() -> None:
    """Also one that has begun anew when it was forgotten."""
    play([("end", 0, True), *[("wait", 0.9)] * 8, ("greet", 0, FIRST)])


forget = Holdings._forget


def keep_stored(holdings: Holdings, run_id: str) -> None:
    kept = holdings._stored[run_id]
    forget(holdings, run_id)
    holdings._stored[run_id] = kept


@pytest.mark.parametrize(
    ("where", "name", "planted", "found"),
    [
        (Deadlines, "sweep", lambda self: None, "_holdings._held'"),
        (Holdings, "_forget", keep_stored, "_holdings._stored'"),
        (Tally, "forget", lambda self, run_id: None, "tally.runs'"),
        (Reports, "closed", lambda self, gone: self._asked.update([gone]), "_reports._asked'"),
    ],
)
def test_what_an_engine_would_keep_is_found(
    where: type, name: str, planted: object, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever in the engine it is: what is looked at must not depend on where things lie."""
    monkeypatch.setattr(where, name, planted)
    with pytest.raises(AssertionError, match=f"{found}: [1-9]"):
        play(COMING_AND_GOING * 20)
