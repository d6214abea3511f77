from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from quorate import events
from quorate.core.node import NodeDesc
from quorate.events import EventState, JsonLinesSink, RendezvousEvent

NODE = NodeDesc("host", 12, 3, "f00d")
MOMENT = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def seen() -> Iterator[list[RendezvousEvent]]:
    collected: list[RendezvousEvent] = []
    sink = collected.append
    events.add_sink(sink)
    yield collected
    events.remove_sink(sink)


def tell(state: EventState = EventState.RUNNING) -> None:
    events.record("a.call", "run", "it went", state, NODE, rank=1, round_number=2, time=MOMENT)


def test_an_event_has_all_that_was_said(seen: list[RendezvousEvent]) -> None:
    tell()
    assert seen == [
        RendezvousEvent(
            "a.call", "run", "it went", EventState.RUNNING, "host", 12, MOMENT, 3, 1, 2, "host_12_3"
        )
    ]


def test_an_event_without_a_node_is_of_this_process(seen: list[RendezvousEvent]) -> None:
    events.record("a.call", "run", "it went")
    assert (seen[0].hostname, seen[0].pid) == (socket.gethostname(), os.getpid())
    assert seen[0].time.tzinfo is UTC
    assert seen[0].local_id is None


def test_a_removed_sink_hears_no_more(seen: list[RendezvousEvent]) -> None:
    def sink(event: RendezvousEvent) -> None:
        raise AssertionError("it was removed")

    events.add_sink(sink)
    events.remove_sink(sink)
    events.remove_sink(sink)
    tell()
    assert len(seen) == 1


def test_a_sink_that_raises_disturbs_nobody(
    seen: list[RendezvousEvent], caplog: pytest.LogCaptureFixture
) -> None:
    def broken(event: RendezvousEvent) -> None:
        raise OSError("disk full")

    later: list[RendezvousEvent] = []
    events.add_sink(broken)
    events.add_sink(later.append)
    try:
        tell()
    finally:
        events.remove_sink(broken)
        events.remove_sink(later.append)
    assert len(seen) == len(later) == 1
    assert "disk full" in caplog.text


@pytest.mark.parametrize(
    ("state", "level"),
    [
        (EventState.RUNNING, logging.DEBUG),
        (EventState.SUCCEEDED, logging.INFO),
        (EventState.FAILED, logging.WARNING),
    ],
)
def test_every_event_is_logged(
    state: EventState, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "quorate.events")
    tell(state)
    assert [(record.levelno, record.message) for record in caplog.records] == [
        (level, "[run] a.call: it went")
    ]


def test_events_as_lines_of_json(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "events.jsonl"
    sinks = [JsonLinesSink(path), JsonLinesSink("-")]
    for sink in sinks:
        events.add_sink(sink)
    tell()
    tell(EventState.FAILED)
    for sink in sinks:
        events.remove_sink(sink)
        sink.close()
    assert path.read_text() == capfd.readouterr().out
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert first["state"] == "RUNNING"
    assert second["state"] == "FAILED"
    assert first["time"] == "2020-01-01T00:00:00Z"
    assert (first["rank"], first["round"], first["node"]) == (1, 2, "host_12_3")


def test_a_file_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="absent"):
        JsonLinesSink(tmp_path / "absent" / "events.jsonl")
