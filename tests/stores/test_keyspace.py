"""The keyspace: its answers, what it says it wrote, and whom it wakes."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from quorate.errors import RendezvousLimitError, RendezvousStateError
from quorate.stores.keyspace import NUMBER_MAX, NUMBER_MIN, Keyspace, Mutation


@pytest.fixture
def keyspace() -> Keyspace:
    return Keyspace()


def test_it_starts_with_what_was_loaded() -> None:
    loaded = {"a": b"1", "é": b"22"}
    keyspace = Keyspace(loaded)
    loaded["a"] = b"changed"
    assert keyspace.get("a") == b"1"
    assert keyspace.snapshot() == {"a": b"1", "é": b"22"}
    assert keyspace.bytes_used == 1 + 1 + 2 + 2


def test_set_says_what_it_wrote(keyspace: Keyspace) -> None:
    assert keyspace.set("k", b"v") == Mutation(None, {"k": b"v"})
    assert keyspace.set("k", b"w") == Mutation(None, {"k": b"w"})
    assert keyspace.get("k") == b"w"
    assert keyspace.get("absent") is None


def test_add_keeps_decimal_text(keyspace: Keyspace) -> None:
    assert keyspace.add("n", 5) == Mutation(5, {"n": b"5"})
    assert keyspace.add("n", -7) == Mutation(-2, {"n": b"-2"})
    assert keyspace.add("n", 0) == Mutation(-2, {"n": b"-2"})


def test_add_stays_within_64_bits(keyspace: Keyspace) -> None:
    assert keyspace.add("high", NUMBER_MAX).result == NUMBER_MAX
    assert keyspace.add("low", NUMBER_MIN).result == NUMBER_MIN
    for key, amount in (("high", 1), ("low", -1), ("new", NUMBER_MAX + 1)):
        with pytest.raises(RendezvousLimitError, match=repr(key)):
            keyspace.add(key, amount)
    assert keyspace.snapshot() == {"high": b"%d" % NUMBER_MAX, "low": b"%d" % NUMBER_MIN}


@pytest.mark.parametrize(
    "text", [b"", b"-", b"--1", b"x", b" 1", b"1_0", b"1.0", b"1" * 20, b"\xb2"]
)
def test_add_refuses_what_is_no_number(keyspace: Keyspace, text: bytes) -> None:
    keyspace.set("k", text)
    with pytest.raises(RendezvousStateError, match=r"'k'.* not a decimal number"):
        keyspace.add("k", 1)
    assert keyspace.get("k") == text


@pytest.mark.parametrize(
    ("current", "expected", "result", "is_set"),
    [
        (None, b"", b"new", True),
        (None, b"other", b"other", False),
        (b"old", b"old", b"new", True),
        (b"old", b"", b"old", False),
        (b"old", b"other", b"old", False),
        (b"", b"", b"new", True),
    ],
)
def test_compare_set(current: bytes | None, expected: bytes, result: bytes, is_set: bool) -> None:
    keyspace = Keyspace({} if current is None else {"k": current})
    mutation = keyspace.compare_set("k", expected, b"new")
    assert mutation == Mutation(result, {"k": b"new"} if is_set else {})
    assert keyspace.get("k") == (b"new" if is_set else current)


def test_delete(keyspace: Keyspace) -> None:
    keyspace.set("k", b"v")
    assert keyspace.delete("k") == Mutation(True, {"k": None})
    assert keyspace.delete("k") == Mutation(False, {})
    assert keyspace.num_keys() == 0


def test_check_and_missing(keyspace: Keyspace) -> None:
    keyspace.set("a", b"")
    assert keyspace.check(["a"])
    assert not keyspace.check(["a", "b"])
    assert keyspace.check([])
    assert keyspace.missing(["c", "a", "b"]) == ["c", "b"]


def test_a_waiter_is_woken_once_when_its_last_key_appears(keyspace: Keyspace) -> None:
    keyspace.set("a", b"")
    assert keyspace.park("w", ["a", "b", "c", "c"])
    assert keyspace.awaited("w") == ["b", "c"]
    assert keyspace.set("b", b"").woken == ()
    assert keyspace.waiters == 1
    assert keyspace.set("c", b"").woken == ("w",)
    assert keyspace.waiters == 0
    assert keyspace.set("c", b"again").woken == ()
    keyspace.delete("c")
    assert keyspace.set("c", b"").woken == ()


def test_every_way_to_create_a_key_wakes(keyspace: Keyspace) -> None:
    for number, key in enumerate(("a", "b", "c")):
        keyspace.park(number, [key])
    assert keyspace.set("a", b"").woken == (0,)
    assert keyspace.add("b", 1).woken == (1,)
    assert keyspace.compare_set("c", b"", b"").woken == (2,)


def test_waiters_of_a_key_are_woken_in_their_order(keyspace: Keyspace) -> None:
    for waiter in (3, 1, 2):
        keyspace.park(waiter, ["k"])
    keyspace.park(0, ["k", "other"])
    assert keyspace.set("k", b"").woken == (3, 1, 2)


def test_a_key_that_went_away_is_waited_for_again(keyspace: Keyspace) -> None:
    keyspace.park("w", ["a", "b"])
    keyspace.set("a", b"")
    keyspace.delete("a")
    assert keyspace.set("b", b"").woken == ()
    assert keyspace.awaited("w") == ["a"]
    assert keyspace.set("a", b"").woken == ("w",)


def test_a_waiter_whose_keys_are_there_is_not_parked(keyspace: Keyspace) -> None:
    keyspace.set("a", b"")
    assert not keyspace.park("w", ["a"])
    assert not keyspace.park("w", [])
    assert keyspace.waiters == 0


def test_a_waiter_is_parked_once_only(keyspace: Keyspace) -> None:
    keyspace.park("w", ["a"])
    with pytest.raises(ValueError, match="'w' is parked already"):
        keyspace.park("w", ["b"])
    assert keyspace.set("a", b"").woken == ("w",)


def test_an_unparked_waiter_is_not_woken(keyspace: Keyspace) -> None:
    keyspace.park("w", ["a", "b"])
    keyspace.park("other", ["a"])
    assert keyspace.unpark("w")
    assert not keyspace.unpark("w")
    assert keyspace.awaited("w") == []
    assert keyspace.set("a", b"").woken == ("other",)


def test_a_mutation_costs_its_own_keys_waiters_only(keyspace: Keyspace) -> None:
    """Waiters of other keys are not even looked at."""

    class Touchy:
        def __init__(self) -> None:
            self.touched = 0

        def __hash__(self) -> int:
            self.touched += 1
            return id(self)

    bystanders = [Touchy() for _ in range(100)]
    for number, waiter in enumerate(bystanders):
        keyspace.park(waiter, [f"key{number}", "never"])
    keyspace.park("w", ["k"])
    before = [waiter.touched for waiter in bystanders]
    assert keyspace.set("k", b"").woken == ("w",)
    keyspace.add("n", 1)
    keyspace.delete("k")
    assert [waiter.touched for waiter in bystanders] == before


keys = st.sampled_from(["a", "b", "c", "é"])
values = st.sampled_from([b"", b"1", b"-3", b"x"]) | st.binary(max_size=8)


class KeyspaceMachine(RuleBasedStateMachine):
    """A keyspace, a dict that is fed with its changes, and a list of who waits for what."""

    def __init__(self) -> None:
        super().__init__()
        self.keyspace = Keyspace()
        self.model: dict[str, bytes] = {}
        self.parked: dict[object, set[str]] = {}
        self.waiters = 0

    def follow(self, mutation: Mutation[object]) -> None:
        for key, value in mutation.changes.items():
            if value is None:
                del self.model[key]
            else:
                self.model[key] = value
        due = [waiter for waiter, needed in self.parked.items() if needed <= self.model.keys()]
        assert sorted(map(str, mutation.woken)) == sorted(map(str, due))
        for waiter in due:
            del self.parked[waiter]

    @rule(key=keys, value=values)
    def set(self, key: str, value: bytes) -> None:
        self.follow(self.keyspace.set(key, value))
        assert self.model[key] == value

    @rule(key=keys, amount=st.integers(-9, 9))
    def add(self, key: str, amount: int) -> None:
        before = self.model.get(key, b"0")
        try:
            mutation = self.keyspace.add(key, amount)
        except RendezvousStateError:
            assert not before.removeprefix(b"-").isdigit()
            return
        self.follow(mutation)
        assert mutation.result == int(before) + amount == int(self.model[key])

    @rule(key=keys, expected=values, desired=values)
    def compare_set(self, key: str, expected: bytes, desired: bytes) -> None:
        before = self.model.get(key)
        mutation = self.keyspace.compare_set(key, expected, desired)
        self.follow(mutation)
        matches = before == expected or (before is None and not expected)
        assert self.model.get(key) == (desired if matches else before)
        assert mutation.result == self.model.get(key, expected)

    @rule(key=keys)
    def delete(self, key: str) -> None:
        was_there = key in self.model
        mutation = self.keyspace.delete(key)
        self.follow(mutation)
        assert mutation.result == was_there
        assert key not in self.model

    @rule(needed=st.lists(keys, max_size=5))
    def park(self, needed: list[str]) -> None:
        self.waiters += 1
        parked = self.keyspace.park(self.waiters, needed)
        assert parked == (not set(needed) <= self.model.keys())
        if parked:
            self.parked[self.waiters] = set(needed)

    @precondition(lambda self: self.parked)
    @rule(data=st.data())
    def unpark(self, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(sorted(self.parked, key=str)))
        assert self.keyspace.unpark(waiter)
        del self.parked[waiter]

    @invariant()
    def agrees_with_the_model(self) -> None:
        assert self.keyspace.snapshot() == self.model
        assert self.keyspace.num_keys() == len(self.model)
        used = sum(len(key.encode()) + len(value) for key, value in self.model.items())
        assert self.keyspace.bytes_used == used
        assert self.keyspace.waiters == len(self.parked)
        assert self.keyspace._waiters_of.keys() == set().union(*self.parked.values())
        for waiter, needed in self.parked.items():
            assert set(self.keyspace.awaited(waiter)) == needed - self.model.keys()


TestKeyspaceMachine = KeyspaceMachine.TestCase
TestKeyspaceMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
