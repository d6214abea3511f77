"""A node of the direct way, step by step in virtual time, where nothing goes wrong."""

from __future__ import annotations

from datetime import timedelta

import pytest

from quorate.codec import decode_state
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.settings import RendezvousSettings, RendezvousTimeout
from quorate.testing.sim.node import SimNode
from quorate.testing.sim.process import Machine
from quorate.testing.sim.schedule import Schedule
from quorate.testing.sim.shared import SharedState

NODES = 4


@pytest.mark.parametrize("seed", range(10))
def test_r11_one_silent_interval_may_be_enough_where_nothing_goes_wrong(seed: int) -> None:
    """Nodes beat in time: before a round is complete, right after it, and from then on."""
    schedule = Schedule(seed)
    settings = RendezvousSettings(
        "run",
        NODES,
        NODES + 1,
        RendezvousTimeout(last_call=timedelta(seconds=schedule.between(6.0, 9.0))),
        keep_alive_interval=timedelta(seconds=5),
        keep_alive_max_attempt=1,
    )
    shared = SharedState(lambda writer, before, data: None)
    nodes = []
    for number in range(NODES):
        machine = Machine(schedule, f"n{number}")
        desc = NodeDesc(machine.name, number, 0)
        node = SimNode(
            schedule, machine, shared, desc, NodeProfile(), settings, lambda node, place: None
        )
        nodes.append(node)
        schedule.after(schedule.between(0.0, 2.0), node.handle, node.start)
    schedule.run_until(90.0)
    assert shared.data is not None
    state = decode_state(shared.data)
    assert (state.round, state.complete, state.departed) == (0, True, {})
    assert all(node.holding == state.name and not node.waiting for node in nodes)
