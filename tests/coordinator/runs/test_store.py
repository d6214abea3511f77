"""The rounds' stores: each change is made once, waits are held, nothing outlives its world."""

from __future__ import annotations

from typing import Any

import pytest

from quorate.coordinator.ledgers.records import entry_key, parse_key, result_key
from quorate.coordinator.runs import store as store_module
from quorate.coordinator.runs.outbox import Outbox
from quorate.coordinator.runs.store import KEY_CHARACTERS_MAX, RunStore
from quorate.wire.messages import (
    AddNumber,
    CheckKeys,
    CompareSet,
    CountKeys,
    DeleteKey,
    Failed,
    Flag,
    GetValue,
    Number,
    Reply,
    SetValue,
    StoreRequest,
    Value,
    WaitKeys,
)

FIRST, SECOND, THIRD = ("e", 0), ("e", 1), ("e", 2)


class Desk:
    """A store with its ledger; what it answers is kept by connection."""

    def __init__(self, ledger: dict[str, bytes] | None = None) -> None:
        self.outbox = Outbox()
        self.store = RunStore("run", self.outbox)
        self.ledger = ledger if ledger is not None else {}
        self.store.load({parse_key(key): value for key, value in self.ledger.items()})

    def ask(self, connection: int, request: StoreRequest, session: str = "") -> float | None:
        return self.store.handle(connection, session or f"s{connection}", request)

    def told(self, connection: int) -> list[Reply | None]:
        sends = self.outbox.take()
        assert {send.connections for send in sends} <= {(connection,)}
        return [send.message for send in sends]

    def all_told(self) -> dict[int, Reply | None]:
        return {send.connections[0]: send.message for send in self.outbox.take()}

    def commit(self) -> None:
        for key, value in self.store.changes.items():
            if value is None:
                self.ledger.pop(key, None)
            else:
                self.ledger[key] = value
        self.store.changes = {}
        for key in self.store.dropped:
            self.ledger.pop(key, None)
        self.store.dropped = []


@pytest.fixture
def desk() -> Desk:
    made = Desk()
    made.store.open(FIRST)
    return made


def code(message: Reply | None) -> str:
    assert isinstance(message, Failed)
    return message.code


def test_it_does_what_a_store_does(desk: Desk) -> None:
    for number, request in enumerate(
        [
            SetValue(1, FIRST, "k", b"v"),
            AddNumber(2, FIRST, "n", 3),
            AddNumber(3, FIRST, "n", -1),
            CompareSet(4, FIRST, "k", b"v", b"w"),
            GetValue(5, FIRST, "k", 1.0),
            CheckKeys(6, FIRST, ("k", "n")),
            CheckKeys(7, FIRST, ("k", "absent")),
            CountKeys(8, FIRST),
            DeleteKey(9, FIRST, "k"),
            DeleteKey(10, FIRST, "k"),
            WaitKeys(11, FIRST, ("n",), 1.0),
        ]
    ):
        assert desk.ask(1, request) is None, f"request {number} is held"
    assert desk.told(1) == [
        Flag(1, True),
        Number(2, 3),
        Number(3, 2),
        Value(4, b"w"),
        Value(5, b"w"),
        Flag(6, True),
        Flag(7, False),
        Number(8, 2),
        Flag(9, True),
        Flag(10, False),
        Flag(11, True),
    ]


def test_waits_are_held_until_the_last_key_is_there(desk: Desk) -> None:
    assert desk.ask(1, GetValue(1, FIRST, "a", 5.0)) == 5.0
    assert desk.ask(2, WaitKeys(2, FIRST, ("a", "b"), 6.0)) == 6.0
    assert desk.told(0) == []
    desk.ask(3, SetValue(3, FIRST, "a", b"1"))
    assert desk.all_told() == {3: Flag(3, True), 1: Value(1, b"1")}
    desk.ask(3, AddNumber(4, FIRST, "b", 1))
    assert desk.all_told() == {3: Number(4, 1), 2: Flag(2, True)}


def test_a_wait_that_is_over_names_what_is_missing(desk: Desk) -> None:
    desk.ask(1, WaitKeys(1, FIRST, ("a", "b"), 5.0))
    desk.ask(2, SetValue(1, FIRST, "a", b""))
    desk.outbox.take()
    desk.store.expire(1, 1)
    (message,) = desk.told(1)
    assert code(message) == "store_timeout"
    assert isinstance(message, Failed)
    assert "'b'" in message.message
    assert "'a'" not in message.message
    desk.store.expire(1, 1)
    desk.ask(2, SetValue(2, FIRST, "b", b""))
    assert desk.told(2) == [Flag(2, True)], "an answered wait was answered again"


def test_a_connection_that_is_gone_waits_for_nothing(desk: Desk) -> None:
    desk.ask(1, GetValue(1, FIRST, "a", 5.0))
    desk.ask(1, GetValue(2, FIRST, "b", 5.0))
    desk.store.disconnect(1)
    desk.store.disconnect(1)
    desk.ask(2, SetValue(1, FIRST, "a", b""))
    assert desk.told(2) == [Flag(1, True)]


def test_a_wait_that_is_asked_again_is_answered_once(desk: Desk) -> None:
    desk.ask(1, GetValue(1, FIRST, "a", 5.0))
    desk.ask(1, GetValue(1, FIRST, "a", 5.0))
    desk.ask(2, SetValue(1, FIRST, "a", b"x"))
    assert [send.message for send in desk.outbox.take()] == [Flag(1, True), Value(1, b"x")]


def test_r14_a_change_is_made_once_however_often_it_is_asked_for(desk: Desk) -> None:
    for connection in (1, 2, 2):
        desk.ask(connection, AddNumber(1, FIRST, "n", 5), session="s")
    assert [send.message for send in desk.outbox.take()] == [Number(1, 5)] * 3
    desk.ask(1, AddNumber(1, FIRST, "n", 5), session="another")
    assert desk.told(1) == [Number(1, 10)]


def test_r14_an_older_change_that_arrives_late_is_not_made(desk: Desk) -> None:
    desk.ask(1, SetValue(2, FIRST, "k", b"new"), session="s")
    desk.ask(1, SetValue(1, FIRST, "k", b"old"), session="s")
    desk.ask(1, GetValue(3, FIRST, "k", 0.0), session="s")
    assert desk.told(1) == [Flag(2, True), Value(3, b"new")]


def test_r14_a_retry_is_recognised_after_a_restart(desk: Desk) -> None:
    desk.ask(1, AddNumber(7, FIRST, "n", 5), session="s")
    desk.commit()
    again = Desk(desk.ledger)
    again.store.open(FIRST)
    again.ask(9, AddNumber(7, FIRST, "n", 5), session="s")
    again.ask(9, GetValue(8, FIRST, "n", 0.0), session="s")
    assert again.told(9) == [Number(7, 5), Value(8, b"5")]


def test_the_ledger_holds_what_the_store_holds(desk: Desk) -> None:
    desk.ask(1, SetValue(1, FIRST, "a\0b", b"1"))
    desk.ask(1, SetValue(2, FIRST, "gone", b"2"))
    desk.ask(1, DeleteKey(3, FIRST, "gone"))
    desk.commit()
    assert set(desk.ledger) == set(desk.store.all_keys())
    again = Desk(desk.ledger)
    assert (again.store.keys, again.store.bytes_used) == (1, 4)


def test_a_round_has_a_store_of_its_own_and_the_last_two_are_kept(desk: Desk) -> None:
    desk.ask(1, SetValue(1, FIRST, "k", b"first"))
    desk.store.open(SECOND)
    desk.ask(1, CheckKeys(2, SECOND, ("k",)))
    desk.ask(1, GetValue(3, FIRST, "k", 0.0))
    assert desk.told(1) == [Flag(1, True), Flag(2, False), Value(3, b"first")]
    desk.commit()
    desk.store.open(THIRD)
    desk.commit()
    assert desk.ledger == {}, "an old round was left behind"
    desk.ask(1, GetValue(4, FIRST, "k", 0.0))
    assert code(desk.told(1)[0]) == "state"


def test_r12_a_stale_epoch_has_no_store(desk: Desk) -> None:
    desk.ask(1, SetValue(1, ("other", 0), "k", b""))
    (message,) = desk.told(1)
    assert code(message) == "state"
    assert desk.store.changes == {}


def test_who_waits_in_a_store_that_is_removed_is_told(desk: Desk) -> None:
    desk.ask(1, GetValue(1, FIRST, "k", 300.0))
    desk.store.open(("new", 0))
    assert code(desk.told(1)[0]) == "state"
    desk.store.expire(1, 1)
    assert desk.told(1) == []


def test_a_change_that_fails_changes_nothing_and_may_be_tried_again(desk: Desk) -> None:
    desk.ask(1, SetValue(1, FIRST, "k", b"text"))
    desk.commit()
    desk.ask(1, AddNumber(2, FIRST, "k", 1))
    assert desk.store.changes == {}
    desk.ask(1, SetValue(3, FIRST, "k", b"1"))
    assert [type(message) for message in desk.told(1)] == [Flag, Failed, Flag]


@pytest.mark.parametrize(
    "request_",
    [
        SetValue(1, FIRST, "k" * (KEY_CHARACTERS_MAX + 1), b""),
        AddNumber(1, FIRST, "k" * (KEY_CHARACTERS_MAX + 1), 1),
        CompareSet(1, FIRST, "k" * (KEY_CHARACTERS_MAX + 1), b"", b""),
        DeleteKey(1, FIRST, "k" * (KEY_CHARACTERS_MAX + 1)),
        GetValue(1, FIRST, "k" * (KEY_CHARACTERS_MAX + 1), 1.0),
        WaitKeys(1, FIRST, ("k", "k" * (KEY_CHARACTERS_MAX + 1)), 1.0),
    ],
    ids=lambda request: type(request).__name__,
)
def test_r15_what_is_too_large_is_refused(desk: Desk, request_: Any) -> None:
    assert desk.ask(1, request_) is None
    assert code(desk.told(1)[0]) == "limit"
    assert desk.store.changes == {}


@pytest.mark.parametrize(
    "request_",
    [
        SetValue(2, FIRST, "l", b""),
        AddNumber(2, FIRST, "n", 1),
        CompareSet(2, FIRST, "l", b"", b""),
    ],
    ids=lambda request: type(request).__name__,
)
def test_r15_a_full_store_takes_no_more_but_knows_what_it_took(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, request_: Any
) -> None:
    monkeypatch.setattr(store_module, "STORE_BYTES_MAX", 100)
    desk.ask(1, SetValue(1, FIRST, "k", bytes(200)))
    desk.ask(1, SetValue(1, FIRST, "k", bytes(200)))
    assert desk.told(1) == [Flag(1, True)] * 2
    desk.ask(1, request_)
    assert code(desk.told(1)[0]) == "limit"
    desk.ask(1, DeleteKey(3, FIRST, "k"))
    desk.ask(1, SetValue(4, FIRST, "l", b""))
    assert desk.told(1) == [Flag(3, True), Flag(4, True)]


def waits(number: int, key: str = "k") -> GetValue:
    return GetValue(number, FIRST, key, 300.0)


def test_r15_a_connection_waits_for_so_many_things_at_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "PARKED_BY_CONNECTION_MAX", 2)
    assert [desk.ask(1, waits(number)) for number in (1, 2, 3)] == [300.0, 300.0, None]
    assert code(desk.told(1)[0]) == "limit"
    assert desk.ask(1, waits(2)) == 300.0, "it was asked again"
    assert desk.ask(2, waits(1)) == 300.0
    desk.store.expire(1, 1)
    assert desk.ask(1, waits(4)) == 300.0


@pytest.mark.parametrize(("limit", "value"), [("PARKED_MAX", 2), ("PARKED_BYTES_MAX", 19)])
def test_r15_a_run_waits_for_so_many_things_at_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(store_module, limit, value)
    for connection in (1, 2):
        assert desk.ask(connection, waits(1, "k" * 10)) == 300.0
    assert desk.ask(3, waits(1)) is None
    assert code(desk.told(3)[0]) == "limit"
    desk.store.disconnect(2)
    assert desk.ask(3, waits(1)) == 300.0


def test_r15_keys_are_counted(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "KEYS_MAX", 1)
    desk.ask(1, SetValue(1, FIRST, "k", b"old"))
    desk.ask(1, SetValue(2, FIRST, "k", b"new"))
    assert desk.told(1) == [Flag(1, True), Flag(2, True)]
    desk.ask(1, SetValue(3, FIRST, "l", b""))
    assert code(desk.told(1)[0]) == "limit"


def test_r15_what_is_remembered_of_sessions_is_counted(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "STORE_BYTES_MAX", 1000)
    desk.ask(1, SetValue(1, FIRST, "k", bytes(300)))
    for number in range(5):
        desk.ask(1, CompareSet(1, FIRST, "k", b"x", b""), session=f"other {number}")
    assert code(desk.told(1)[-1]) == "limit"
    desk.commit()
    again = Desk(desk.ledger)
    again.store.open(FIRST)
    again.ask(1, SetValue(9, FIRST, "l", b""))
    assert code(again.told(1)[-1]) == "limit"


def test_r15_so_are_those_of_sessions_that_only_delete(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "STORE_BYTES_MAX", 20)
    desk.store.open(FIRST)
    for number in range(10):
        desk.ask(number, DeleteKey(1, FIRST, "absent"))
    told = desk.all_told()
    assert isinstance(told[0], Flag)
    assert isinstance(told[9], Failed)
    desk.ask(0, DeleteKey(2, FIRST, "absent"))
    assert isinstance(desk.all_told()[0], Flag), "it takes the place of its last one"


@pytest.mark.parametrize(
    ("request_", "written"),
    [
        (SetValue(1, FIRST, "new", bytes(500)), 500),
        (AddNumber(1, FIRST, "n" * 500, 1), 500),
        (CompareSet(1, FIRST, "k", b"no", b""), 1000),
        (CompareSet(1, FIRST, "k", bytes(1000), bytes(600)), 1200),
        (DeleteKey(1, FIRST, "l" * 500), 500),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int) else "",
)
def test_r15_all_that_a_change_gives_the_ledger_is_counted(
    desk: Desk, request_: Any, written: int
) -> None:
    desk.ask(1, SetValue(1, FIRST, "k", bytes(1000)))
    desk.ask(1, SetValue(2, FIRST, "l" * 500, b""))
    desk.commit()
    before = desk.store.written_bytes
    desk.ask(2, request_)
    assert written < desk.store.written_bytes - before < written + 100
    once = desk.store.written_bytes
    desk.ask(2, request_)
    assert desk.store.written_bytes == once, "it was asked for again"


def test_what_is_dropped_is_not_stored_first(desk: Desk) -> None:
    desk.ask(1, SetValue(1, FIRST, "k", b"v"))
    desk.store.open(SECOND)
    desk.store.open(THIRD)
    assert desk.store.changes == {}
    desk.ask(1, SetValue(2, THIRD, "k", b"w"))
    assert set(desk.store.changes) - set(desk.store.dropped) == {entry_key("run", THIRD, "k")}
    assert result_key("run", "s1") in desk.store.changes, "its session has stored something since"


def test_without_a_world_there_is_no_store(desk: Desk) -> None:
    desk.ask(1, SetValue(1, FIRST, "k", b"v"))
    desk.commit()
    again = Desk(desk.ledger)
    again.store.clear()
    again.ask(1, GetValue(2, FIRST, "k", 1.0))
    assert code(again.told(1)[0]) == "state"
    again.commit()
    assert again.ledger == {}


def test_r15_whoever_deletes_makes_room(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "STORE_BYTES_MAX", 100)
    desk.ask(1, SetValue(1, FIRST, "k", bytes(200)))
    desk.ask(2, DeleteKey(1, FIRST, "absent"))
    desk.ask(3, DeleteKey(1, FIRST, "k"))
    desk.ask(2, SetValue(2, FIRST, "l", b""))
    _, absent, present, after = (send.message for send in desk.outbox.take())
    assert code(absent) == "limit"
    assert (present, after) == (Flag(1, True), Flag(2, True))


def test_the_empty_store_of_a_former_round_outlives_a_restart(desk: Desk) -> None:
    desk.store.open(FIRST)
    desk.ask(1, SetValue(1, FIRST, "k", b"v"))
    desk.ask(1, DeleteKey(2, FIRST, "k"))
    desk.store.open(SECOND)
    desk.commit()
    again = Desk(desk.ledger)
    again.store.open(SECOND)
    again.ask(1, CountKeys(3, FIRST))
    assert again.told(1) == [Number(3, 0)]
    again.store.open(THIRD)
    again.commit()
    assert again.ledger == {}
