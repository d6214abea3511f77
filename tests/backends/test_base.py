"""The backend contract, against the smallest backend there is and one that only passes calls on."""

from __future__ import annotations

from pathlib import Path

import pytest

from quorate.backends.base import RendezvousBackend, Token
from quorate.backends.memory import MemoryRendezvousBackend
from quorate.testing.backends import BackendTraits, FlakyBackend, RendezvousBackendSuite


class MemoryContract(RendezvousBackendSuite):
    traits = BackendTraits(durable=False, multi_host=False, detects_corruption=False)

    def open(self, tmp_path: Path) -> RendezvousBackend:
        return MemoryRendezvousBackend.shared(str(tmp_path))


class FlakyContract(MemoryContract):
    def open(self, tmp_path: Path) -> RendezvousBackend:
        return FlakyBackend(super().open(tmp_path))


@pytest.fixture(params=[MemoryContract, FlakyContract])
def contract(request: pytest.FixtureRequest) -> RendezvousBackendSuite:
    suite: RendezvousBackendSuite = request.param()
    return suite


def test_get_state_raises_error_if_backend_state_is_corrupt(
    contract: RendezvousBackendSuite, tmp_path: Path
) -> None:
    contract.test_get_state_raises_error_if_backend_state_is_corrupt(tmp_path)


def test_get_state_returns_backend_state(contract: RendezvousBackendSuite, tmp_path: Path) -> None:
    contract.test_get_state_returns_backend_state(tmp_path)


def test_get_state_returns_none_if_backend_state_does_not_exist(
    contract: RendezvousBackendSuite, tmp_path: Path
) -> None:
    contract.test_get_state_returns_none_if_backend_state_does_not_exist(tmp_path)


def test_set_state_sets_backend_state_if_it_does_not_exist(
    contract: RendezvousBackendSuite, tmp_path: Path
) -> None:
    contract.test_set_state_sets_backend_state_if_it_does_not_exist(tmp_path)


def test_set_state_sets_backend_state_if_token_is_current(
    contract: RendezvousBackendSuite, tmp_path: Path
) -> None:
    contract.test_set_state_sets_backend_state_if_token_is_current(tmp_path)


def test_set_state_returns_current_backend_state_if_token_is_none(
    contract: RendezvousBackendSuite, tmp_path: Path
) -> None:
    contract.test_set_state_returns_current_backend_state_if_token_is_none(tmp_path)


def test_set_state_returns_current_backend_state_if_token_is_old(
    contract: RendezvousBackendSuite, tmp_path: Path
) -> None:
    contract.test_set_state_returns_current_backend_state_if_token_is_old(tmp_path)


def test_set_state_returns_current_backend_state_if_token_is_invalid(
    contract: RendezvousBackendSuite, tmp_path: Path
) -> None:
    contract.test_set_state_returns_current_backend_state_if_token_is_invalid(tmp_path)


class SmallestBackend(RendezvousBackend):
    """Only what the base class leaves open."""

    @property
    def name(self) -> str:
        return "smallest"

    def get_state(self) -> tuple[bytes, Token] | None:
        return None

    def set_state(
        self, state: bytes, token: Token | None = None
    ) -> tuple[bytes, Token, bool] | None:
        return None


def test_a_backend_that_cannot_watch_says_so() -> None:
    backend = SmallestBackend()
    assert not backend.can_watch
    with pytest.raises(NotImplementedError, match="smallest backend cannot watch: poll"):
        backend.wait_for_change(None, 0.0)


@pytest.mark.parametrize("missing", ["name", "get_state", "set_state"])
def test_an_incomplete_backend_cannot_be_made(missing: str) -> None:
    incomplete = type(
        "Incomplete", (SmallestBackend,), {missing: getattr(RendezvousBackend, missing)}
    )
    with pytest.raises(TypeError, match=missing):
        incomplete()
