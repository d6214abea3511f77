"""A node of the direct way, step by step in virtual time, where nothing goes wrong."""

from __future__ import annotations

from datetime import timedelta

import pytest

from quorate.codec import decode_state
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.settings import RendezvousSettings, RendezvousTimeout
from quorate.core.state import Place
from quorate.errors import RendezvousConnectionError, RendezvousError
from quorate.testing.sim.node import SimNode
from quorate.testing.sim.process import Machine
from quorate.testing.sim.schedule import Schedule
from quorate.testing.sim.shared import SharedState

NODES = 4


class Listener:
    """Keeps what becomes of nodes."""

    def __init__(self) -> None:
        self.ends: list[RendezvousError] = []
        self.retries_s: list[float] = []

    def placed(self, node: SimNode, place: Place) -> None:
        pass

    def retries(self, node: SimNode, error: RendezvousConnectionError) -> None:
        self.retries_s.append(node.machine.monotonic())

    def failed(self, node: SimNode, error: RendezvousError) -> None:
        self.ends.append(error)


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
        node = SimNode(schedule, machine, shared, desc, NodeProfile(), settings, Listener())
        nodes.append(node)
        schedule.after(schedule.between(0.0, 2.0), node.handle, node.start)
    schedule.run_until(90.0)
    assert shared.data is not None
    state = decode_state(shared.data)
    assert (state.round, state.complete, state.departed) == (0, True, {})
    assert all(node.holding == state.name and not node.waiting for node in nodes)


@pytest.mark.parametrize("cut_off", [True, False])
def test_r11_a_node_without_its_backend_ends_as_a_real_one_does(cut_off: bool) -> None:
    """Once it has been without an answer for as long as it may be silent."""
    schedule, listener = Schedule(1), Listener()
    settings = RendezvousSettings("run", 2, 2)
    shared = SharedState(lambda writer, before, data: None)
    machine = Machine(schedule, "n")
    node = SimNode(
        schedule, machine, shared, NodeDesc("n", 1, 0), NodeProfile(), settings, listener
    )
    node.handle(node.start)
    schedule.run_until(5.0)
    node.backend.cut_off = cut_off
    schedule.run_until(5.0 + settings.silence_s - 2.0)
    assert node.alive
    schedule.run_until(5.0 + settings.silence_s + 2.0)
    assert node.alive is not cut_off
    assert [type(end) for end in listener.ends] == [RendezvousConnectionError] * cut_off
    assert bool(listener.retries_s) is cut_off


def test_where_changes_are_watched_the_last_one_to_come_is_seen_at_once() -> None:
    took_s = {}
    for watched in (True, False):
        schedule = Schedule(1)
        settings = RendezvousSettings("run", 2, 2)
        shared = SharedState(lambda writer, before, data: None)
        shared.watched = watched
        nodes = []
        for number in range(2):
            machine, desc = Machine(schedule, f"n{number}"), NodeDesc(f"n{number}", 1, 0)
            profile = NodeProfile()
            nodes.append(SimNode(schedule, machine, shared, desc, profile, settings, Listener()))
            schedule.after(number * 4.3, nodes[number].handle, nodes[number].start)
        schedule.run_until(4.3)
        while nodes[0].place is None:
            schedule.run_until(schedule.now_s + 0.01)
        took_s[watched] = schedule.now_s - 4.3
    assert took_s[True] < 0.2 < took_s[False]
