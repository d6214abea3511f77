"""The flaky backend fails to its plan, and the suite refuses backends that break the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from quorate.backends.base import RendezvousBackend, Token
from quorate.backends.memory import MemoryRendezvousBackend
from quorate.errors import RendezvousConnectionError
from quorate.testing.backends import BackendTraits, Fault, FlakyBackend, RendezvousBackendSuite
from quorate.testing.clock import ManualClock


def test_calls_pass_without_a_plan() -> None:
    memory = MemoryRendezvousBackend()
    flaky = FlakyBackend(memory)
    assert flaky.name == "memory"
    assert flaky.can_watch
    assert flaky.get_state() is None
    answer = flaky.set_state(b"x")
    assert answer is not None
    assert memory.get_state() == answer[:2]
    assert not flaky.wait_for_change(answer[1], 0.0)
    assert flaky.calls == ["get_state", "set_state"]


def test_a_lost_request_changes_nothing() -> None:
    memory = MemoryRendezvousBackend()
    flaky = FlakyBackend(memory)
    flaky.plan("set_state", Fault(loses="request"))
    with pytest.raises(RendezvousConnectionError, match="request of set_state was lost"):
        flaky.set_state(b"x")
    assert memory.get_state() is None
    flaky.set_state(b"x")
    assert memory.get_state() is not None


def test_a_lost_reply_comes_after_the_write() -> None:
    memory = MemoryRendezvousBackend()
    flaky = FlakyBackend(memory)
    flaky.plan("set_state", Fault(), Fault(loses="reply"))
    answer = flaky.set_state(b"x")
    assert answer is not None
    with pytest.raises(RendezvousConnectionError, match="reply to set_state was lost"):
        flaky.set_state(b"y", answer[1])
    state = memory.get_state()
    assert state is not None
    assert state[0] == b"y"


def test_a_plan_is_for_one_operation() -> None:
    flaky = FlakyBackend(MemoryRendezvousBackend())
    flaky.plan("get_state", Fault(loses="request"))
    flaky.set_state(b"x")
    with pytest.raises(RendezvousConnectionError):
        flaky.get_state()
    assert flaky.get_state() is not None


def test_a_delay_passes_on_the_clock() -> None:
    clock = ManualClock()
    flaky = FlakyBackend(MemoryRendezvousBackend(), clock)
    flaky.plan("get_state", Fault(delay_s=3.0))
    start_s = clock.monotonic()
    flaky.get_state()
    assert clock.monotonic() - start_s == 3.0


class Careless(RendezvousBackend):
    """A backend with one fault in it."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.state: bytes | None = None
        self.number = 0

    @property
    def name(self) -> str:
        return "careless"

    def get_state(self) -> tuple[bytes, Token] | None:
        if self.state is None or (self.fault == "empty is none" and not self.state):
            return None
        return self.state, self.token()

    def set_state(
        self, state: bytes, token: Token | None = None
    ) -> tuple[bytes, Token, bool] | None:
        if self.state is None and token is not None and self.fault != "creates for any token":
            return None
        has_set = self.state is None or self.accepts(token)
        if has_set:
            self.state = state
            self.number += 1
        assert self.state is not None
        return self.state, self.token(), has_set

    def token(self) -> Token:
        return self.state if self.fault == "tokens are values" else f"token{self.number}"

    def accepts(self, token: Token | None) -> bool:
        if self.fault == "none is any token":
            return token is None or token == self.token()
        if self.fault == "accepts all":
            return True
        if self.fault == "accepts none":
            return False
        if self.fault == "raises on strangers" and not isinstance(token, str):
            raise TypeError(token)
        return token == self.token()


def suite_over(fault: str) -> RendezvousBackendSuite:
    backend = Careless(fault)

    class Suite(RendezvousBackendSuite):
        traits = BackendTraits(durable=False, multi_host=False, detects_corruption=False)

        def open(self, tmp_path: Path) -> RendezvousBackend:
            return backend

    return Suite()


@pytest.mark.parametrize(
    ("fault", "contract"),
    [
        ("empty is none", "test_get_state_returns_none_if_backend_state_does_not_exist"),
        ("accepts none", "test_set_state_sets_backend_state_if_token_is_current"),
        ("none is any token", "test_set_state_returns_current_backend_state_if_token_is_none"),
        ("tokens are values", "test_set_state_returns_current_backend_state_if_token_is_old"),
        ("accepts all", "test_set_state_returns_current_backend_state_if_token_is_old"),
        ("accepts all", "test_set_state_returns_current_backend_state_if_token_is_invalid"),
        (
            "creates for any token",
            "test_set_state_returns_current_backend_state_if_token_is_invalid",
        ),
        (
            "raises on strangers",
            "test_set_state_returns_current_backend_state_if_token_is_invalid",
        ),
        ("accepts all", "test_one_writer_wins_per_token"),
        ("is not durable as declared", "test_state_outlives_the_backend_if_it_is_durable"),
    ],
)
def test_the_suite_refuses(fault: str, contract: str, tmp_path: Path) -> None:
    with pytest.raises((AssertionError, TypeError)):
        getattr(suite_over(fault), contract)(tmp_path)


def test_the_suite_refuses_damage_that_is_not_told(tmp_path: Path) -> None:
    suite = suite_over("none")
    type(suite).traits = BackendTraits(durable=False, multi_host=False, detects_corruption=True)
    type(suite).corrupt = lambda self, tmp_path: None  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="RendezvousStateError is due"):
        suite.test_get_state_raises_error_if_backend_state_is_corrupt(tmp_path)
