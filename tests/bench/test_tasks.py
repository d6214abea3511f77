"""Tasks and reports as bytes."""

from __future__ import annotations

import pytest

from quorate.bench.tasks import (
    Begin,
    Close,
    Connect,
    Done,
    Join,
    Moments,
    Places,
    Reattach,
    Regroup,
    Traffic,
    Trouble,
    Usage,
    Work,
    decode_report,
    decode_task,
    encode,
)


@pytest.mark.parametrize(
    "task",
    [
        Begin("run", ["127.0.0.1:1"], 10, 9, 0, 10),
        Connect(1.0),
        Join(1.0),
        Regroup(1.0),
        Reattach(1.0),
        Usage(),
        Work("set", 3, 1.0),
        Close(),
    ],
)
def test_a_task_is_the_same_on_the_other_side(task: object) -> None:
    assert decode_task(encode(task)) == task  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "report",
    [
        Done(),
        Moments(1.0, [2.0], [3.0], [4.0]),
        Places(1.0, [2.0], [0], ["world"]),
        Traffic(1, 2),
        Trouble("why"),
    ],
)
def test_a_report_is_the_same_on_the_other_side(report: object) -> None:
    assert decode_report(encode(report)) == report  # type: ignore[arg-type]
