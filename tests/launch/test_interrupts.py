from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import pytest

from quorate.launch.interrupts import Interrupted, Interrupts


def interrupts_of(
    on_second: Callable[[], None] = lambda: None,
    on_other: Callable[[signal.Signals], None] = lambda _: None,
) -> Interrupts:
    interrupts = Interrupts()
    interrupts.on_second, interrupts.on_other = on_second, on_other
    return interrupts


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def receive_while_waiting(number: signal.Signals) -> None:
    sender = threading.Timer(0.05, send, [number])
    sender.start()
    try:
        threading.Event().wait(10)
    finally:
        sender.join()


def test_a_signal_is_felt_where_the_agent_waits() -> None:
    interrupts = interrupts_of()
    with interrupts.installed():
        with pytest.raises(Interrupted), interrupts.felt():
            receive_while_waiting(signal.SIGTERM)
        assert interrupts.first is signal.SIGTERM
        assert not interrupts.urgent


def test_a_signal_elsewhere_is_kept_until_then() -> None:
    reached = []
    interrupts = interrupts_of()
    with interrupts.installed():
        send(signal.SIGHUP)
        with pytest.raises(Interrupted), interrupts.felt():
            reached.append("the block")
    assert reached == []


def test_the_second_signal_is_told_on_the_spot() -> None:
    told = []
    interrupts = interrupts_of(on_second=lambda: told.append("second"))
    with interrupts.installed():
        send(signal.SIGINT)
        assert told == []
        with interrupts.felt(above=1):
            pass
        send(signal.SIGTERM)
        assert told == ["second"]
        with pytest.raises(Interrupted), interrupts.felt(above=1):
            pass
        assert interrupts.urgent
        assert interrupts.first is signal.SIGINT


def test_what_is_meant_for_the_workers_is_handed_on_and_ends_nothing() -> None:
    before, told = signal.getsignal(signal.SIGUSR1), list[signal.Signals]()
    interrupts = interrupts_of(on_other=told.append)
    with interrupts.installed(), interrupts.felt():
        send(signal.SIGUSR1)
        send(signal.SIGUSR2)
        assert told == [signal.SIGUSR1, signal.SIGUSR2]
    assert interrupts.first is None
    assert signal.getsignal(signal.SIGUSR1) is before


def test_the_former_handlers_come_back_and_what_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        at_term = signal.getsignal(signal.SIGTERM)
        with interrupts_of().installed():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not at_term
        assert signal.getsignal(signal.SIGTERM) is at_term
    finally:
        signal.signal(signal.SIGHUP, before)
