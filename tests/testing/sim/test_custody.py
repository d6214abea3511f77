"""What may be let out while a batch is being stored, by hand (R14)."""

from __future__ import annotations

import pytest

from quorate.coordinator.engine import Batch
from quorate.coordinator.runs.outbox import Send
from quorate.testing.sim.custody import Custody
from quorate.testing.sim.trace import Violation
from quorate.wire.messages import (
    Changed,
    Done,
    Failed,
    Flag,
    Pong,
    Probe,
    Refused,
    Reply,
    Waiting,
    Welcome,
)


def send(message: Reply | None) -> Send:
    return Send((1,), message)


@pytest.mark.parametrize(
    "message",
    [
        Done(1, True, "node", "done"),
        Failed(1, "closed", "the run is closed"),
        Refused("settings", "min_nodes differs"),
        Waiting("nodes", "waiting for 2 more nodes", 1.0),
        Welcome(1, "coordinator", False),
        Changed(1, "lost"),
        Probe(1),
        Flag(1, True),
        None,
    ],
)
def test_everything_but_a_pong_is_kept_until_the_batch_is_stored(message: Reply | None) -> None:
    custody, kept = Custody(), send(message)
    custody.keep(Batch(1, {"key": b""}, True, [kept]))
    custody.let_out([send(Pong(1))])
    with pytest.raises(Violation, match="R14"):
        custody.let_out([kept])
    custody.release()
    custody.let_out([kept])


def test_an_answer_of_the_next_batch_does_not_go_with_the_last() -> None:
    custody, first, second = Custody(), send(Flag(1, True)), send(Flag(1, True))
    custody.keep(Batch(1, {"key": b""}, True, [first]))
    custody.release()
    custody.keep(Batch(2, {"key": b""}, True, [second]))
    custody.let_out([first])
    with pytest.raises(Violation, match="R14"):
        custody.let_out([second])


def test_while_nothing_is_stored_all_may_go() -> None:
    custody = Custody()
    custody.let_out([send(Flag(1, True))])
    assert not custody.keeps


def test_one_batch_is_stored_at_a_time() -> None:
    custody = Custody()
    custody.keep(Batch(1, {"key": b""}, True, []))
    assert custody.keeps
    with pytest.raises(Violation, match="before the last one is stored"):
        custody.keep(Batch(2, {"key": b""}, True, []))
