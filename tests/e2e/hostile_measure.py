"""`python -m tests.e2e.hostile_measure`: what a crowd of hostile clients costs healthy agents.

The same agents are measured calm, attacked, calm and beside, over and over. Attacked, the crowd is
at their coordinator; beside, it is at another one of this machine, and costs what comes of sharing
a machine with a crowd and with a coordinator under attack. Each time is divided by that of the
calm just before it. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import NamedTuple

from quorate.bench.usage import core_wait_s, cpu_s
from tests.conftest import wait_until
from tests.e2e.cluster import Cluster, Program, running_cluster
from tests.e2e.hostile import Healthy, Secrets, healthy_agents, hostile

WAYS = {"token": False, "tls": True}
REPEATS = 6

# Who was thrown out comes again within 3 s, who floods stays for 15 s.
STRETCH_S = 8.0

# A node that leaves, and one that comes.
COMING_AND_GOING = 2
GONE_WITHIN_S = 30.0


class Phase(NamedTuple):
    """What was seen in one stretch.

    Args:
        change_s: The median of how long a change took, in seconds.
        used: What the agents' coordinator had of a core.
        wanted: What it would have used besides, while others had the cores.
    """

    change_s: float
    used: float
    wanted: float


class Measure:
    """The healthy agents, and the coordinators that the crowd turns to.

    Args:
        healthy: The agents.
        coordinator: Theirs.
        stretch_s: How long each stretch lasts, in seconds.
    """

    def __init__(self, healthy: Healthy, coordinator: Program, stretch_s: float) -> None:
        self._healthy = healthy
        self._pid = coordinator.pid
        self._stretch_s = stretch_s

    def alone(self) -> Phase:
        began_s, used_s, waited_s = self._clocks()
        change_s = self._healthy.median_s(self._stretch_s)
        ended_s, used_till_s, waited_till_s = self._clocks()
        took_s = ended_s - began_s
        return Phase(change_s, (used_till_s - used_s) / took_s, (waited_till_s - waited_s) / took_s)

    def beside(self, endpoint: str, known: Secrets, without: Sequence[str]) -> tuple[Phase, int]:
        """Measure beside a crowd that is at an endpoint, and wait until it has gone."""
        files = self._open_files()
        with hostile(endpoint, known, without) as attacks:
            phase = self.alone()
        wait_until(
            lambda: self._open_files() <= files + COMING_AND_GOING,
            GONE_WITHIN_S,
            "the end of the crowd's connections",
        )
        return phase, sum(attacks.values())

    def _open_files(self) -> int:
        return len(os.listdir(f"/proc/{self._pid}/fd"))

    def _clocks(self) -> tuple[float, float, float]:
        return time.monotonic(), cpu_s(self._pid), core_wait_s(self._pid)


def main() -> None:
    options = parse()
    for way in options.ways:
        print(
            f"{way}: the median of a change in stretches of {options.seconds:g} s (what the "
            "coordinator had of a core, and what it would have used besides)",
            flush=True,
        )
        with tempfile.TemporaryDirectory() as name:
            measure_way(Path(name), WAYS[way], options)


def measure_way(folder: Path, secured: bool, options: argparse.Namespace) -> None:
    known = Secrets(folder, secured)
    ratios: dict[str, list[float]] = {"attacked": [], "beside": []}
    with ExitStack() as stack:
        own, other = (stack.enter_context(new_cluster(folder / name)) for name in ("own", "other"))
        coordinator = known.serve(own)
        known.serve(other)
        healthy = stack.enter_context(healthy_agents(own.port, known))
        measure = Measure(healthy, coordinator, options.seconds)
        for _ in range(options.repeats):
            for name, cluster in (("attacked", own), ("beside", other)):
                calm = measure.alone()
                phase, attacks = measure.beside(cluster.endpoint, known, options.without)
                ratios[name].append(phase.change_s / calm.change_s)
                print(f"  calm {told(calm)}; {name} {told(phase)}, {attacks} attacks", flush=True)
    for name, values in ratios.items():
        print(f"  {name}: {three(values)}")
    pairs = zip(ratios["attacked"], ratios["beside"], strict=True)
    print(f"  attacked to beside: {three([own / other for own, other in pairs])}", flush=True)


def new_cluster(folder: Path) -> AbstractContextManager[Cluster]:
    """Return programs of their own, with a port that nobody uses, as a context manager."""
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return running_cluster(folder, port)


def told(phase: Phase) -> str:
    return f"{phase.change_s * 1000:.0f} ms ({phase.used:.0%}, {phase.wanted:.0%})"


def three(values: Sequence[float]) -> str:
    return (
        f"smallest {min(values):.2f}, median {statistics.median(values):.2f}, "
        f"largest {max(values):.2f} of {len(values)}; {sum(value > 2 for value in values)} above 2"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.e2e.hostile_measure", description=__doc__
    )
    parser.add_argument("ways", nargs="*", metavar="WAY", help=f"of {', '.join(WAYS)}")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="of calm, attacked, beside")
    parser.add_argument("--seconds", type=float, default=STRETCH_S, help="of each stretch")
    parser.add_argument("--without", action="append", default=[], help="a kind that stays away")
    options = parser.parse_args()
    options.ways = options.ways or list(WAYS)
    if unknown := set(options.ways) - WAYS.keys():
        parser.error(f"there is no way {', '.join(unknown)}: choose of {', '.join(WAYS)}")
    return options


if __name__ == "__main__":
    main()
