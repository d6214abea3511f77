"""The watch: what a stream may say and do, scripted; then real members of etcd that fail."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from quorate.errors import RendezvousProtocolError, RendezvousSettingsError
from quorate.etcd import watch as watch_module
from quorate.etcd.client import EtcdClient
from quorate.etcd.gateway import Credentials
from quorate.etcd.messages import Put, operation
from quorate.etcd.receipt import Applied
from quorate.etcd.server import EtcdServer
from quorate.etcd.transport import Reply
from quorate.etcd.watch import Changes, Watch
from quorate.etcd.writer import Writer
from quorate.identity import Endpoint
from quorate.testing.clock import ManualClock
from quorate.testing.etcd import EtcdCluster
from tests.etcd.scripted import DOWN, MEMBERS, Answer, ScriptedStream, ScriptedTransport, ok

CREATED = {"result": {"header": {"revision": "4"}, "created": True}}


def event(revision: int) -> dict[str, object]:
    kv = {"key": "aw==", "mod_revision": str(revision)}
    return {"result": {"header": {"revision": "99"}, "events": [{"kv": kv}]}}


class Bench:
    """A client whose watch gets one answer after the other, and nothing but failures then."""

    def __init__(self, *answers: Answer, credentials: Credentials | None = None) -> None:
        self.answers = deque(answers)
        self.clock = ManualClock()
        self.transport = ScriptedTransport(self._script, self.clock)
        self.client = EtcdClient(
            MEMBERS[:1], credentials, clock=self.clock, transport=self.transport
        )

    def _script(self, endpoint: Endpoint, path: str) -> Answer:
        if path != "/v3/watch":
            return ok(token="t")
        return self.answers.popleft() if self.answers else DOWN

    def watch(self, start_revision: int = 5) -> Watch:
        return self.client.watch(b"k", start_revision)

    @property
    def start_revisions(self) -> list[object]:
        return [
            request["create_request"]["start_revision"]  # type: ignore[index]
            for path, request in self.transport.requests
            if path == "/v3/watch"
        ]


def revisions(watch: Watch, count: int) -> list[int]:
    return [changes.revision for _ in range(count) if (changes := watch.next(60.0))]


def test_it_goes_on_after_the_last_change_when_the_stream_is_cut() -> None:
    bench = Bench(
        ScriptedStream(CREATED, event(5), event(8)),
        DOWN,
        ScriptedStream(CREATED),
        ScriptedStream(CREATED, event(9)),
    )
    assert revisions(bench.watch(), 3) == [5, 8, 9]
    assert bench.start_revisions == [5, 9, 9, 9]


def test_an_error_within_the_stream_ends_it() -> None:
    bench = Bench(
        ScriptedStream(CREATED, {"error": {"grpc_code": 14}}, event(6)),
        ScriptedStream(CREATED, event(5)),
    )
    assert revisions(bench.watch(), 1) == [5]


def test_compacted_changes_are_told_as_a_gap_and_it_goes_on_from_there() -> None:
    compacted = {"result": {"canceled": True, "compact_revision": "30"}}
    bench = Bench(ScriptedStream(CREATED, compacted), ScriptedStream(CREATED, event(31)))
    watch = bench.watch()
    assert watch.next(60.0) == Changes((), 30, is_gap=True)
    assert revisions(watch, 1) == [31]
    assert bench.start_revisions == [5, 30]


def test_a_timeout_without_an_answer_is_no_change() -> None:
    bench = Bench()
    assert bench.watch().next(10.0) is None
    assert bench.clock.monotonic() - 1000.0 == pytest.approx(10.0, abs=0.1)


def test_no_time_is_no_request() -> None:
    bench = Bench(ScriptedStream(CREATED, event(5)))
    assert bench.watch().next(0.0) is None
    assert bench.transport.asked == []


def test_the_silence_that_is_borne_is_never_longer_than_the_call() -> None:
    bench = Bench(ScriptedStream(CREATED, event(5)), ScriptedStream(CREATED, event(6)))
    watch = bench.watch()
    watch.next(60.0)
    watch.next(1.5)
    assert bench.transport.limits_s == [5.0, 1.5]


def test_after_silence_a_member_that_answers_is_looked_for() -> None:
    bench = Bench(ScriptedStream(CREATED), ScriptedStream(CREATED, event(5)))
    bench.watch().next(60.0)
    assert [path for _, path in bench.transport.asked] == [
        "/v3/watch",
        "/v3/maintenance/status",
        "/v3/watch",
    ]


def test_an_etcd_that_has_too_much_to_do_is_asked_again_later() -> None:
    bench = Bench(*[Reply(429, b"")] * 3, ScriptedStream(CREATED, event(5)))
    assert revisions(bench.watch(), 1) == [5]
    assert bench.clock.monotonic() >= 3 * watch_module.LOAD_PAUSE_S
    bench = Bench(*[Reply(429, b"")] * 9)
    assert bench.watch().next(1.0) is None


def test_a_refused_watch_is_tried_with_a_new_token_and_then_told() -> None:
    """etcd refuses a watch within the stream, whether the token is old or the user may not."""
    refused = {"result": {"created": True, "canceled": True, "cancel_reason": "denied"}}
    credentials = Credentials("me", "secret")
    bench = Bench(
        ScriptedStream(refused), ScriptedStream(CREATED, event(5)), credentials=credentials
    )
    assert revisions(bench.watch(), 1) == [5]
    assert [path for _, path in bench.transport.asked].count("/v3/auth/authenticate") == 2
    bench = Bench(ScriptedStream(refused), ScriptedStream(refused), credentials=credentials)
    with pytest.raises(RendezvousSettingsError, match=r"watch b'k' \(denied\): grant"):
        bench.watch().next(60.0)


def test_what_is_not_etcd_is_told() -> None:
    with pytest.raises(RendezvousProtocolError, match="not etcd"):
        Bench(Reply(404, b"")).watch().next(60.0)
    stream = ScriptedStream()
    stream.content = [b"<html>"]
    with pytest.raises(RendezvousProtocolError, match="not etcd"):
        Bench(stream).watch().next(60.0)


def test_a_watch_from_nowhere_is_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        Bench().watch(0)


def test_closing_ends_it_and_gives_the_stream_up() -> None:
    stream = ScriptedStream(CREATED, event(5), event(6))
    bench = Bench(stream)
    with bench.watch() as watch:
        watch.next(60.0)
    assert stream.is_closed
    assert stream.is_released
    assert watch.next(60.0) is None


@pytest.fixture(scope="module")
def server() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        yield server


@pytest.mark.etcd
def test_changes_of_a_range_come_in_order(server: EtcdServer) -> None:
    with server.get_client() as client:
        revision = client.put(b"/r/a", b"1")
        client.put(b"/s", b"")
        client.delete(b"/r/a")
        with client.watch(b"/r/", revision, b"/r0") as watch:
            told: list[tuple[str, bytes]] = []
            while len(told) < 2 and (changes := watch.next(5.0)):
                told += [(each.type, each.kv.value) for each in changes.events]
        assert told == [("PUT", b"1"), ("DELETE", b"")]


@pytest.mark.etcd
def test_compaction_is_told_by_a_real_etcd(server: EtcdServer) -> None:
    with server.get_client() as client:
        first = client.put(b"k", b"1")
        last = client.put(b"k", b"2")
        client.compact(last)
        with client.watch(b"k", first) as watch:
            assert watch.next(5.0) == Changes((), last, is_gap=True)
            changes = watch.next(5.0)
            assert changes is not None
            assert changes.events[0].kv.value == b"2"


@pytest.mark.etcd
def test_closing_ends_a_wait(server: EtcdServer, until: Callable[..., Any]) -> None:
    with server.get_client() as client, ThreadPoolExecutor(1) as pool:
        watch = client.watch(b"quiet", 2**40)
        waiting = pool.submit(watch.next, 600.0)
        until(lambda: watch._stream)
        watch.close()
        assert waiting.result(5.0) is None
        watch.__exit__(None, None, None)


@pytest.mark.etcd
@pytest.mark.parametrize("failure", ["kill", "freeze"])
def test_nothing_is_missed_when_its_member_fails(
    failure: str, monkeypatch: pytest.MonkeyPatch, until: Callable[..., Any]
) -> None:
    """The facts of the issue: a frozen member and its silent stream."""
    monkeypatch.setattr(watch_module, "SILENCE_S", 1.0)
    with EtcdCluster() as cluster, cluster.client() as client, cluster.client() as other:
        start = client.put(b"k", b"0") + 1
        with client.watch(b"k", start) as watch, ThreadPoolExecutor(1) as pool:
            gateway = client._gateway
            victim = next(
                member
                for member in cluster.members
                if member.address.endpoint == gateway._endpoint()
            )
            waiting = pool.submit(watch.next, 15.0)
            until(lambda: watch._stream)
            victim.kill() if failure == "kill" else victim.freeze()
            written = Writer(other, b"writers/").write([], [operation(Put(b"k", b"1"))])
            assert isinstance(written, Applied)
            changes = waiting.result(20.0)
            assert changes is not None
            assert changes.revision == written.revision
