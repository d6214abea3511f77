"""What a coordinator tells its log and the sinks of events."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from quorate import events
from quorate.coordinator.chronicle import tell
from quorate.events import EventState, RendezvousEvent
from tests.coordinator.driver import RUN, Driver

logger = logging.getLogger("quorate.coordinator")


@pytest.fixture
def sink() -> Iterator[list[RendezvousEvent]]:
    seen: list[RendezvousEvent] = []
    events.add_sink(seen.append)
    yield seen
    events.remove_sink(seen.append)


@pytest.fixture
def driver() -> Driver:
    """A coordinator that has lost a member of its world."""
    driver = Driver(2, 3)
    c = driver.world("a", "b", "c")[2]
    c.cut(finished=True)
    driver.let_pass(2.25)
    return driver


def test_events_are_structured(driver: Driver, sink: list[RendezvousEvent]) -> None:
    tell(logger, driver.engine.take_events())
    told = [(event.kind, event.node, event.rank, event.round, event.state) for event in sink]
    assert told[-1] == ("lost", "c_1_0", 2, 0, EventState.FAILED)
    assert ("joined", "a_1_0", None, 0, EventState.RUNNING) in told
    assert ("completed", "", None, 0, EventState.SUCCEEDED) in told
    assert {event.run_id for event in sink} == {RUN}
    assert sink[-1].message == "lost c_1_0: its process ended"


def test_the_log_has_fields_and_leaves_out_what_everybody_does(
    driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tell(logger, driver.engine.take_events())
    (lost,) = [record for record in caplog.records if "lost" in record.message]
    assert (lost.run, lost.round, lost.node, lost.rank) == (RUN, 0, "c_1_0", 2)  # type: ignore[attr-defined]
    assert not [record for record in caplog.records if "joins" in record.message]
