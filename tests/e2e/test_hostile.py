"""R15: strangers by the thousand, beside agents that must not notice them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from quorate.bench.usage import cpu_s, resident_bytes
from quorate.identity import Endpoint
from quorate.wire.frames import frame
from quorate.wire.messages import Challenge, Pong, Proven, Refused, Reply, encode
from quorate.wire.proof import NONCE_BYTES
from tests.e2e.cluster import Cluster
from tests.e2e.hostile import HOSTILE, KINDS, Secrets, healthy_agents, hostile
from tests.e2e.hostile_program import Crowd

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
        with hostile(cluster.endpoint, known) as attacks:
            used_s, began_s = cpu_s(coordinator.pid), time.monotonic()
            disturbed_s = healthy.median_s(STRETCH_S)
            used_s, took_s = cpu_s(coordinator.pid) - used_s, time.monotonic() - began_s
            growth = resident_bytes(coordinator.pid) - before
    assert len(attacks) == KINDS
    print(
        f"{sum(attacks.values())} attacks of {HOSTILE} clients, {growth / 2**20:.1f} MiB; a change "
        f"took {undisturbed_s:.3f} s undisturbed, {disturbed_s:.3f} s disturbed, when "
        f"the coordinator used {used_s / took_s:.0%} of a processor: {attacks}"
    )
    assert growth < GROWTH_BYTES_MAX
    assert disturbed_s < RATIO_MAX * undisturbed_s + SCHEDULING_S


ASKED = Challenge(bytes(NONCE_BYTES))


@pytest.mark.parametrize(
    ("kind", "answers", "attacks", "errors"),
    [
        ("wrong_token", [ASKED, Refused("authentication", "")], 1, 0),
        ("wrong_token", [ASKED, Refused("limit", "")], 0, 0),
        ("wrong_token", [ASKED, Proven(b"")], 0, 1),
        ("replayed", [Refused("authentication", "")], 0, 1),
        ("flood", [ASKED, Refused("authentication", "")], 0, 1),
        ("flood", [Pong(1)], 0, 1),
        ("flood", [], 0, 0),
    ],
)
def test_an_attack_counts_once_it_has_done_what_it_is_named_after(
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    answers: Sequence[Reply],
    attacks: int,
    errors: int,
) -> None:
    """What went wrong otherwise is told: an attack that never happens proves nothing."""
    monkeypatch.setenv("QUORATE_TOKEN", "sesame")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for reply in answers:
            await reader.read(1 << 16)
            writer.write(frame(encode(reply)))
        writer.close()

    async def strike() -> Crowd:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            crowd = Crowd(Endpoint("127.0.0.1", port), 1, None)
            await crowd.strike(getattr(crowd, kind))
            return crowd

    crowd = asyncio.run(strike())
    assert crowd.attacks[kind] == attacks
    assert sum(crowd.errors.values()) == errors, crowd.errors
