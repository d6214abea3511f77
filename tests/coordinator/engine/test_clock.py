"""R9: an engine's time is the time that was attended."""

from __future__ import annotations

import pytest

from quorate.coordinator.engine.clock import GAP_MAX_S, EngineClock
from quorate.testing import ManualClock


def test_time_goes_on_as_the_machine_has_it() -> None:
    machine = ManualClock()
    clock = EngineClock(machine)
    machine.advance(0.5)
    assert clock.monotonic() == 0
    assert clock.advance(stalled=False)
    assert clock.monotonic() == 0.5
    assert clock.now() == machine.now()


@pytest.mark.parametrize(("gap_s", "stalled"), [(GAP_MAX_S + 0.01, False), (0.5, True)])
def test_r9_a_gap_and_a_stall_do_not_count(gap_s: float, stalled: bool) -> None:
    machine = ManualClock()
    clock = EngineClock(machine)
    machine.advance(gap_s)
    assert not clock.advance(stalled)
    machine.advance(0.25)
    assert clock.advance(stalled=False)
    assert clock.monotonic() == 0.25


def test_it_is_for_judging_and_not_for_waiting() -> None:
    with pytest.raises(AssertionError):
        EngineClock(ManualClock()).sleep(1)
