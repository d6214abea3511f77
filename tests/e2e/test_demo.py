"""`quorate demo`, as a person who has just cloned the repository runs it."""

from __future__ import annotations

import re
import time

import pytest

from tests.conftest import busy_s
from tests.e2e.cluster import Cluster

pytestmark = pytest.mark.timeout(150)

# What is promised.
DEMO_WITHIN_S = 60.0
# It starts so many programs, some after others.
DEMO_PROGRAMS = 10

# In this order; the times in front of them never run backwards.
SCENES = (
    r"round 0: A, B and C have met",
    r"kill -9 of agent \w, which had started the coordinator",
    r"round \d+",
    r"the training has ended",
)


def test_the_demo_tells_its_story_in_time(cluster: Cluster) -> None:
    began_s = time.monotonic()
    demo = cluster.quorate("demo")
    assert demo.exit_code(DEMO_WITHIN_S + 20.0) == 0, demo.report()
    took_s = time.monotonic() - began_s
    assert took_s < DEMO_WITHIN_S + DEMO_PROGRAMS * busy_s()
    timeline = demo.stdout[demo.stdout.index("what happened") + 1 :]
    scenes = [match for text in timeline if (match := re.fullmatch(r" +([\d.]+) s  (.*)", text))]
    times = [float(scene[1]) for scene in scenes]
    assert times == sorted(times)
    texts = iter(scene[2] for scene in scenes)
    for pattern in SCENES:
        assert any(re.search(pattern, text) for text in texts), f"no {pattern!r} in\n{timeline}"
    assert "the weights are the same, bit for bit" in timeline[-1]
    assert "Traceback" not in demo.report()
