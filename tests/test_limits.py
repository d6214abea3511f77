"""The limits that the documentation promises are those of the code."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

SECURITY = Path(__file__).parents[1] / "docs" / "security.md"

UNITS = {"": 1, "s": 1, "characters": 1, "KiB": 1024, "MiB": 1024**2}
ROW = re.compile(r"\| (?P<value>[^|]+) \| `(?P<module>[a-z_.]+)\.(?P<name>[A-Z_]+)` \|")

# Limits of what comes from the network; a new one has to be told.
MODULES = (
    "coordinator.entrance.admission",
    "coordinator.entrance.connection",
    "coordinator.entrance.flow",
    "coordinator.entrance.connections",
    "coordinator.entrance.unfinished",
    "coordinator.engine.reports",
    "coordinator.runs.store",
    "core.node",
    "wire.frames",
)
LIMIT = re.compile(r"^(?!_).*(_MAX|_TIMEOUT_S)$")
# How an end is waited for is no limit of a peer.
OTHERS = {"coordinator.entrance.connections.END_TIMEOUT_S"}


def told() -> dict[str, str]:
    """Return the values in the table, by constant."""
    return {
        f"{row['module']}.{row['name']}": row["value"] for row in ROW.finditer(SECURITY.read_text())
    }


@pytest.mark.parametrize("constant", told())
def test_r15_a_limit_is_what_the_documentation_says(constant: str) -> None:
    number, _, unit = told()[constant].removeprefix("one in ").replace(",", "").partition(" ")
    module, _, name = constant.rpartition(".")
    value = getattr(importlib.import_module(f"quorate.{module}"), name)
    assert value == float(number) * UNITS[unit]


@pytest.mark.parametrize("module", MODULES)
def test_every_limit_is_told(module: str) -> None:
    names = vars(importlib.import_module(f"quorate.{module}"))
    own = Path(str(names["__file__"])).read_text()
    limits = {
        f"{module}.{name}"
        for name in names
        if LIMIT.match(name) and re.search(rf"^{name} = ", own, re.MULTILINE)
    }
    assert limits - OTHERS <= told().keys()
