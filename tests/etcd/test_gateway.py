"""Failover, deadlines and authentication, with members that answer as the test says."""

from __future__ import annotations

import itertools

import pytest

from quorate.errors import (
    RendezvousConnectionError,
    RendezvousLimitError,
    RendezvousProtocolError,
    RendezvousSettingsError,
)
from quorate.etcd.gateway import AUTHENTICATE, Credentials, Gateway
from quorate.etcd.transport import Reply
from quorate.identity import Endpoint
from quorate.testing.clock import ManualClock
from tests.etcd.scripted import (
    DISTRUSTED,
    DOWN,
    LOST,
    MEMBERS,
    Answer,
    Script,
    ScriptedStream,
    ScriptedTransport,
    ok,
)

RANGE = "/v3/kv/range"


class Bench:
    """A gateway whose members follow a script."""

    def __init__(
        self, script: Script, credentials: Credentials | None = None, members: int = 3
    ) -> None:
        self.clock = ManualClock()
        self.transport = ScriptedTransport(script, self.clock)
        self.gateway = Gateway(MEMBERS[:members], self.transport, credentials, self.clock)
        self.gateway._current = 0

    def read(self, limit_s: float = 60.0) -> Reply:
        return self.gateway.read(RANGE, b"{}", limit_s)

    def write(self, limit_s: float = 60.0) -> Reply | None:
        return self.gateway.write(RANGE, b"{}", limit_s)

    @property
    def hosts(self) -> str:
        return "".join(host for host, _ in self.transport.asked)


def only(host: str, otherwise: Answer) -> Script:
    return lambda endpoint, path: ok() if endpoint.host == host else otherwise


@pytest.mark.parametrize("failure", [DOWN, LOST, Reply(503, b""), Reply(500, b""), DISTRUSTED])
def test_a_read_goes_to_the_next_member_and_stays_there(failure: Answer) -> None:
    bench = Bench(only("c", failure))
    assert bench.read().status == 200
    assert bench.read().status == 200
    assert bench.hosts == "abcc"


def test_clients_begin_with_different_members() -> None:
    firsts = set()
    for _ in range(100):
        transport = ScriptedTransport(only("a", DOWN), ManualClock())
        firsts.add(Gateway(MEMBERS, transport, None, ManualClock())._current)
    assert firsts == {0, 1, 2}


def test_frozen_members_cost_little_and_slow_ones_get_more_time() -> None:
    bench = Bench(lambda endpoint, path: LOST)
    with pytest.raises(RendezvousConnectionError):
        bench.read(limit_s=60.0)
    assert bench.transport.limits_s[:7] == [2.0, 2.0, 2.0, 4.0, 4.0, 4.0, 8.0]
    assert bench.clock.monotonic() - 1000.0 == pytest.approx(60.0, abs=0.1)


def test_members_that_refuse_connections_are_asked_again_until_the_time_is_up() -> None:
    bench = Bench(lambda endpoint, path: DOWN)
    with pytest.raises(
        RendezvousConnectionError, match=r"within 60 s \(a:1: connection refused; b:1.*majority"
    ):
        bench.read(limit_s=60.0)
    assert bench.clock.monotonic() - 1000.0 == pytest.approx(60.0, abs=0.1)
    assert 150 < len(bench.transport.asked) < 500


def test_no_majority_is_named() -> None:
    bench = Bench(lambda endpoint, path: Reply(503, b""))
    with pytest.raises(RendezvousConnectionError, match=r"no leader or no majority \(HTTP 503\)"):
        bench.read(limit_s=1.0)


@pytest.mark.parametrize("loss", [LOST, Reply(503, b""), Reply(500, b""), Reply(504, b"")])
def test_a_write_whose_reply_was_lost_is_not_repeated_unseen(loss: Answer) -> None:
    """R14"""
    bench = Bench(lambda endpoint, path: loss)
    assert bench.write() is None
    assert bench.hosts == "a"
    assert bench.write() is None
    assert bench.hosts == "ab"


def test_a_write_that_reached_nobody_goes_to_the_next_member() -> None:
    bench = Bench(only("b", DOWN))
    reply = bench.write()
    assert reply is not None
    assert reply.status == 200
    assert bench.hosts == "ab"


def test_tls_that_no_member_agrees_to_is_told_at_once() -> None:
    bench = Bench(lambda endpoint, path: DISTRUSTED)
    with pytest.raises(RendezvousSettingsError, match=r"not trusted.*`ca_cert`"):
        bench.read()
    assert bench.hosts == "abc"


@pytest.mark.parametrize(
    ("status", "error", "hint"),
    [
        (400, RendezvousSettingsError, "password_file"),
        (401, RendezvousSettingsError, "who gives no user"),
        (403, RendezvousSettingsError, "grant the user"),
        (413, RendezvousLimitError, "too large"),
        (429, RendezvousLimitError, "out of space"),
        (301, RendezvousProtocolError, "is not etcd 3.4 or newer"),
        (501, RendezvousProtocolError, "correct the endpoint"),
    ],
)
def test_what_is_refused_is_told_in_one_line(
    status: int, error: type[Exception], hint: str
) -> None:
    bench = Bench(lambda endpoint, path: Reply(status, b"\xff<html>"))
    for call in (bench.read, bench.write):
        with pytest.raises(error, match=hint) as caught:
            call()
        assert "\n" not in str(caught.value)


class Authority:
    """Members that want a token, each good for some requests."""

    def __init__(self, uses: int, refusal: int = 401) -> None:
        self.uses = uses
        self.refusal = refusal
        self.issued = itertools.count(1)

    def __call__(self, endpoint: Endpoint, path: str) -> Answer:
        if path == AUTHENTICATE:
            self.left = self.uses
            return ok(token=f"token {next(self.issued)}")
        self.left -= 1
        return ok() if self.left >= 0 else Reply(self.refusal, b"")


@pytest.mark.parametrize("refusal", [400, 401])
def test_an_expired_token_is_replaced(refusal: int) -> None:
    """400 is what etcd answers after a change of its users."""
    bench = Bench(Authority(uses=2, refusal=refusal), Credentials("me", "secret"))
    for _ in range(4):
        assert bench.write() is not None
    tokens = [headers.get("Authorization") for headers in bench.transport.headers]
    assert tokens == [None, "token 1", "token 1", "token 1", None, "token 2", "token 2"]
    assert bench.transport.requests[0] == (AUTHENTICATE, {"name": "me", "password": "secret"})


def test_a_token_that_is_never_taken_is_told() -> None:
    bench = Bench(Authority(uses=0), Credentials("me", "secret"))
    with pytest.raises(RendezvousSettingsError, match="'me'"):
        bench.read()
    assert len(bench.transport.asked) == 4


@pytest.mark.parametrize("status", [400, 401, 412])
def test_a_wrong_password_is_told_and_not_shown(status: int) -> None:
    bench = Bench(lambda endpoint, path: Reply(status, b""), Credentials("me", "secret"))
    with pytest.raises(
        RendezvousSettingsError, match=r"'me' with this password.*password_file"
    ) as e:
        bench.read()
    assert "secret" not in str(e.value)
    assert "secret" not in repr(Credentials("me", "secret"))


@pytest.mark.parametrize("failure", [LOST, Reply(503, b"")])
def test_a_write_was_not_sent_while_its_token_was_not_there(failure: Answer) -> None:
    def script(endpoint: Endpoint, path: str) -> Answer:
        if path == AUTHENTICATE:
            return failure if endpoint.host == "a" else ok(token="t")
        return ok()

    bench = Bench(script, Credentials("me", "secret"))
    assert bench.write() is not None
    assert bench.hosts == "abb"


def test_a_stream_is_opened_at_the_next_member() -> None:
    stream = ScriptedStream()
    bench = Bench(lambda endpoint, path: stream if endpoint.host == "b" else LOST)
    assert bench.gateway.open_stream("/v3/watch", b"{}", 60.0, 5.0) is stream
    assert bench.transport.limits_s == [5.0, 5.0]


@pytest.mark.parametrize("status", [404, 200])
def test_a_stream_that_is_answered_with_something_else_is_told(status: int) -> None:
    bench = Bench(lambda endpoint, path: Reply(status, b""))
    with pytest.raises(RendezvousProtocolError, match="not etcd"):
        bench.gateway.open_stream("/v3/watch", b"{}", 60.0, 5.0)


def test_a_member_without_a_leader_must_say_so() -> None:
    bench = Bench(only("a", DOWN))
    bench.read()
    assert bench.transport.headers[0]["Grpc-Metadata-hasleader"] == "true"


def test_closing_closes_the_transport() -> None:
    bench = Bench(only("a", DOWN))
    bench.gateway.close()
    assert bench.transport.is_closed
