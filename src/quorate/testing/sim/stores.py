"""What the users of a round's store may see of it, judged by a model of its own. Pure (R14).

Every change is made once, and whoever asks after the answer sees it. So for each key there must be
an order of all that was asked of it, each between question and answer, in which the model answers
what was answered: the history is linearizable (Herlihy and Wing, 1990). What nobody was answered
may have been done at any time since it was asked, or never.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

from quorate.errors import RendezvousError, StoreTimeoutError
from quorate.testing.sim.rules import require
from quorate.wire.messages import (
    AddNumber,
    Answer,
    CheckKeys,
    CompareSet,
    CountKeys,
    DeleteKey,
    Flag,
    GetValue,
    Number,
    SetValue,
    StoreRequest,
    Value,
    WaitKeys,
)

__all__ = ["Act", "Stores", "is_linearizable"]

NEVER_S = float("inf")

# The clock of a coordinator goes wrong by less than this part: a wait may end so much early.
DRIFT = 0.01

Said: TypeAlias = bytes | bool | None
Branch: TypeAlias = tuple[tuple[int, ...], bytes | None]


class Act(NamedTuple):
    """What somebody has asked of one key.

    Args:
        request: What was asked.
        asked_s: When, at the earliest, it was done.
        answered_s: When it was done at the latest; never if nobody knows whether it was.
        said: The answer: a value, or whether the key was there. `None` if there was none.
    """

    request: StoreRequest
    asked_s: float
    answered_s: float = NEVER_S
    said: Said = None


def is_linearizable(acts: Sequence[Act]) -> bool:
    """Return whether a key, absent at first, may have given these answers in some order.

    Values that are set should all differ: that keeps the number of orders small.
    """
    branches: list[Branch] = [
        (tuple(sorted(range(len(acts)), key=lambda n: acts[n].asked_s)), None)
    ]
    seen = set(branches)
    while branches:
        left, value = branches.pop()
        left = _without_looks(acts, left, value)
        if all(acts[n].answered_s == NEVER_S for n in left):
            return True
        fresh = [branch for branch in _changed(acts, left, value) if branch not in seen]
        seen.update(fresh)
        branches += fresh
    return False


def _without_looks(
    acts: Sequence[Act], left: tuple[int, ...], value: bytes | None
) -> tuple[int, ...]:
    """Return what is left once all answers have been given that fit now and change nothing.

    They may as well be given now as later. What nobody was answered may still change something.
    """
    while True:
        until_s = _until_s(acts, left)
        later = tuple(
            n
            for n in left
            if acts[n].answered_s == NEVER_S or not _fits(acts[n], until_s, value, value)
        )
        if len(later) == len(left):
            return left
        left = later


def _changed(acts: Sequence[Act], left: tuple[int, ...], value: bytes | None) -> Iterator[Branch]:
    """Yield what may be left, and the value, after any one of the changes that may come next."""
    until_s = _until_s(acts, left)
    for place, n in enumerate(left):
        _, after = _done(acts[n].request, value)
        if after != value and _fits(acts[n], until_s, value, after):
            yield left[:place] + left[place + 1 :], after


def _until_s(acts: Sequence[Act], left: tuple[int, ...]) -> float:
    """Return until when what is done next was asked: somebody is answered then."""
    return min((acts[n].answered_s for n in left), default=NEVER_S)


def _fits(act: Act, until_s: float, value: bytes | None, after: bytes | None) -> bool:
    said, then = _done(act.request, value)
    is_told = act.answered_s == NEVER_S or act.said == said
    return act.asked_s <= until_s and then == after and is_told


def _done(request: StoreRequest, value: bytes | None) -> tuple[Said, bytes | None]:
    """Return the answer to a request while a key has a value, and its value after it."""
    if isinstance(request, SetValue):
        return True, request.value
    if isinstance(request, DeleteKey):
        return value is not None, None
    if isinstance(request, CompareSet):
        if (value or b"") == request.expected:
            return request.desired, request.desired
        return (request.expected if value is None else value), value
    if isinstance(request, GetValue) and value is not None:
        return value, value
    return value is not None, value


class Stores:
    """Checks what all users of all stores of a run are answered."""

    def __init__(self) -> None:
        self._spaces: dict[tuple[str, int], _Space] = {}
        self._asked: dict[tuple[str, int], _Question] = {}

    def asked(self, asker: str, request: StoreRequest, now_s: float) -> None:
        """Note what somebody asks, who has never used the id of this request before."""
        space = self._spaces.setdefault(request.space, _Space())
        self._asked[asker, request.id] = _Question(request, now_s, space.most, space)
        space.asked(request)

    def answered(
        self, asker: str, request: StoreRequest, answer: Answer | RendezvousError, now_s: float
    ) -> None:
        """Look at an answer.

        Raises:
            Violation: It cannot be, whatever comes later.
        """
        question = self._asked[asker, request.id]
        if isinstance(answer, StoreTimeoutError):
            question.space.missed(question, now_s)
        elif not isinstance(answer, RendezvousError):
            question.space.answered(question, answer, now_s)
        else:
            # It may have been done before there was an error: nobody knows.
            return
        del self._asked[asker, request.id]

    def judge(self) -> None:
        """Look at all that was answered.

        Raises:
            Violation: There is no order in which a store would have answered that.
        """
        for request, asked_s, _, space in self._asked.values():
            if isinstance(request, SetValue | CompareSet | DeleteKey):
                space.note(request.key, Act(request, asked_s))
        self._asked.clear()
        for name, space in self._spaces.items():
            for key, acts in space.acts.items():
                fits = is_linearizable(acts)
                require(fits, "R14", "no store answers what {!r} of {} has: {}", key, name, acts)


class _Space:
    """One store.

    Attributes:
        acts: What was answered, and what may have been done, by key.
        most: The largest sum of its counter that somebody was told.
    """

    def __init__(self) -> None:
        self.acts: dict[str, list[Act]] = {}
        self.most = 0
        self._additions = 0
        self._sums: set[int] = set()
        self._there_since_s: dict[str, float] = {}
        self._named: set[str] = set()
        self._deleted: set[str] = set()

    def asked(self, request: StoreRequest) -> None:
        """Note that something is asked."""
        if isinstance(request, DeleteKey):
            self._deleted.add(request.key)
        elif isinstance(request, SetValue | AddNumber | CompareSet):
            self._named.add(request.key)
            self._additions += isinstance(request, AddNumber)

    def answered(self, question: _Question, answer: Answer, now_s: float) -> None:
        """Look at an answer."""
        request = question.request
        if isinstance(request, AddNumber) and isinstance(answer, Number):
            self._added(question, answer.value)
        elif isinstance(request, CountKeys) and isinstance(answer, Number):
            self._counted(question, answer.value)
        else:
            is_fitting = isinstance(answer, Flag | Value)
            require(is_fitting, "R14", "{} is answered {}", request, answer)
            assert isinstance(answer, Flag | Value)
            self._note_all(request, question.asked_s, now_s, answer.value)
        if isinstance(request, AddNumber | SetValue):
            self._there_since_s.setdefault(request.key, now_s)

    def missed(self, question: _Question, now_s: float) -> None:
        """Look at the end of a wait: something was not there when its time was over."""
        request = question.request
        assert isinstance(request, GetValue | WaitKeys), f"{request} does not wait"
        over_s = question.asked_s + request.timeout_s * (1 - DRIFT)
        require(over_s <= now_s, "store", "{} did not wait long enough", request)
        self._note_all(request, over_s, now_s, False)

    def note(self, key: str, act: Act) -> None:
        """Note what was asked of a key, and how it was answered."""
        self.acts.setdefault(key, []).append(act)

    def _note_all(self, request: StoreRequest, asked_s: float, now_s: float, said: Said) -> None:
        keys = _keys_of(request)
        if len(keys) == 1 or said is True:
            for key in keys:
                self.note(key, Act(request, asked_s, now_s, said))
        # Else one of several was not there, and nobody has said which.

    def _added(self, question: _Question, total: int) -> None:
        """Check that each addition, all of 1, has given another sum, and that none went back."""
        where = question.request.space
        require(total not in self._sums, "R14", "two additions in {} gave {}", where, total)
        asked = self._additions
        require(total <= asked, "R14", "{} of {} additions in {}", total, asked, where)
        least = question.sum_told
        require(total > least, "R14", "{} in {}, where {} was told before", total, where, least)
        self._sums.add(total)
        self.most = max(self.most, total)

    def _counted(self, question: _Question, keys: int) -> None:
        least = sum(
            since_s < question.asked_s and key not in self._deleted
            for key, since_s in self._there_since_s.items()
        )
        counts = least <= keys <= len(self._named)
        about = (question.request.space, keys, least, len(self._named))
        require(counts, "R14", "{} has {} keys, where {} to {} can be", *about)


class _Question(NamedTuple):
    """What is asked and not answered.

    Args:
        request: What.
        asked_s: When.
        sum_told: The largest sum that anybody had been told by then.
        space: Of which store.
    """

    request: StoreRequest
    asked_s: float
    sum_told: int
    space: _Space


def _keys_of(request: StoreRequest) -> tuple[str, ...]:
    if isinstance(request, CountKeys):
        return ()
    return request.keys if isinstance(request, WaitKeys | CheckKeys) else (request.key,)
