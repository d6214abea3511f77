"""Room for connections: who has come in stays, of the others the oldest goes."""

from __future__ import annotations

from quorate.coordinator.entrance.admission import (
    CONNECTIONS_MIN,
    FILES_RESERVED,
    Admission,
    connections_max,
)


def test_some_files_are_no_connections() -> None:
    assert connections_max(20_000) == 20_000 - FILES_RESERVED
    assert connections_max(10) == CONNECTIONS_MIN


def let_in(admission: Admission, number: int) -> int | None:
    """Count a new connection; return who has gone for it."""
    if not admission.arrived(number):
        return None
    leaving = admission.oldest_idle()
    admission.gone(leaving)
    return leaving


def test_half_may_be_newcomers_and_the_oldest_goes_first() -> None:
    admission = Admission(8)
    assert [let_in(admission, number) for number in range(4)] == [None] * 4
    assert let_in(admission, 4) == 0
    admission.gone(0)
    admission.welcomed(1)
    assert let_in(admission, 5) is None
    assert let_in(admission, 6) == 2


def test_who_has_come_in_stays_however_many_come() -> None:
    admission = Admission(4)
    for number in range(4):
        assert let_in(admission, number) is None
        admission.welcomed(number)
    assert [let_in(admission, number) for number in range(4, 100)] == list(range(4, 100))
    admission.gone(2)
    assert let_in(admission, 100) is None
    assert let_in(admission, 101) == 100


def test_who_had_to_go_is_not_welcome_any_more() -> None:
    admission = Admission(2)
    let_in(admission, 1)
    assert let_in(admission, 2) == 1
    admission.welcomed(1)
    admission.welcomed(2)
    assert let_in(admission, 3) is None


def test_r15_who_waits_for_the_coordinator_is_not_idle_and_counts() -> None:
    admission = Admission(8)
    for number in range(4):
        let_in(admission, number)
    for number in (0, 1, 99):
        admission.waits(number)
    assert let_in(admission, 4) == 2
    admission.served(0)
    assert [let_in(admission, number) for number in (5, 6, 7)] == [3, 4, 0]
    admission.welcomed(1)
    assert let_in(admission, 8) is None
