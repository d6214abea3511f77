"""Every scenario, in both ways. `pytest tests/test_scenarios.py --rewrite` refreshes the files.

What a rewrite has changed is to be read like code: it is what the program promises.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.scenarios.language import WAYS, play, read, rewrite

SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))
RULES = [f"R{number}" for number in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario(path: Path, way: str, request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--rewrite"):
        path.write_text(rewrite(read(path)), encoding="utf-8")
    scenario = read(path)
    assert play(scenario, way).text(way) == scenario.text(way)


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario_is_written_as_a_rewrite_would(path: Path) -> None:
    """What is the same in both ways stands once."""
    assert path.read_text(encoding="utf-8") == rewrite(read(path))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario_names_its_rules(path: Path) -> None:
    first_line = path.read_text(encoding="utf-8").splitlines()[0]
    assert re.match(r"# R\d+(, R\d+)*: ", first_line), "begin with `# R4: what it shows`"


@pytest.mark.parametrize("rule", RULES)
def test_rule_has_a_scenario(rule: str) -> None:
    """These rules can be seen at the level of the scenarios; the others have tests elsewhere."""
    first_lines = [path.read_text(encoding="utf-8").splitlines()[0] for path in SCENARIOS]
    assert any(rule in re.findall(r"R\d+", line.split(": ")[0]) for line in first_lines)
