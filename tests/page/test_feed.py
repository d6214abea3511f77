"""What viewers are sent, and what happens to those who do not read."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from quorate.errors import RendezvousLimitError
from quorate.page import feed as module
from quorate.page.feed import UNREAD_BYTES_MAX, VIEWERS_MAX, Feed, Viewer, framed
from tests.coordinator.driver import RUN, Driver


class Seen:
    """What a feed sees of a coordinator, driven by hand."""

    name = "here"

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.refuses = ""

    @property
    def runs(self) -> dict[str, Any]:
        return self.driver.engine.runs

    def hindrance(self) -> str:
        return self.refuses


def make_feed(driver: Driver) -> tuple[Feed, Seen]:
    seen: Any = Seen(driver)
    return Feed(seen, driver.clock), seen


def take(viewer: Viewer) -> list[tuple[str, Any]]:
    return read(asyncio.run(viewer.take(0.01)))


def read(events: bytes) -> list[tuple[str, Any]]:
    found = []
    for block in filter(None, events.decode().split("\n\n")):
        if block == ":":
            continue
        name, data = block.split("\n")
        content = msgspec.json.decode(data.removeprefix("data: "))
        found.append((name.removeprefix("event: "), content))
    return found


def test_a_viewer_is_told_the_runs_and_then_what_changes() -> None:
    driver = Driver(2, 3)
    driver.agent("a").join()
    feed, _ = make_feed(driver)
    asyncio.run(feed.look())
    viewer = feed.attach(RUN)
    (coordinator, runs, version) = take(viewer)
    assert coordinator[1]["name"] == "here"
    assert [(brief["run"], brief["phase"], brief["nodes"]) for brief in runs[1]] == [
        (RUN, "joining", 1)
    ]
    name, number = feed.version(RUN)
    assert version == ("version", {"run": RUN, "timeline": name, "version": number})
    driver.agent("b").join()
    asyncio.run(feed.look())
    (run, diff) = take(viewer)
    assert (run[0], run[1]["nodes"]) == ("run", 2)
    assert (diff[0], diff[1]["from"], diff[1]["version"]) == ("diff", 1, 2)
    asyncio.run(feed.look())
    assert take(viewer) == []


def test_a_viewer_is_not_told_what_happens_in_other_runs() -> None:
    driver = Driver(2, 3)
    feed, _ = make_feed(driver)
    viewer = feed.attach("another")
    take(viewer)
    driver.agent("a").join()
    asyncio.run(feed.look())
    assert [name for name, _ in take(viewer)] == ["run"]


def test_a_viewer_that_does_not_read_is_told_that_it_is_behind() -> None:
    async def main() -> None:
        viewer = Viewer(RUN)
        event = framed("diff", b'"' + b"x" * (UNREAD_BYTES_MAX // 4) + b'"')
        for _ in range(10):
            viewer.send(event)
        assert (await viewer.take(1)).startswith(b"event: behind\n")

    asyncio.run(main())


def test_nobody_is_sent_more_after_the_limit_of_viewers() -> None:
    feed, _ = make_feed(Driver())
    viewers = [feed.attach("") for _ in range(VIEWERS_MAX)]
    with pytest.raises(RendezvousLimitError, match="64 viewers"):
        feed.attach("")
    feed.detach(viewers[0])
    feed.attach("")


def test_runs_that_are_forgotten_are_gone() -> None:
    driver = Driver(2, 3)
    driver.agent("a").join()
    feed, _ = make_feed(driver)
    asyncio.run(feed.look())
    viewer = feed.attach("")
    take(viewer)
    del driver.engine.runs[RUN]
    asyncio.run(feed.look())
    assert take(viewer) == [("gone", {"run": RUN})]
    assert asyncio.run(feed.snapshot(RUN)) is None


def test_a_run_that_begins_anew_has_another_timeline() -> None:
    driver = Driver(2, 3)
    driver.agent("a").join()
    feed, _ = make_feed(driver)
    asyncio.run(feed.look())
    viewer = feed.attach(RUN)
    (_, _, before) = take(viewer)
    del driver.engine.runs[RUN]
    asyncio.run(feed.look())
    driver.agent("b").join()
    asyncio.run(feed.look())
    (_, _, diff) = take(viewer)
    assert (diff[0], diff[1]["version"]) == ("diff", before[1]["version"])
    assert diff[1]["timeline"] != before[1]["timeline"]


def test_only_the_runs_that_changed_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMELINES_MAX", 0)
    driver = Driver(2, 3)
    driver.agent("a").join()
    feed, _ = make_feed(driver)
    asyncio.run(feed.look())
    assert asyncio.run(feed.snapshot(RUN)) is None
    asyncio.run(feed.look())
    assert asyncio.run(feed.snapshot(RUN)) is None, "nothing has changed since"


def test_a_run_that_somebody_looks_at_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMELINES_MAX", 0)
    driver = Driver(2, 3)
    driver.agent("a").join()
    feed, _ = make_feed(driver)
    viewer = feed.attach(RUN)
    asyncio.run(feed.look())
    assert [name for name, _ in take(viewer)] == ["coordinator", "runs", "run", "diff"]
    feed.detach(viewer)
    asyncio.run(feed.look())
    assert asyncio.run(feed.snapshot(RUN)) is None


def test_viewers_are_told_that_nobody_is_answered() -> None:
    feed, seen = make_feed(Driver())
    viewer = feed.attach("")
    take(viewer)
    seen.refuses = "the ledger cannot be written"
    asyncio.run(feed.look())
    ((name, content),) = take(viewer)
    assert (name, content["hindrance"]) == ("coordinator", "the ledger cannot be written")


def test_all_viewers_are_told_that_nobody_is_answered_and_not_the_newest_alone() -> None:
    feed, seen = make_feed(Driver())
    viewer = feed.attach("")
    take(viewer)
    seen.refuses = "the ledger cannot be written"
    feed.attach("")
    asyncio.run(feed.look())
    ((name, content),) = take(viewer)
    assert (name, content["hindrance"]) == ("coordinator", "the ledger cannot be written")


def test_others_are_served_while_many_nodes_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quorate.page.timeline.PART_NODES", 1)
    monkeypatch.setattr("quorate.page.feed.PART_NODES", 1)
    monkeypatch.setattr("quorate.coordinator.engine.parts.PART_NODES", 1)
    driver = Driver(3, 9)
    driver.world("a", "b", "c")
    feed, _ = make_feed(driver)

    async def main() -> None:
        looking = asyncio.ensure_future(feed.look())
        await asyncio.sleep(0)
        viewer = feed.attach(RUN)
        # What happens meanwhile is not in this look, and is in the next.
        newcomer = driver.agent("d")
        asking = asyncio.ensure_future(feed.snapshot(RUN))
        await asyncio.sleep(0)
        assert not looking.done()
        await looking
        assert feed.version(RUN)[1] == 1
        told = read(await viewer.take(1))
        assert [name for name, _ in told] == ["coordinator", "runs", "run", "diff"]
        assert told[1][1] == [], "it was not looked at to the end yet"
        timeline = msgspec.json.decode(await asking or b"")
        assert timeline["version"] == 2
        assert [lane["addr"] for lane in timeline["lanes"]] == ["a", "b", "c", newcomer.node.addr]

    asyncio.run(main())
