"""Handshakes by turns: what has begun and what has not, network by network (R15)."""

from __future__ import annotations

import pytest

from quorate.coordinator.entrance.newcomers import Newcomers, network_of

HERE, THERE = "10.0.0.1", "10.0.0.2"


def taken(newcomers: Newcomers) -> list[int]:
    numbers = []
    while (number := newcomers.take()) is not None:
        numbers.append(number)
    return numbers


def test_first_come_first_served_and_once() -> None:
    newcomers = Newcomers()
    for number in (3, 1, 3, 2):
        newcomers.wait(number, HERE, has_begun=False)
    assert len(newcomers) == 3
    assert taken(newcomers) == [3, 1, 2]
    newcomers.wait(3, HERE, has_begun=False)
    assert taken(newcomers) == [3]


def test_r15_a_crowd_of_one_network_keeps_its_own_waiting() -> None:
    newcomers = Newcomers()
    for number in range(100):
        newcomers.wait(number, HERE, has_begun=False)
    for number in (100, 101):
        newcomers.wait(number, THERE, has_begun=False)
    assert taken(newcomers)[:6] == [0, 100, 1, 101, 2, 3]


def test_what_has_begun_ends_while_others_begin() -> None:
    newcomers = Newcomers()
    for number in range(4):
        newcomers.wait(number, HERE, has_begun=False)
    order = []
    while (number := newcomers.take()) is not None:
        order.append(number)
        if order.count(number) == 1:
            newcomers.wait(number, HERE, has_begun=True)
    assert order == [0, 0, 1, 1, 2, 2, 3, 3]


def test_r15_neither_half_can_be_kept_from_its_turn() -> None:
    newcomers = Newcomers()
    for number in range(3):
        newcomers.wait(number, HERE, has_begun=True)
    for number in range(10, 15):
        newcomers.wait(number, HERE, has_begun=False)
    order = taken(newcomers)
    assert {number < 10 for number in order[:2]} == {True, False}
    assert sorted(order[:6]) == [0, 1, 2, 10, 11, 12]


def test_who_has_gone_has_no_turn() -> None:
    newcomers = Newcomers()
    for number in (1, 2, 3):
        newcomers.wait(number, HERE, has_begun=number == 2)
    for number in (2, 3, 4):
        newcomers.gone(number)
    assert taken(newcomers) == [1]
    newcomers.gone(1)
    assert len(newcomers) == 0


def test_r15_the_largest_crowd_has_the_last_one_to_lose() -> None:
    newcomers = Newcomers()
    assert newcomers.last_of_longest() is None
    newcomers.wait(1, HERE, has_begun=True)
    assert newcomers.last_of_longest() == 1
    for number, network in [(2, THERE), (3, HERE), (4, HERE), (5, THERE)]:
        newcomers.wait(number, network, has_begun=False)
    newcomers.gone(5)
    assert newcomers.last_of_longest() == 4


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
    ],
)
def test_a_network_is_what_one_peer_may_have(host: str, network: str) -> None:
    assert network_of(host) == network
