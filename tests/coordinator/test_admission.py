"""Room for connections: who has come in stays, of the others the oldest goes."""

from __future__ import annotations

from quorate.coordinator.admission import (
    CONNECTIONS_MIN,
    FILES_RESERVED,
    Admission,
    connections_max,
)


def test_some_files_are_no_connections() -> None:
    assert connections_max(20_000) == 20_000 - FILES_RESERVED
    assert connections_max(10) == CONNECTIONS_MIN


def test_half_may_be_newcomers_and_the_oldest_goes_first() -> None:
    admission = Admission(8)
    assert [admission.arrived(number) for number in range(4)] == [None] * 4
    assert admission.arrived(4) == 0
    admission.gone(0)
    admission.welcomed(1)
    assert admission.arrived(5) is None
    assert admission.arrived(6) == 2


def test_who_has_come_in_stays_however_many_come() -> None:
    admission = Admission(4)
    for number in range(4):
        assert admission.arrived(number) is None
        admission.welcomed(number)
    assert [admission.arrived(number) for number in range(4, 100)] == list(range(4, 100))
    admission.gone(2)
    assert admission.arrived(100) is None
    assert admission.arrived(101) == 100


def test_who_had_to_go_is_not_welcome_any_more() -> None:
    admission = Admission(2)
    admission.arrived(1)
    assert admission.arrived(2) == 1
    admission.welcomed(1)
    admission.welcomed(2)
    assert admission.arrived(3) is None
