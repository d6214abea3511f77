"""`quorate history`: rounds and events, for people and for programs."""

from __future__ import annotations

from typing import Any

import msgspec
from click.testing import CliRunner

from quorate.cli.history import command, describe
from quorate.coordinator.runs.history import EVENTS_KEPT, REPORT_BYTES_MAX, ROUNDS_KEPT
from quorate.errors import RendezvousError
from tests.served import ThreadedCoordinator, make_handler


def test_the_rounds_of_a_run() -> None:
    coordinator = ThreadedCoordinator()
    handler = make_handler(coordinator.endpoint)
    try:
        handler.next_rendezvous()
        handler.set_closed("all done")
        asked = ["--endpoint", str(coordinator.endpoint), "job"]
        shown = CliRunner().invoke(command, [*asked, "--events"]).output
        assert "with 1 node(s): all 1 nodes are here" in shown
        assert f"  joined: {handler.node}\n" in shown
        assert ": closed: all done\n" in shown
        assert f"round 0 joined {handler.node}: joins round 0\n" in shown
        told = msgspec.json.decode(CliRunner().invoke(command, [*asked, "--json"]).output)
        assert [entry["ended_because"] for entry in told["rounds"]] == ["closed: all done"]
        absent = CliRunner().invoke(command, [*asked[:-1], "jbo"])
        assert isinstance(absent.exception, RendezvousError)
        assert "did you mean 'job'" in str(absent.exception)
    finally:
        handler.leave()
        coordinator.stop()


def test_long_lists_are_cut_for_people() -> None:
    entry: dict[str, Any] = {
        "round": 3,
        "began_at": "2020-01-01T00:00:00.123Z",
        "completed_at": "2020-01-01T00:00:05Z",
        "duration_s": 61.4,
        "ended_at": "2020-01-01T00:01:06Z",
        "world_size": 7,
        "joined": [f"n{number}" for number in range(7)],
        "departed": {"m0": "lost: it was silent for 15 s"},
        "completed_because": "all 7 nodes are here",
        "ended_because": "n1 came back to regroup",
    }
    assert describe({"run_id": "job", "rounds": [entry], "events": []}) == [
        "round 3, begun 2020-01-01 00:00:00",
        "  complete 2020-01-01 00:00:05 with 7 node(s): all 7 nodes are here",
        "  joined: n0, n1, n2, n3, n4 and 2 more",
        "  gone: m0 (lost: it was silent for 15 s)",
        "  ended 2020-01-01 00:01:06 after 61 s: n1 came back to regroup",
    ]


def test_help_says_how_much_is_kept() -> None:
    shown = " ".join(CliRunner().invoke(command, ["--help"]).output.split())
    assert f"last {ROUNDS_KEPT} rounds" in shown
    assert f"larger than {REPORT_BYTES_MAX // 2**20} MiB" in shown
    assert f"last {EVENTS_KEPT} events" in shown


def test_a_run_without_rounds() -> None:
    assert describe({"run_id": "job", "rounds": [], "events": []}) == ["run job: no round yet"]


def test_what_others_have_said_ends_no_line_and_reaches_no_terminal() -> None:
    event = {"at": "2020-01-01T00:00:00Z", "round": 0, "kind": "left", "node": "", "text": "\x1b[H"}
    shown = describe({"run_id": "x\ny", "rounds": [], "events": [event]}, events=True)
    assert shown == ["", r"2020-01-01 00:00:00 round 0 left: \x1b[H"]
    assert describe({"run_id": "x\ny", "rounds": []}) == [r"run x\ny: no round yet"]
