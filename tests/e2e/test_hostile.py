"""R15: strangers by the thousand, beside agents that must not notice them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from quorate.bench.usage import cpu_s, resident_bytes
from tests.e2e.cluster import Cluster
from tests.e2e.hostile import HOSTILE, KINDS, Secrets, healthy_agents, hostile

pytestmark = pytest.mark.timeout(120)

# The hostile clients come again within 3 s.
STRETCH_S = 4.0

# Whoever starves the agents makes them wait for seconds. What is aimed at is twice the undisturbed
# time, which `python -m tests.e2e.hostile_measure` measures: docs/reliability.md. Here hostile
# clients, agents, coordinator and two other tests share the machine, so no more than the order of
# magnitude can be demanded.
RATIO_MAX = 8.0
SCHEDULING_S = 0.5
# Of it connections take most: 1,000 of them, and with TLS 32 KiB each.
GROWTH_BYTES_MAX = 80 * 1024 * 1024


@pytest.mark.parametrize("secured", [False, True], ids=["token", "token and TLS"])
def test_r15_hostile_clients_disturb_nobody(
    cluster: Cluster, tmp_path: Path, secured: bool
) -> None:
    known = Secrets(tmp_path, secured)
    coordinator = known.serve(cluster)
    with healthy_agents(cluster.port, known) as healthy:
        undisturbed_s = healthy.median_s(STRETCH_S)
        before = resident_bytes(coordinator.pid)
        with hostile(cluster.endpoint, known) as tries:
            used_s, began_s = cpu_s(coordinator.pid), time.monotonic()
            disturbed_s = healthy.median_s(STRETCH_S)
            used_s, took_s = cpu_s(coordinator.pid) - used_s, time.monotonic() - began_s
            growth = resident_bytes(coordinator.pid) - before
    assert min(tries.values()) > 0
    assert len(tries) == KINDS
    print(
        f"{sum(tries.values())} tries of {HOSTILE} clients, {growth / 2**20:.1f} MiB; a change "
        f"took {undisturbed_s:.3f} s undisturbed, {disturbed_s:.3f} s disturbed, when "
        f"the coordinator used {used_s / took_s:.0%} of a processor: {tries}"
    )
    assert growth < GROWTH_BYTES_MAX
    assert disturbed_s < RATIO_MAX * undisturbed_s + SCHEDULING_S
