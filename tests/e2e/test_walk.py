"""The operator's walk of `examples/`, as a user takes it: real processes, and all views of them.

The walk is taken once. A browser, where there is one, looks at the page beside it: it is opened
before the run exists, and is told of every step.
"""

from __future__ import annotations

import importlib.util
import sys
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import missing, wait_until

pytestmark = pytest.mark.timeout(120)

SCRIPT = Path(__file__).parents[2] / "examples" / "operators_walk.py"

# The page is up to date within a second; a browser on a busy machine is not.
LOOK_S = 15.0

# What the run is after each step: its round, its state, and how many nodes are in which.
STEPS: list[tuple[int, str, dict[str, int]]] = [
    (0, "complete", {"participant": 6}),
    (0, "complete", {"participant": 6}),
    (1, "complete", {"participant": 4}),
    (1, "complete", {"participant": 4, "waiting": 2}),
    (1, "complete", {"participant": 4, "spare": 2}),
    (2, "complete", {"participant": 6}),
    (3, "complete", {"participant": 5}),
    (3, "closed", {"participant": 5}),
    (4, "closed", {}),
]

# What the page has among its last events in the end, newest last.
TOLD = [
    "is drained by the operator: new disks",
    "was evicted by the operator: a bad network card",
    "the operator holds rounds open: data is being copied",
    "the operator wants 4 node(s)",
    "the operator lets rounds complete",
    "the operator wants 6 node(s)",
    "its process ended",
    "closed: by the operator: moved to another cluster",
]

Shown = dict[str, Any]


@cache
def script() -> ModuleType:
    """Return the example as a module."""
    specification = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    # Data classes look for their module there.
    sys.modules[SCRIPT.stem] = module
    specification.loader.exec_module(module)
    return module


class Walk:
    """The steps that were taken, and what a browser showed after each of them, and should have."""

    def __init__(self) -> None:
        self.steps: list[Any] = []
        self.shown: list[Shown] = []
        self.expected: list[Shown] = []
        self.events = ""

    def take(self, browser: Any | None) -> None:
        with script().running_job() as job:
            if browser is not None:
                browser.get(f"{job.page}/?run={script().RUN}")
            for step in script().walk(job):
                self.steps.append(step)
                if browser is not None:
                    self._look(browser, expected(step.views.run))
            if browser is not None:
                self.events = browser.execute_script(EVENTS)

    def _look(self, browser: Any, expectation: Shown) -> None:
        """Note what is shown, once it is what should be, or it is too late."""
        seen: list[Shown] = []

        def same() -> bool:
            seen[:] = [browser.execute_script(LOOK)]
            return seen[0] == expectation

        with suppress(pytest.fail.Exception):
            wait_until(same, LOOK_S)
        self.shown.append(seen[0])
        self.expected.append(expectation)


EVENTS = "return document.getElementById('events').innerText"

LOOK = """
  const text = (name) => document.getElementById(name).innerText;
  const rows = [...document.querySelectorAll('[role=row]')].map((row) => row.textContent);
  return {
    run: text('run-id'), phase: text('phase'), round: text('figure-round'),
    world: text('figure-world').split(' ')[0], waiting: text('figure-waiting'),
    spares: text('figure-spares'),
    nodes: rows.map((row) => row.replace(/ for .*/, ''))
      .filter((row) => !/(lost|gone)$/.test(row)).sort(),
  };
"""


def expected(run: dict[str, Any]) -> Shown:
    """Return what the page should show of a run."""
    states = [node["state"] for node in run["nodes"]]
    return {
        "run": run["run_id"],
        "phase": run["state"] if run["held"] is None else f"{run['state']}, held",
        "round": str(run["round"]),
        "world": str(states.count("participant")),
        "waiting": str(states.count("waiting")),
        "spares": str(states.count("spare")),
        "nodes": sorted(map(row, run["nodes"])),
    }


def row(node: dict[str, Any]) -> str:
    """Return a node's row as the page has it."""
    name = node["node"].replace("_", "", 1)
    rank = "" if node["rank"] is None else f", rank {node['rank']}"
    return f"{name}{node['state']}{rank}"


@pytest.fixture(scope="module")
def walk() -> Walk:
    walk = Walk()
    with ExitStack() as stack:
        browser = None
        if not missing("browser"):
            from tests.page.browser import chromium

            browser = stack.enter_context(chromium())
        walk.take(browser)
    return walk


def test_all_views_agree_at_every_step(walk: Walk) -> None:
    runs = [step.views.run for step in walk.steps]
    assert [(run["round"], run["state"], script().states(run)) for run in runs] == STEPS
    assert all(step.views.differences() == [] for step in walk.steps)


def test_what_was_done_is_told(walk: Walk) -> None:
    runs = [step.views.run for step in walk.steps]
    (drained,) = [node for node in runs[1]["nodes"] if node["draining"]]
    assert (drained["node_id"], drained["draining"]) == ("n5", "drained by the operator: new disks")
    (ban,) = runs[2]["bans"]
    assert ban["who"] == "node id n4"
    assert 0 < ban["left_s"] <= 600
    assert [run["held"] for run in runs].count("data is being copied") == 1
    assert [run["desired_nodes"] for run in runs[3:6]] == [None, 4, 6]
    assert runs[-1]["closed_reason"] == "by the operator: moved to another cluster"
    assert all("n0" not in node["node_id"] for node in runs[6]["nodes"]), "it was killed"


def test_views_that_differ_are_noticed(walk: Walk) -> None:
    """The walk would not take any agreement for granted."""
    views = walk.steps[0].views
    changed = script().Views(**vars(views))
    changed.metrics = views.metrics | {("quorate_world_size_nodes", script().RUN): 5.0}
    changed.timeline = views.timeline | {"rounds": []}
    changed.history_page = {}
    assert [text.partition(":")[0] for text in changed.differences()] == [
        "/history.json",
        "the figures",
        "the rounds of the page",
    ]


@pytest.mark.browser
def test_the_page_shows_it(walk: Walk) -> None:
    assert walk.shown == walk.expected
    assert len(walk.shown) == len(STEPS)
    places = [walk.events.find(text) for text in TOLD]
    assert -1 not in places, walk.events
    assert places == sorted(places, reverse=True), "the newest stands first"
