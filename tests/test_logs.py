from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from quorate import logs
from quorate.logs import FieldsFilter, FieldsFormatter, fields


@pytest.fixture(autouse=True)
def _knows_nothing_of_the_process() -> Iterator[None]:
    yield
    logs.note(run=None, round=None, node=None, rank=None)


def written(message: str, **extra: object) -> str:
    record = logging.makeLogRecord({"msg": message, "levelname": "INFO", **extra})
    assert FieldsFilter().filter(record)
    return FieldsFormatter("%(levelname)s %(message)s").format(record)


def test_a_line_says_what_it_is_about() -> None:
    assert written("lost", **fields("job17", 3, "node1_1_0", 0)) == (
        "INFO lost [run=job17 round=3 node=node1_1_0 rank=0]"
    )


def test_what_is_unknown_is_left_out() -> None:
    assert fields("", None, "", None) == {}
    assert written("a line") == "INFO a line"
    assert written("a line", **fields(round=0)) == "INFO a line [round=0]"


def test_what_is_known_of_the_process_stands_on_every_line() -> None:
    logs.note(run="job17", rank=2)
    assert written("a line") == "INFO a line [run=job17 rank=2]"
    assert written("a line", **fields(rank=5)) == "INFO a line [run=job17 rank=5]"
    logs.note(rank=None)
    assert written("a line") == "INFO a line [run=job17]"


def test_nobody_else_begins_a_line_or_reaches_the_terminal() -> None:
    run_id = "x\n2026 INFO run job17: all is well"
    line = written(f"run {run_id}: lost \x1b[2J", **fields(run_id))
    assert line == (
        r"INFO run x\n2026 INFO run job17: all is well: lost \x1b[2J "
        r"[run=x\n2026 INFO run job17: all is well]"
    )


def test_a_traceback_keeps_its_lines_and_nothing_else_that_commands() -> None:
    try:
        raise ValueError("no\x1b[2J")
    except ValueError as error:
        info = (type(error), error, error.__traceback__)
    lines = written("it failed", exc_info=info).splitlines()
    assert len(lines) > 2
    assert lines[-1] == r"ValueError: no\x1b[2J"


def test_a_traceback_comes_after_the_fields() -> None:
    try:
        raise ValueError("no")
    except ValueError as error:
        info = (type(error), error, error.__traceback__)
    lines = written("it failed", exc_info=info, **fields("job17")).splitlines()
    assert lines[0] == "INFO it failed [run=job17]"
    assert lines[-1] == "ValueError: no"
