"""The contract that every rendezvous backend keeps, and a backend that fails to a plan."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

from quorate.backends.base import RendezvousBackend, Token
from quorate.clock import Clock, SystemClock
from quorate.errors import RendezvousConnectionError, RendezvousStateError

__all__ = ["BackendTraits", "Fault", "FlakyBackend", "RendezvousBackendSuite"]

T = TypeVar("T")

WRITERS = 4
ROUNDS = 5


@dataclass(frozen=True)
class Fault:
    """What goes wrong in one call of a `FlakyBackend`.

    Attributes:
        loses: The request, so that nothing happens, or the reply, after all has happened; both
            end in a RendezvousConnectionError. None lets the call pass.
        delay_s: How long the call takes before anything happens, in seconds.
    """

    loses: Literal["request", "reply"] | None = None
    delay_s: float = 0.0


class FlakyBackend(RendezvousBackend):
    """Passes calls on to another backend, some of them with a fault.

    Args:
        backend: The one that keeps the state.
        clock: Where a delay is slept; a `ManualClock` makes it pass at once.

    Attributes:
        calls: The names of the operations that were called, in order.
    """

    def __init__(self, backend: RendezvousBackend, clock: Clock | None = None) -> None:
        self.calls: list[str] = []
        self._backend = backend
        self._clock = clock or SystemClock()
        self._plans: defaultdict[str, deque[Fault]] = defaultdict(deque)

    @property
    def name(self) -> str:
        """The name of the backend behind this one."""
        return self._backend.name

    @property
    def can_watch(self) -> bool:
        """Whether the backend behind this one can watch."""
        return self._backend.can_watch

    def plan(self, operation: Literal["get_state", "set_state"], *faults: Fault) -> None:
        """Give the next calls of `operation` one fault each; those after them pass."""
        self._plans[operation].extend(faults)

    def get_state(self) -> tuple[bytes, Token] | None:
        """Read the state, or fail as planned."""
        with self._fault("get_state"):
            return self._backend.get_state()

    def set_state(
        self, state: bytes, token: Token | None = None
    ) -> tuple[bytes, Token, bool] | None:
        """Write the state, or fail as planned."""
        with self._fault("set_state"):
            return self._backend.set_state(state, token)

    def wait_for_change(self, token: Token | None, timeout_s: float) -> bool:
        """Wait as the backend behind this one does; no fault is planned here."""
        return self._backend.wait_for_change(token, timeout_s)

    @contextmanager
    def _fault(self, operation: str) -> Iterator[None]:
        self.calls.append(operation)
        plan = self._plans[operation]
        fault = plan.popleft() if plan else Fault()
        if fault.delay_s:
            self._clock.sleep(fault.delay_s)
        if fault.loses == "request":
            raise RendezvousConnectionError(f"The request of {operation} was lost, as planned.")
        yield
        if fault.loses == "reply":
            raise RendezvousConnectionError(f"The reply to {operation} was lost, as planned.")


@dataclass(frozen=True)
class BackendTraits:
    """What a kind of backend promises beyond the contract; the suite holds it to each.

    Attributes:
        durable: The state outlives everything that `RendezvousBackendSuite.reopen` restarts.
        multi_host: Nodes of several machines can share it.
        detects_corruption: Bytes that were damaged from outside raise RendezvousStateError; if
            not, nothing outside the process can reach them.
    """

    durable: bool
    multi_host: bool
    detects_corruption: bool


class RendezvousBackendSuite(ABC):
    """The contract of a `RendezvousBackend`, for pytest: subclass it as ``Test...``.

    Set `traits` and define `open`; `corrupt` where damage is detected, `reopen` where the
    backend is not simply opened again.
    """

    traits: ClassVar[BackendTraits]

    @abstractmethod
    def open(self, tmp_path: Path) -> RendezvousBackend:
        """Return a new handle on the one state that belongs to `tmp_path`."""

    def corrupt(self, tmp_path: Path) -> None:
        """Damage the stored bytes from outside."""
        raise NotImplementedError("nothing outside the process reaches the bytes")

    def reopen(self, tmp_path: Path) -> RendezvousBackend:
        """Restart whatever kept the state, all handles being gone; return a new handle."""
        return self.open(tmp_path)

    def test_get_state_raises_error_if_backend_state_is_corrupt(self, tmp_path: Path) -> None:
        """Damage is told by every operation, and nothing is overwritten."""
        backend = self.open(tmp_path)
        written = backend.set_state(b"x")
        assert written is not None, "the first write found a state"
        if not self.traits.detects_corruption:
            expect(NotImplementedError, lambda: self.corrupt(tmp_path))
            return
        self.corrupt(tmp_path)
        expect(RendezvousStateError, backend.get_state)
        expect(RendezvousStateError, lambda: backend.set_state(b"y"))
        expect(RendezvousStateError, backend.get_state)

    def test_get_state_returns_backend_state(self, tmp_path: Path) -> None:
        """Every handle reads what one has written, whatever the bytes."""
        state = bytes(range(256)) * 40
        backend, other = self.open(tmp_path), self.open(tmp_path)
        _, token, _ = written(backend.set_state(state))
        assert backend.get_state() == (state, token), "the state read is not the one set"
        assert other.get_state() == (state, token), "another handle reads another state"

    def test_get_state_returns_none_if_backend_state_does_not_exist(self, tmp_path: Path) -> None:
        """No state is not an empty state."""
        backend = self.open(tmp_path)
        assert backend.get_state() is None, "there is a state before the first write"
        _, token, _ = written(backend.set_state(b""))
        assert backend.get_state() == (b"", token), "an empty state is not kept as one"

    def test_set_state_sets_backend_state_if_it_does_not_exist(self, tmp_path: Path) -> None:
        """Without a token the first state is set, and read back under the token returned."""
        backend = self.open(tmp_path)
        state, token, has_set = written(backend.set_state(b"x"))
        assert (state, has_set) == (b"x", True), "the first write was not accepted"
        assert backend.get_state() == (b"x", token), "the state read is not the one set"

    def test_set_state_sets_backend_state_if_token_is_current(self, tmp_path: Path) -> None:
        """A current token sets the state, whoever got it, and a new token comes of it."""
        backend, other = self.open(tmp_path), self.open(tmp_path)
        _, first, _ = written(backend.set_state(b"x"))
        state, second, has_set = written(other.set_state(b"y", first))
        assert (state, has_set) == (b"y", True), "a write with the current token was refused"
        assert second != first, "the token did not change"
        assert backend.get_state() == (b"y", second), "the state read is not the one set"

    def test_set_state_returns_current_backend_state_if_token_is_none(self, tmp_path: Path) -> None:
        """Without a token an existing state is never replaced, not even by the same bytes."""
        backend = self.open(tmp_path)
        _, token, _ = written(backend.set_state(b"x"))
        for state in (b"y", b"x"):
            assert backend.set_state(state) == (b"x", token, False), "the state was replaced"
        assert backend.get_state() == (b"x", token), "the state has changed"

    def test_set_state_returns_current_backend_state_if_token_is_old(self, tmp_path: Path) -> None:
        """An old token matches nothing, even when the bytes are the old ones again."""
        backend = self.open(tmp_path)
        _, first, _ = written(backend.set_state(b"x"))
        _, second, _ = written(backend.set_state(b"y", first))
        assert backend.set_state(b"z", first) == (b"y", second, False), "an old token was taken"
        _, third, _ = written(backend.set_state(b"x", second))
        for old in (first, second):
            assert backend.set_state(b"z", old) == (b"x", third, False), "an old token was taken"
        assert backend.get_state() == (b"x", third), "the state has changed"

    def test_set_state_returns_current_backend_state_if_token_is_invalid(
        self, tmp_path: Path
    ) -> None:
        """What is no token of this backend matches nothing and raises nothing."""
        backend = self.open(tmp_path)
        strangers: list[Token] = [b"x", "x", b"", b"\xff", 0, -1, True, 1.5, ("x",), [], object()]
        for token in strangers:
            assert backend.set_state(b"y", token) is None, f"{token!r} set the first state"
        assert backend.get_state() is None, "a token of nothing left a state"
        _, current, _ = written(backend.set_state(b"x"))
        for token in strangers:
            answer = backend.set_state(b"y", token)
            assert answer == (b"x", current, False), f"the token {token!r} was taken"

    def test_one_writer_wins_per_token(self, tmp_path: Path) -> None:
        """Of several writers with the same token exactly one sets the state; the rest see it."""
        backends = [self.open(tmp_path) for _ in range(WRITERS)]
        token: Token | None = None
        for round_number in range(ROUNDS):
            answers = race(partial(write_own, backends, round_number, token))
            winners = [answer for answer in answers if answer[2]]
            assert len(winners) == 1, f"{len(winners)} writers won with one token"
            state, token, _ = winners[0]
            seen = [answer[:2] == (state, token) for answer in answers]
            assert all(seen), "a loser saw another state than the winner's"

    def test_no_write_is_lost(self, tmp_path: Path) -> None:
        """Writers that read, change and retry leave the sum of all their changes."""
        backends = [self.open(tmp_path) for _ in range(WRITERS)]
        written(backends[0].set_state(b"0"))
        race(lambda writer: increment(backends[writer], ROUNDS))
        current = backends[0].get_state()
        assert current is not None, "the state is gone"
        assert int(current[0]) == WRITERS * ROUNDS, "a write was overwritten by an older one"

    def test_state_outlives_the_backend_if_it_is_durable(self, tmp_path: Path) -> None:
        """After a restart a durable backend has the state; another must start empty."""
        backend = self.open(tmp_path)
        state, token, _ = written(backend.set_state(b"x"))
        del backend
        expected = (state, token) if self.traits.durable else None
        assert self.reopen(tmp_path).get_state() == expected, "`traits.durable` is not true"

    def test_wait_for_change_ends_with_a_change(self, tmp_path: Path) -> None:
        """A backend that can watch tells of each change; another says that it cannot."""
        backend = self.open(tmp_path)
        if not backend.can_watch:
            expect(NotImplementedError, lambda: backend.wait_for_change(None, 0.0))
            return
        assert not backend.wait_for_change(None, 0.0), "a change was told before the first write"
        with ThreadPoolExecutor(1) as pool:
            told = pool.submit(backend.wait_for_change, None, 15.0)
            _, token, _ = written(self.open(tmp_path).set_state(b"x"))
            assert told.result(10.0), "the first write was not told"
        assert not backend.wait_for_change(token, 0.0), "a change was told that did not happen"
        written(backend.set_state(b"y", token))
        assert backend.wait_for_change(token, 0.0), "a change of before the call was not told"


def written(answer: tuple[bytes, Token, bool] | None) -> tuple[bytes, Token, bool]:
    """Return the answer of a write that must have found or left a state."""
    assert answer is not None, "set_state returned None although there must be a state"
    return answer


def write_own(
    backends: list[RendezvousBackend], round_number: int, token: Token | None, writer: int
) -> tuple[bytes, Token, bool]:
    """Write a state that only this writer writes in this round."""
    return written(backends[writer].set_state(b"%d/%d" % (round_number, writer), token))


def increment(backend: RendezvousBackend, times: int) -> int:
    """Add one to the number that is the state, `times` over; return how many tries it took."""
    tries = 0
    current = backend.get_state()
    assert current is not None, "the state is gone"
    state, token = current
    for _ in range(times):
        has_set = False
        while not has_set:
            tries += 1
            state, token, has_set = written(backend.set_state(b"%d" % (int(state) + 1), token))
    return tries


def race(writer: Callable[[int], T]) -> list[T]:
    """Run `writer` in several threads that start together; return what each returned."""
    start = threading.Barrier(WRITERS)

    def run(number: int) -> T:
        start.wait(10.0)
        return writer(number)

    with ThreadPoolExecutor(WRITERS) as pool:
        return list(pool.map(run, range(WRITERS)))


def expect(error_type: type[Exception], call: Callable[[], object]) -> None:
    """Fail unless `call` raises `error_type`."""
    try:
        answer = call()
    except error_type:
        return
    raise AssertionError(f"returned {answer!r} where {error_type.__name__} is due")
