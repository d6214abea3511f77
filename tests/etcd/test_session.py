"""A node's session on a real etcd; the test plays who decides."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import msgspec
import pytest

from quorate.core.node import NodeDesc
from quorate.core.settings import PROTOCOL_VERSION
from quorate.errors import (
    RendezvousConnectionError,
    RendezvousError,
    RendezvousLimitError,
    RendezvousProtocolError,
    RendezvousTimeoutError,
)
from quorate.etcd import session as session_module
from quorate.etcd.client import EtcdClient
from quorate.etcd.letters import Answers, Keys, Words, framed, read, requests_in
from quorate.etcd.messages import KeyValue
from quorate.etcd.server import EtcdServer
from quorate.etcd.session import EtcdSession, local_address
from quorate.identity import Endpoint
from quorate.wire.messages import (
    ROLE_AGENT,
    Changed,
    Close,
    Flag,
    GetWorld,
    Hello,
    Reply,
    Request,
    Welcome,
)
from tests.conftest import freeze

pytestmark = pytest.mark.etcd

Until = Callable[..., Any]

LEASE_S = 3.0
runs = count()


@pytest.fixture(scope="module")
def server() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        yield server


class Desk:
    """A session, and who answers it."""

    def __init__(self, server: EtcdServer, until: Until, lease_s: float = LEASE_S) -> None:
        self.client = server.get_client(timeout_s=2.0)
        self.keys = Keys.of_run("/p", f"run{next(runs)}")
        self.until = until
        self.numbers = count(1)
        self.session = EtcdSession(
            self.client, [server.address], self.keys, "s", self.hello, lease_s
        )

    def hello(self, endpoint: Endpoint, addr: str) -> Hello:
        return Hello(PROTOCOL_VERSION, ROLE_AGENT, "run", "s", NodeDesc(addr, 1, 0, "s"))

    def key(self) -> KeyValue | None:
        found = self.client.range(self.keys.node("s")).kvs
        return found[0] if found else None

    def words(self) -> Words | None:
        key = self.key()
        return read(key.value, Words) if key is not None else None

    def said(self) -> list[Request]:
        words = self.words()
        return list(requests_in(words)) if words is not None else []

    def await_said(self, *kinds: type[Request]) -> list[Request]:
        self.until(lambda: [type(request) for request in self.said()] == list(kinds))
        return self.said()

    def tell(self, *replies: Reply) -> None:
        words = self.words()
        assert words is not None
        told = [(next(self.numbers), framed(reply)) for reply in replies]
        answers = Answers(words.attachment, 7, False, told)
        self.client.put(self.keys.answer("s"), msgspec.msgpack.encode(answers))

    def begin(self) -> None:
        self.session.start()
        self.await_said(Hello)
        self.tell(Welcome(PROTOCOL_VERSION, "the test", False))
        self.until(lambda: self.session.attachment.attached)


@pytest.fixture
def desk(server: EtcdServer, until: Until) -> Iterator[Desk]:
    desk = Desk(server, until)
    yield desk
    desk.session.close()
    desk.client.close()


def test_an_etcd_that_has_too_much_to_do_ends_no_session(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = [RendezvousLimitError("overloaded"), RendezvousLimitError("overloaded")]
    read = desk.client.range

    def range_of(key: bytes, *args: Any, **options: Any) -> Any:
        if key == desk.keys.answer("s") and refusals:
            raise refusals.pop()
        return read(key, *args, **options)

    monkeypatch.setattr(desk.client, "range", range_of)
    desk.begin()
    assert refusals == []


def test_a_session_says_hello_under_a_lease_and_takes_it_back_in_the_end(desk: Desk) -> None:
    desk.begin()
    (hello,) = desk.said()
    assert isinstance(hello, Hello)
    assert hello.node is not None
    assert hello.node.addr == "127.0.0.1"
    key = desk.key()
    assert key is not None
    assert key.lease != 0
    desk.session.close()
    assert desk.key() is None


def test_a_request_is_in_the_words_until_it_is_answered(desk: Desk) -> None:
    desk.begin()
    future = desk.session.submit(lambda id: Close(id, "why"))
    _, close = desk.await_said(Hello, Close)
    assert isinstance(close, Close)
    desk.tell(Flag(close.id, True))
    assert future.result(5) == Flag(close.id, True)
    desk.await_said(Hello)


def test_what_was_asked_before_etcd_was_there_is_said_with_the_hello(desk: Desk) -> None:
    future = desk.session.submit(GetWorld)
    desk.session.start()
    desk.await_said(Hello, GetWorld)
    assert future.cancel()
    desk.await_said(Hello)


def test_what_is_pushed_is_there_without_a_question(desk: Desk) -> None:
    desk.begin()
    desk.tell(Changed(1, "lost b"))
    desk.until(lambda: desk.session.attachment.waiting == 1)
    assert desk.session.detached_for_s() == 0


def test_a_lease_that_has_ended_makes_it_begin_anew(desk: Desk) -> None:
    desk.begin()
    former = desk.key()
    assert former is not None
    assert desk.client.revoke_lease(former.lease)
    # No answer key went with it: it is found out when the lease is to be kept alive.
    desk.until(lambda: (desk.words() or Words(0, 0, 0, b"")).attachment == 2, timeout_s=10)
    again = desk.key()
    assert again is not None
    assert again.lease != former.lease


def test_a_lease_that_has_ended_is_noticed_at_once_where_there_was_an_answer(
    server: EtcdServer, until: Until
) -> None:
    desk = Desk(server, until, lease_s=600)
    desk.begin()
    former = desk.key()
    assert former is not None
    answer = desk.client.range(desk.keys.answer("s")).kvs[0]
    desk.client.put(answer.key, answer.value, former.lease)
    assert desk.client.revoke_lease(former.lease)
    until(lambda: (desk.words() or Words(0, 0, 0, b"")).attachment == 2)
    desk.session.close()
    desk.client.close()


def test_a_lease_that_has_ended_is_noticed_by_a_put_too(desk: Desk) -> None:
    desk.begin()
    former = desk.key()
    assert former is not None
    desk.client.revoke_lease(former.lease)
    future = desk.session.submit(GetWorld)
    desk.await_said(Hello, GetWorld)
    future.cancel()


def test_an_etcd_that_does_not_answer_is_named_and_waited_for(
    desk: Desk, server: EtcdServer
) -> None:
    desk.begin()
    freeze(server.pid)
    try:
        with pytest.raises(RendezvousConnectionError, match="could not be reached"):
            desk.session.call(GetWorld, 4.0)
        assert desk.session.detached_for_s() > 0
    finally:
        os.kill(server.pid, signal.SIGCONT)
    desk.until(lambda: (desk.words() or Words(0, 0, 0, b"")).attachment > 1, timeout_s=10)


def test_an_etcd_that_takes_no_more_is_waited_for(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = iter([RendezvousLimitError("no space"), RendezvousLimitError("no space")])
    write = desk.client.try_transaction

    def refuse_twice(*arguments: Any) -> Any:
        if (error := next(refusals, None)) is not None:
            raise error
        return write(*arguments)

    monkeypatch.setattr(desk.client, "try_transaction", refuse_twice)
    desk.begin()
    assert desk.session.attachment.error is None


def test_a_hello_that_fits_into_no_key_ends_the_session(desk: Desk) -> None:
    future = desk.session.submit(lambda id: Close(id, "x" * 70_000))
    desk.session.start()
    with pytest.raises(RendezvousLimitError):
        future.result(5)


def test_nobody_answers_and_the_call_says_so(desk: Desk) -> None:
    desk.begin()
    with pytest.raises(RendezvousTimeoutError, match="no node of the run answered"):
        desk.session.call(GetWorld, 0.1)


def test_what_is_too_much_fails_for_its_caller_only(desk: Desk) -> None:
    desk.begin()
    with pytest.raises(RendezvousLimitError):
        desk.session.call(lambda id: Close(id, "x" * 70_000), 5.0)
    assert desk.session.attachment.attached


def test_r15_an_answer_key_with_something_else_ends_the_session(desk: Desk) -> None:
    desk.begin()
    desk.client.put(desk.keys.answer("s"), b"garbage")
    desk.until(lambda: desk.session.attachment.error is not None)
    assert isinstance(desk.session.attachment.error, RendezvousProtocolError)
    desk.until(lambda: desk.key() is None)


def test_an_end_fails_what_is_unanswered_and_what_comes_later(desk: Desk) -> None:
    desk.begin()
    future = desk.session.submit(GetWorld)
    desk.session.end(RendezvousError("enough"))
    for ended in (future, desk.session.submit(GetWorld)):
        with pytest.raises(RendezvousError, match="enough"):
            ended.result(5)
    desk.until(lambda: desk.key() is None)


def test_the_address_is_that_from_which_etcd_is_spoken_to() -> None:
    assert local_address([Endpoint("no.such.host.invalid", 1), Endpoint("127.0.0.1", 1)]) == (
        "127.0.0.1"
    )
    with pytest.raises(RendezvousConnectionError, match="no way to etcd"):
        local_address([Endpoint("no.such.host.invalid", 1)])


def test_nobody_waits_for_a_name_service_that_hangs(
    desk: Desk, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is asked meanwhile has a time limit of its own."""
    looks, may_end = [], threading.Event()

    def hang(endpoints: list[Endpoint]) -> str:
        looks.append(endpoints)
        may_end.wait(10.0)
        return "127.0.0.1"

    monkeypatch.setattr(session_module, "local_address", hang)
    desk.session.start()
    until(lambda: looks)
    began_s = time.monotonic()
    with pytest.raises(RendezvousConnectionError):
        desk.session.call(GetWorld, 0.1)
    assert time.monotonic() - began_s < 5.0
    may_end.set()


def test_a_client_is_shared_and_stays_open(desk: Desk, server: EtcdServer) -> None:
    desk.begin()
    desk.session.close()
    assert isinstance(desk.client, EtcdClient)
    assert desk.client.range(b"nothing").kvs == []
