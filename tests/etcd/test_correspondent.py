"""A node's side of the letters, by hand."""

from __future__ import annotations

import msgspec
import pytest

from quorate.coordinator.agent.attachment import Attachment
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.settings import PROTOCOL_VERSION
from quorate.core.state import Place
from quorate.errors import RendezvousLimitError, RendezvousProtocolError
from quorate.etcd.correspondent import Correspondent
from quorate.etcd.letters import Answers, Words, framed, read, requests_in
from quorate.wire.messages import (
    ROLE_AGENT,
    Changed,
    Close,
    Flag,
    Hello,
    Join,
    Joined,
    Probe,
    Refused,
    Reply,
    Request,
    Welcome,
)

WELCOME = Welcome(PROTOCOL_VERSION, "here", False)
PLACE = Place("e", 0, 0, 1, "d", "a", 1, 0, 1)


class Desk:
    """A correspondent, and one who answers it."""

    def __init__(self, labels: dict[str, str] | None = None) -> None:
        node, profile = NodeDesc("a", 1, 0, "s"), NodeProfile(labels=labels or {})
        hello = Hello(PROTOCOL_VERSION, ROLE_AGENT, "run", "s", node, profile)
        self.attachment = Attachment(lambda _: hello, 5.0)
        self.correspondent = Correspondent(self.attachment)

    def words(self) -> Words:
        return read(self.correspondent.words(), Words)

    def said(self) -> list[Request]:
        return list(requests_in(self.words()))

    def tell(
        self, *replies: Reply, first: int = 1, term: int = 5, to: int = 1, ended: bool = False
    ) -> None:
        told = [(number, framed(reply)) for number, reply in enumerate(replies, first)]
        value = msgspec.msgpack.encode(Answers(to, term, ended, told))
        self.correspondent.take(value, 0.0)


def begun() -> Desk:
    desk = Desk()
    desk.correspondent.begin("127.0.0.1", 0.0)
    desk.tell(WELCOME)
    desk.words()
    return desk


def join(request_id: int) -> Join:
    return Join(request_id, None, 1.0, NodeProfile())


def test_nothing_is_said_before_etcd_was_there() -> None:
    desk = Desk()
    desk.correspondent.request(1, join(1), 0.0)
    assert not desk.correspondent.has_begun
    desk.correspondent.begin("127.0.0.1", 0.0)
    assert desk.correspondent.has_begun
    assert desk.correspondent.has_news
    assert [type(request) for request in desk.said()] == [Hello, Join]
    assert not desk.correspondent.has_news


def test_what_is_asked_is_news_and_so_is_that_its_answer_was_read() -> None:
    desk = begun()
    desk.correspondent.request(1, join(1), 0.0)
    assert desk.correspondent.has_news
    assert [type(request) for request in desk.said()] == [Hello, Join]
    desk.tell(Joined(1, PLACE), first=2)
    assert desk.correspondent.has_news
    words = desk.words()
    (hello,) = requests_in(words)
    assert isinstance(hello, Hello)
    assert hello.holding == PLACE.world
    assert (words.term, words.heard) == (5, 2)


def test_what_was_pushed_is_read_and_costs_no_word() -> None:
    desk = begun()
    desk.tell(Changed(1, "lost b"), first=2)
    assert desk.attachment.changed_reason == "lost b"
    assert not desk.correspondent.has_news


def test_a_probe_is_answered_with_words_that_say_that_it_was_heard() -> None:
    desk = begun()
    desk.tell(Probe(1), first=2)
    assert desk.correspondent.has_news
    assert desk.words().heard == 2


def test_replies_that_were_read_are_not_read_again() -> None:
    desk = begun()
    desk.tell(Changed(1, "lost b"), first=2)
    desk.tell(Changed(0, ""), first=3)
    desk.tell(Changed(1, "lost b"), first=2)
    assert desk.attachment.waiting == 0


def test_the_next_one_who_decides_counts_anew_and_the_former_one_is_not_heard() -> None:
    desk = begun()
    desk.tell(Changed(1, "new"), first=1, term=9)
    assert desk.attachment.changed_reason == "new"
    desk.tell(Changed(1, "old"), first=7, term=5)
    assert desk.attachment.changed_reason == "new"
    desk.correspondent.request(1, join(1), 0.0)
    words = desk.words()
    assert (words.term, words.heard) == (9, 1)


def test_a_request_that_is_forgotten_is_not_asked_any_more() -> None:
    desk = begun()
    desk.correspondent.request(1, join(1), 0.0)
    desk.words()
    desk.correspondent.forget(1)
    assert desk.correspondent.has_news
    assert [type(request) for request in desk.said()] == [Hello]


def test_after_etcd_was_away_all_is_said_anew_and_no_answer_is_read_before() -> None:
    desk = begun()
    desk.correspondent.request(1, Close(1, "why"), 0.0)
    desk.correspondent.lost("etcd did not answer", 0.0)
    desk.tell(Flag(1, True), first=2)
    assert desk.attachment.take_outcomes() == []
    desk.correspondent.begin("127.0.0.1", 0.0)
    words = desk.words()
    assert words.attachment == 2
    assert [type(request) for request in requests_in(words)] == [Hello, Close]
    desk.tell(Flag(1, True), first=3, to=2)
    assert [outcome.answer for outcome in desk.attachment.take_outcomes()] == [Flag(1, True)]


def test_an_answer_to_a_former_beginning_shows_that_the_words_were_overwritten() -> None:
    desk = begun()
    desk.correspondent.lost("etcd did not answer", 0.0)
    desk.correspondent.begin("127.0.0.1", 0.0)
    desk.words()
    desk.tell(WELCOME, term=9, to=1)
    assert desk.correspondent.has_news
    assert not desk.attachment.attached


def test_a_node_that_is_told_to_begin_anew_does() -> None:
    desk = begun()
    desk.tell(Changed(1, "declared lost"), first=2, ended=True)
    assert desk.correspondent.has_news
    assert desk.words().attachment == 2


def test_a_refusal_ends_it() -> None:
    desk = begun()
    desk.tell(Refused("replaced", "another one is there"), first=2, ended=True)
    assert desk.attachment.error is not None
    assert not desk.correspondent.has_begun


def test_what_does_not_fit_into_a_key_is_refused_and_the_rest_goes_on() -> None:
    desk = begun()
    with pytest.raises(RendezvousLimitError, match="ask for less"):
        desk.correspondent.request(1, Close(1, "x" * 70_000), 0.0)
    assert [type(request) for request in desk.said()] == [Hello]


def test_a_hello_that_does_not_fit_is_refused() -> None:
    desk = Desk({"block": "b" * 70_000})
    desk.correspondent.begin("127.0.0.1", 0.0)
    with pytest.raises(RendezvousLimitError, match="labels"):
        desk.correspondent.words()


def test_r15_what_is_no_answer_is_refused() -> None:
    with pytest.raises(RendezvousProtocolError):
        begun().correspondent.take(b"garbage", 0.0)
