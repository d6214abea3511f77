"""A rendezvous is a span, where OpenTelemetry is installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from quorate.errors import RendezvousTimeoutError
from quorate.tracing import rendezvous_span
from tests.served import ThreadedCoordinator, make_handler

# A process has one provider, for good.
EXPORTER = InMemorySpanExporter()


@pytest.fixture(scope="module", autouse=True)
def _provider() -> None:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(EXPORTER))
    trace.set_tracer_provider(provider)


@pytest.fixture
def spans() -> Iterator[Any]:
    EXPORTER.clear()
    yield EXPORTER.get_finished_spans
    EXPORTER.clear()


def test_a_place_and_what_was_waited_for(spans: Any) -> None:
    with rendezvous_span("job17", "quorate") as span:
        span.waits("waiting for 2 more nodes")
        span.waits("waiting for 1 more node")
        span.joined(3, 1, 4, "node1_1_0")
    (told,) = spans()
    assert told.name == "quorate.next_rendezvous"
    assert dict(told.attributes) == {
        "quorate.run": "job17",
        "quorate.backend": "quorate",
        "quorate.wait_reason": "waiting for 1 more node",
        "quorate.round": 3,
        "quorate.rank": 1,
        "quorate.world_size": 4,
        "quorate.node": "node1_1_0",
    }
    assert [event.attributes["quorate.wait_reason"] for event in told.events] == [
        "waiting for 2 more nodes",
        "waiting for 1 more node",
    ]


def test_an_error_is_recorded_and_goes_on(spans: Any) -> None:
    with pytest.raises(RendezvousTimeoutError), rendezvous_span("job17", "quorate"):
        raise RendezvousTimeoutError("too late")
    (told,) = spans()
    assert told.status.status_code is StatusCode.ERROR
    assert told.events[0].name == "exception"


def test_without_opentelemetry_nothing_happens(spans: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with rendezvous_span("job17", "quorate") as span:
        span.waits("waiting")
        span.joined(0, 0, 1)
    assert spans() == ()


def test_without_opentelemetry_an_error_has_no_other_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with (
        pytest.raises(RendezvousTimeoutError) as caught,
        rendezvous_span("job17", "quorate"),
    ):
        raise RendezvousTimeoutError("too late")
    assert caught.value.__context__ is None


def test_a_handlers_rendezvous(spans: Any) -> None:
    coordinator = ThreadedCoordinator()
    handler = make_handler(coordinator.endpoint)
    handler.next_rendezvous()
    (told,) = spans()
    assert told.attributes["quorate.rank"] == 0
    assert told.attributes["quorate.world_size"] == 1
    assert told.attributes["quorate.node"] == str(handler.node)
    handler.leave()
    coordinator.stop()
