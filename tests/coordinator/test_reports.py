"""Large reports are shared; what has changed is never kept from whoever asks after it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from quorate.coordinator.reports import FRESH_S
from quorate.wire.messages import Hold, Report, Status
from tests.coordinator.driver import RUN, Driver


@pytest.fixture
def _small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quorate.wire.messages.COMPRESSED_FROM_BYTES", 1)


def ask(driver: Driver, id: int, run_id: str = "") -> dict[str, Any]:
    operator = driver.operator("")
    operator.say(Status(id, run_id))
    answer = operator.last(Report)
    assert answer.id == id
    told: dict[str, Any] = msgspec.json.decode(answer.text())
    return told


@pytest.mark.usefixtures("_small_is_large")
def test_a_large_report_is_made_once_for_all_who_ask_at_about_the_same_time() -> None:
    driver = Driver(2, 3)
    driver.world("a", "b")
    # Each one who asks is a connection more.
    assert ask(driver, 1)["connections"] == 3
    assert ask(driver, 2)["connections"] == 3
    assert ask(driver, 3, RUN)["connections"] == 5
    assert ask(driver, 4, "absent")["runs"] == []
    driver.let_pass(FRESH_S)
    assert ask(driver, 5, "absent")["connections"] == 7


@pytest.mark.usefixtures("_small_is_large")
def test_what_has_changed_is_in_it_at_once() -> None:
    driver = Driver(2, 3)
    a, _ = driver.world("a", "b")
    assert ask(driver, 1)["runs"][0]["held"] is None
    driver.operator().say(Hold(1, "power works"))
    assert ask(driver, 2)["runs"][0]["held"] == "power works"
    a.cut()
    nodes = ask(driver, 3)["runs"][0]["nodes"]
    assert [node["connected"] for node in nodes] == [False, True]


def test_a_small_report_is_always_made_anew() -> None:
    driver = Driver(2, 3)
    driver.world("a", "b")
    assert ask(driver, 1)["connections"] == 3
    assert ask(driver, 2)["connections"] == 4
