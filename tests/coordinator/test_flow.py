"""What may be asked at once: who asks for too much waits until it is carried out (R15)."""

from __future__ import annotations

import pytest

from quorate.coordinator import flow as flow_module
from quorate.coordinator.flow import REQUESTS_AT_ONCE_MAX, Flow


class Greedy:
    """Asks again for all that it has left as soon as it may go on."""

    def __init__(self, number: int, flow: Flow, left: int = 0) -> None:
        self.number = number
        self.asked = self.asked_bytes = 0
        self.paused = False
        self.left = left
        self._flow = flow

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        self.ask()

    def ask(self, body_bytes: int = 1) -> None:
        while self.left and not self.paused:
            self.left -= 1
            self._flow.count(self, body_bytes)


def test_r15_who_has_asked_often_enough_is_paused_and_nobody_else() -> None:
    flow = Flow()
    greedy, meek = Greedy(1, flow, 3 * REQUESTS_AT_ONCE_MAX), Greedy(2, flow, 1)
    greedy.ask()
    meek.ask()
    assert greedy.left == 2 * REQUESTS_AT_ONCE_MAX
    assert (greedy.paused, meek.paused) == (True, False)


def test_r15_what_was_received_meanwhile_is_counted_anew() -> None:
    flow = Flow()
    greedy = Greedy(1, flow, 2 * REQUESTS_AT_ONCE_MAX + 1)
    greedy.ask()
    for left, paused in ((1, True), (0, False), (0, False)):
        flow.resume()
        assert (greedy.left, greedy.paused) == (left, paused)


@pytest.mark.parametrize("limit", ["REQUEST_BYTES_AT_ONCE_MAX", "REQUEST_BYTES_AT_ONCE_TOTAL_MAX"])
def test_r15_bytes_count_too(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_module, limit, 100)
    flow = Flow()
    greedy = Greedy(1, flow, 10)
    greedy.ask(60)
    assert (greedy.left, greedy.paused) == (8, True)


def test_r15_beyond_the_bytes_of_all_whoever_asks_for_more_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flow_module, "REQUEST_BYTES_AT_ONCE_TOTAL_MAX", 100)
    flow = Flow()
    silent, first, second = (Greedy(number, flow, left) for number, left in enumerate((0, 1, 1)))
    first.ask(99)
    assert not first.paused
    second.ask(1)
    assert (silent.paused, first.paused, second.paused) == (False, False, True)
    flow.resume()
    first.left = 1
    first.ask(99)
    assert not first.paused


def test_who_has_gone_is_not_told_to_go_on() -> None:
    flow = Flow()
    gone = Greedy(1, flow, REQUESTS_AT_ONCE_MAX)
    gone.ask()
    flow.gone(1)
    flow.resume()
    assert gone.paused
