"""The load process."""

from __future__ import annotations

import asyncio
import multiprocessing
import subprocess
import sys

import pytest

from quorate.bench.floor import FloorCrowd
from quorate.bench.load import FLOOR, event_loop, perform
from quorate.bench.tasks import (
    Begin,
    Close,
    Connect,
    Done,
    Join,
    Task,
    Trouble,
    Usage,
    Work,
    decode_report,
    encode,
)

NOWHERE = "127.0.0.1:1"


@pytest.mark.parametrize("task", [Connect(1.0), Join(1.0)])
def test_what_cannot_be_done_is_reported(task: Task) -> None:
    async def steps() -> None:
        crowd = FloorCrowd()
        assert await perform(crowd, Begin("run", [NOWHERE], 1, 1, 0, 1)) == Done()
        assert await perform(crowd, Work("set", 1, 1.0)) == Trouble("The bare barrier cannot Work.")
        report = await perform(crowd, task)
        assert isinstance(report, Trouble)
        assert report.message

    asyncio.run(steps())


def test_the_floor_is_measured_on_the_standard_loop() -> None:
    loop = event_loop(FLOOR)
    loop.close()
    assert type(loop).__module__.startswith("asyncio")


def test_a_process_does_what_it_is_told_and_ends_with_the_one_that_tells() -> None:
    ours, theirs = multiprocessing.Pipe()
    descriptor = theirs.fileno()
    command = [sys.executable, "-m", "quorate.bench.load", str(descriptor), FLOOR, "10"]
    with subprocess.Popen(command, pass_fds=[descriptor]) as process:
        theirs.close()
        for task in (Begin("run", [NOWHERE], 1, 1, 0, 0), Close()):
            ours.send_bytes(encode(task))
            assert decode_report(ours.recv_bytes()) == Done()
        ours.send_bytes(encode(Usage()))
        assert not isinstance(decode_report(ours.recv_bytes()), Trouble)
        ours.close()
        assert process.wait(10.0) == 0
