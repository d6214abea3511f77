"""What a simulated run is started with, drawn from its seed."""

from __future__ import annotations

from datetime import timedelta

from quorate.core.settings import RendezvousSettings, RendezvousTimeout
from quorate.testing.sim.schedule import Schedule

__all__ = ["NODES", "draw_node_count", "draw_settings"]

NODES = (8, 40)
JOIN_S = 300.0

# The unit, by the remainder of the number of nodes by eight.
UNITS = {3: 2, 6: 3}


def draw_node_count(schedule: Schedule) -> int:
    """Return how many nodes a run has: small ones are as telling as large ones, and quicker."""
    least, most = NODES
    return least + int((most - least + 1) * schedule.random.random() ** 3)


def draw_settings(schedule: Schedule, nodes: int) -> RendezvousSettings:
    """Return settings for so many nodes; the windows are short, so that a run is."""
    draw = schedule.random
    min_nodes = draw.randint(2, max(2, nodes * 2 // 3))
    max_nodes = draw.randint(max(min_nodes, nodes - 2), nodes + 2)
    # Some runs have whole units only; that takes no draw, so that it moves no other run's.
    unit = UNITS.get(nodes % 8, 1)
    min_nodes += -min_nodes % unit
    max_nodes += -max_nodes % unit
    policies = ("stable", "stable", "stable", "sorted", "hint", "topology")
    return RendezvousSettings(
        run_id="run",
        min_nodes=min_nodes,
        max_nodes=max_nodes,
        timeout=RendezvousTimeout(
            join=timedelta(seconds=JOIN_S),
            last_call=timedelta(seconds=draw.choice((1, 2, 3))),
            regroup=timedelta(seconds=draw.choice((4, 6))),
        ),
        keep_alive_interval=timedelta(seconds=2),
        keep_alive_max_attempt=3,
        rank_policy=draw.choice(policies),
        node_unit=unit,
        reconnect_grace=timedelta(seconds=draw.choice((0.5, 1))),
    )
