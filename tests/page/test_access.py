"""Who may look, who may act, and by what names the page may be asked for."""

from __future__ import annotations

import pytest

from quorate.page.access import Access, is_own_name


def test_without_tokens_all_may_look_and_nobody_may_act() -> None:
    access = Access()
    assert access.is_open
    assert access.may_read("")
    assert not access.has_operators
    assert not access.may_act("")
    assert not access.may_act("anything")


def test_each_token_gives_its_own_right() -> None:
    access = Access(lambda: [b"old reader", b"new reader"], lambda: [b"operator"])
    assert not access.is_open
    assert [access.may_read(t) for t in ("", "x", "old reader", "new reader", "operator")] == [
        False,
        False,
        True,
        True,
        True,
    ]
    assert [access.may_act(t) for t in ("", "old reader", "operator", "öperator")] == [
        False,
        False,
        True,
        False,
    ]


def test_tokens_that_change_count_at_once() -> None:
    tokens = [b"first"]
    access = Access(lambda: tokens)
    assert access.may_read("first")
    tokens[:] = [b"second"]
    assert not access.may_read("first")


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("localhost:8080", True),
        ("LOCALHOST", True),
        ("127.0.0.1:8080", True),
        ("[::1]:8080", True),
        ("[::1]", True),
        ("10.1.2.3", True),
        ("node1:80", True),
        ("node1.:80", True),
        ("node2:80", False),
        ("evil.example:8080", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
    ],
)
def test_names_that_somebody_else_chose_are_not_ours(host: str, ours: bool) -> None:
    assert is_own_name(host, {"Node1"}) is ours
