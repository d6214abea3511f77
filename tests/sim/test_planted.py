"""The simulator finds what it is there to find: each planted bug, within 5,000 seeds.

`python -m tests.sim.planted` plants and looks for them from the first seed on; `PLANTED` has the
seed at which it found each. Where seeds have come to mean other runs, run it again and note the
new ones: these tests look a few seeds further only.
"""

from __future__ import annotations

import pytest

from quorate.testing.sim.campaign import WAYS
from tests.sim.planted import PLANTED, first_violation

SEEDS_MAX = 5000
FURTHER = 100

pytestmark = [pytest.mark.sim, pytest.mark.timeout(120)]


@pytest.mark.parametrize("name", PLANTED)
def test_it_is_found(name: str) -> None:
    planted = PLANTED[name]
    assert planted.seed <= SEEDS_MAX
    found = first_violation(name, planted.seed, planted.seed + FURTHER)
    assert found is not None, f"{name} is not found any more near seed {planted.seed}"
    assert found.violation is not None
    assert found.violation.rule in planted.rules, found.violation
    assert found.trace, "a violation comes with what led to it"
    sound = WAYS[planted.way](found.seed).run()
    assert sound.violation is None, "without the bug the same seed keeps the rules"
