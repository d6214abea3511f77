"""An agent's session: what ends it, what does not, and what the caller is told."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from quorate.coordinator.agent import client as client_module
from quorate.coordinator.agent.answers import answered
from quorate.coordinator.agent.client import Client, background_loop
from quorate.coordinator.entrance.door import Keys
from quorate.errors import (
    RendezvousAuthenticationError,
    RendezvousConnectionError,
    RendezvousError,
    RendezvousProtocolError,
    RendezvousTimeoutError,
)
from quorate.identity import Endpoint
from quorate.testing import ManualClock
from quorate.wire.frames import frame
from quorate.wire.messages import (
    Hello,
    Probe,
    Redirect,
    Report,
    Status,
    Welcome,
    encode,
)
from tests.served import LOOPBACK, Proxy, ThreadedCoordinator, operator_hello, token

Until = Callable[..., Any]
MakeClient = Callable[..., Client]

INTERVAL_S = 0.3
LATE_S = 10.0


def ask(client: Client, timeout_s: float = LATE_S) -> Report:
    return answered(client.call(Status, timeout_s), Report)


@pytest.fixture
def coordinator() -> Iterator[ThreadedCoordinator]:
    coordinator = ThreadedCoordinator()
    yield coordinator
    coordinator.stop()


@pytest.fixture
def proxy(coordinator: ThreadedCoordinator) -> Iterator[Proxy]:
    proxy = Proxy(coordinator.endpoint)
    yield proxy
    proxy.close()


@pytest.fixture
def make_client() -> Iterator[MakeClient]:
    with contextlib.ExitStack() as made:

        def make(*endpoints: Endpoint, **options: Any) -> Client:
            hello = operator_hello()
            client = Client(endpoints, lambda *_: hello, INTERVAL_S, **options)
            made.callback(client.close)
            client.start()
            return client

        yield make


class FakeServer:
    """Another program on the port: it says the same on every connection, or something new."""

    def __init__(self, *answers: bytes) -> None:
        self._answers = answers
        self._listener = socket.create_server((LOOPBACK, 0))
        self._held: list[socket.socket] = []
        self.endpoint = Endpoint(*self._listener.getsockname())
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def visits(self) -> int:
        return len(self._held)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._held.append(connection)
                connection.sendall(self._answers[min(self.visits, len(self._answers)) - 1])

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(LATE_S)
        for connection in self._held:
            connection.close()


@pytest.fixture
def make_server() -> Iterator[Callable[..., FakeServer]]:
    with contextlib.ExitStack() as made:

        def make(*answers: bytes) -> FakeServer:
            server = FakeServer(*(answers or (b"",)))
            made.callback(server.close)
            return server

        yield make


def test_a_call_is_answered(coordinator: ThreadedCoordinator, make_client: MakeClient) -> None:
    report = ask(make_client(coordinator.endpoint))
    assert msgspec.json.decode(report.json)["runs"] == []


def test_all_clients_share_one_daemon_thread() -> None:
    assert background_loop() is background_loop()
    threads = [thread for thread in threading.enumerate() if thread.name == "quorate-client"]
    assert [thread.daemon for thread in threads] == [True]


def test_a_thread_that_could_not_be_started_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(client_module, "_loop", None)
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RendezvousConnectionError, match="can't start new thread"):
            background_loop()
    loop = background_loop()
    assert asyncio.run_coroutine_threadsafe(asyncio.sleep(0, "runs"), loop).result(LATE_S) == "runs"
    loop.call_soon_threadsafe(loop.stop)
    until(lambda: not loop.is_running(), what="the end of the loop")
    loop.close()


def test_nobody_listens(free_port: Callable[[], int], make_client: MakeClient) -> None:
    client = make_client(Endpoint(LOOPBACK, free_port()))
    with pytest.raises(RendezvousConnectionError) as caught:
        ask(client, 0.2)
    told = str(caught.value)
    assert f"{client.endpoint} could not be reached for 0.2 s: nobody listens there" in told
    assert "Check the endpoint" in told
    assert "Errno" not in told
    assert "\n" not in told


def test_a_name_that_cannot_be_resolved(make_client: MakeClient) -> None:
    client = make_client(Endpoint("a..b", 1))
    with pytest.raises(RendezvousConnectionError, match="host name cannot be resolved"):
        ask(client, 0.2)


def test_a_name_that_the_name_service_does_not_know(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    client = make_client(Endpoint("nowhere", 1))
    with pytest.raises(RendezvousConnectionError, match="Name or service not known") as caught:
        ask(client, 0.2)
    assert "Errno" not in str(caught.value)


def test_a_connection_that_is_reset_before_the_first_word(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def reset_at_once(make: Callable[[], Any], *_: object) -> tuple[None, Any]:
        return None, make()

    monkeypatch.setattr(background_loop(), "create_connection", reset_at_once)
    client = make_client(Endpoint(LOOPBACK, 1))
    with pytest.raises(RendezvousConnectionError, match="the connection was reset"):
        ask(client, 0.2)


def test_another_program_that_talks(
    make_client: MakeClient, make_server: Callable[[bytes], FakeServer]
) -> None:
    server = make_server(b"HTTP/1.0 400 Bad Request\r\n\r\n")
    began_s = time.monotonic()
    with pytest.raises(RendezvousProtocolError) as caught:
        ask(make_client(server.endpoint))
    assert time.monotonic() - began_s < LATE_S / 2
    assert str(server.endpoint) in str(caught.value)
    assert "another program" in str(caught.value)


def test_another_program_that_is_silent(
    make_client: MakeClient, make_server: Callable[[], FakeServer]
) -> None:
    server = make_server()
    with pytest.raises(RendezvousConnectionError, match="takes connections, but does not answer"):
        ask(make_client(server.endpoint), 3 * INTERVAL_S)
    assert server.visits > 1


def test_a_coordinator_that_does_not_answer_is_told_from_none(
    make_client: MakeClient, make_server: Callable[[bytes], FakeServer]
) -> None:
    server = make_server(frame(encode(Welcome(1, "fake", False))))
    with pytest.raises(RendezvousTimeoutError, match="though it is connected"):
        ask(make_client(server.endpoint), 0.1)


def test_the_next_endpoint_is_tried(
    coordinator: ThreadedCoordinator, free_port: Callable[[], int], make_client: MakeClient
) -> None:
    client = make_client(Endpoint(LOOPBACK, free_port()), coordinator.endpoint)
    ask(client)
    assert client.endpoint == coordinator.endpoint
    assert client.detached_for_s() == 0.0


def test_it_goes_where_a_coordinator_that_stands_by_sends_it(
    coordinator: ThreadedCoordinator,
    make_server: Callable[[bytes], FakeServer],
    make_client: MakeClient,
) -> None:
    """The holder need not be one of the endpoints that the agent was given."""
    standby = make_server(frame(encode(Redirect(str(coordinator.endpoint)))))
    client = make_client(standby.endpoint)
    ask(client)
    assert client.endpoint == coordinator.endpoint


def test_a_holder_that_cannot_be_read_is_not_looked_for(
    coordinator: ThreadedCoordinator,
    make_server: Callable[[bytes], FakeServer],
    make_client: MakeClient,
) -> None:
    standby = make_server(frame(encode(Redirect("[no:endpoint:70000"))))
    client = make_client(standby.endpoint, coordinator.endpoint)
    ask(client)
    assert client.endpoint == coordinator.endpoint


def test_a_refused_hello_ends_the_session(coordinator: ThreadedCoordinator) -> None:
    def hello(endpoint: Endpoint, local_addr: str) -> Hello:
        return Hello(99, "operator", "", "s")

    client = Client([coordinator.endpoint], hello, INTERVAL_S)
    client.start()
    for _ in range(2):
        with pytest.raises(RendezvousProtocolError, match="the peer version 99"):
            ask(client)
    client.close()


SECRET, OTHER = "our-own-shared-secret", "another-shared-secret"
OURS = token(SECRET.encode())


@pytest.fixture
def locked() -> Iterator[ThreadedCoordinator]:
    coordinator = ThreadedCoordinator(keys=Keys(OURS))
    yield coordinator
    coordinator.stop()


def test_r11_with_a_token_too_cuts_are_survived(
    locked: ThreadedCoordinator, make_client: MakeClient, until: Until
) -> None:
    proxy = Proxy(locked.endpoint)
    client = make_client(proxy.endpoint, token=OURS)
    for harm in (proxy.finish, proxy.reset):
        ask(client)
        harm()
    ask(client)
    proxy.close()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "wants a token: give it with"),
        (token(OTHER.encode()), "does not accept this node's token"),
    ],
    ids=["none", "another"],
)
def test_r15_without_the_token_the_session_ends(
    given: Any,
    words: str,
    locked: ThreadedCoordinator,
    make_client: MakeClient,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    with pytest.raises(RendezvousAuthenticationError, match=words) as caught:
        ask(make_client(locked.endpoint, token=given))
    assert str(locked.endpoint) in str(caught.value)
    assert not any(secret in str(caught.value) + caplog.text for secret in (SECRET, OTHER))


@pytest.mark.parametrize(
    "said",
    [b"", frame(encode(Redirect("elsewhere:1"))), frame(encode(Welcome(1, "here", False)))],
    ids=["a real one", "one that sends on", "one that welcomes"],
)
def test_r15_a_coordinator_that_does_not_prove_itself_is_not_believed(
    said: bytes,
    coordinator: ThreadedCoordinator,
    make_server: Callable[[bytes], FakeServer],
    make_client: MakeClient,
) -> None:
    endpoint = make_server(said).endpoint if said else coordinator.endpoint
    with pytest.raises(RendezvousAuthenticationError, match="has not proved"):
        ask(make_client(endpoint, token=OURS))


def test_r11_an_impostor_on_the_port_is_mentioned_and_outlasted(
    make_server: Callable[[bytes], FakeServer],
    make_client: MakeClient,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    until: Until,
) -> None:
    monkeypatch.setattr(client_module, "COMPLAIN_AFTER_S", 0.2)
    caplog.set_level("INFO")
    first = ThreadedCoordinator(keys=Keys(OURS))
    impostor = make_server(frame(encode(Welcome(1, "here", False))))
    client = make_client(first.endpoint, impostor.endpoint, token=OURS)
    ask(client)
    first.stop()
    until(lambda: "has not proved that it knows" in caplog.text, what="a line about it")
    again = ThreadedCoordinator(keys=Keys(OURS), port=first.endpoint.port)
    ask(client)
    again.stop()


def test_r11_cuts_are_survived(proxy: Proxy, make_client: MakeClient) -> None:
    client = make_client(proxy.endpoint)
    for harm in (proxy.finish, proxy.reset) * 3:
        ask(client)
        harm()
    ask(client)
    assert proxy.connections >= 2


@pytest.mark.parametrize("way", ["forth", "back"])
def test_r11_a_silent_connection_is_replaced(
    way: str, proxy: Proxy, make_client: MakeClient, until: Until
) -> None:
    client = make_client(proxy.endpoint)
    ask(client)
    proxy.stall(forth=way == "forth", back=way == "back")
    until(lambda: client.detached_for_s() > 0, what="the silence to be noticed")
    proxy.reset()
    proxy.resume()
    ask(client)
    assert client.detached_for_s() == 0.0


def test_r11_an_idle_connection_is_kept(
    coordinator: ThreadedCoordinator, proxy: Proxy, make_client: MakeClient, until: Until
) -> None:
    client = make_client(proxy.endpoint)
    ask(client)
    pings = client.attachment._pings
    until(lambda: client.attachment._pings >= pings + 6, what="some beats")
    assert proxy.connections == 1


def test_a_probe_is_answered(
    coordinator: ThreadedCoordinator, make_client: MakeClient, until: Until
) -> None:
    """Whatever the coordinator asks is written at once, not at the next beat."""
    client = Client([coordinator.endpoint], operator_hello, 1000.0)
    client.start()
    ask(client)
    (connection,) = coordinator.server._connections.by_number.values()
    heard_s = connection.heard_s
    coordinator.do(lambda: connection.write(frame(encode(Probe(1)))))
    until(lambda: connection.heard_s > heard_s, what="the ping")
    client.close()


def test_the_host_is_called_while_nobody_listens(
    free_port: Callable[[], int], make_client: MakeClient
) -> None:
    """A refused connection makes this process try to host; the session goes on from there."""
    endpoint = Endpoint(LOOPBACK, free_port())
    started: list[ThreadedCoordinator] = []
    threads: list[threading.Thread] = []

    def host(where: Endpoint) -> None:
        threads.append(threading.current_thread())
        if len(threads) == 2 and where == endpoint:
            started.append(ThreadedCoordinator(port=where.port))

    client = make_client(endpoint, host=host)
    ask(client)
    assert len(threads) == 2
    assert threads[0].name.startswith("quorate-client_")
    client.close()
    started[0].stop()


def test_nothing_is_started_where_only_another_coordinator_sends_an_agent(
    coordinator: ThreadedCoordinator,
    make_server: Callable[..., FakeServer],
    free_port: Callable[[], int],
    make_client: MakeClient,
) -> None:
    """It would stand beside the state that those who send on share; impostors send on, too."""
    gone = Redirect(f"{LOOPBACK}:{free_port()}")
    here = Redirect(str(coordinator.endpoint))
    standby = make_server(frame(encode(gone)), frame(encode(here)))
    asked: list[Endpoint] = []
    ask(make_client(standby.endpoint, host=asked.append))
    assert standby.visits == 2
    assert asked == []


def test_a_host_that_is_refused_explains_why(
    free_port: Callable[[], int], make_client: MakeClient
) -> None:
    def host(where: Endpoint) -> None:
        raise RendezvousConnectionError("The disk is on fire.")

    client = make_client(Endpoint(LOOPBACK, free_port()), host=host)
    with pytest.raises(RendezvousConnectionError, match="The disk is on fire"):
        ask(client, 0.2)


def test_a_host_that_hangs_holds_up_nothing(
    free_port: Callable[[], int], make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "HOST_TIMEOUT_S", 0.05)
    may_end = threading.Event()
    endpoint = Endpoint(LOOPBACK, free_port())
    asked: list[Endpoint] = []

    def host(where: Endpoint) -> None:
        asked.append(where)
        may_end.wait(LATE_S)

    client = make_client(endpoint, host=host)
    with pytest.raises(RendezvousConnectionError, match="whether the name service answers"):
        ask(client, 1.0)
    coordinator = ThreadedCoordinator(port=endpoint.port)
    ask(client)
    assert asked == [endpoint]
    may_end.set()
    client.close()
    coordinator.stop()


def test_a_session_that_cannot_go_on_ends_instead_of_hanging(
    free_port: Callable[[], int], make_client: MakeClient
) -> None:
    def host(where: Endpoint) -> None:
        raise ValueError("no idea")

    client = make_client(Endpoint(LOOPBACK, free_port()), host=host)
    with pytest.raises(RendezvousError, match="no idea"):
        ask(client)


def test_r16_an_unreachable_coordinator_is_mentioned_now_and_then(
    free_port: Callable[[], int],
    make_client: MakeClient,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_module, "COMPLAIN_AFTER_S", 0.2)
    caplog.set_level("INFO")
    with pytest.raises(RendezvousConnectionError):
        ask(make_client(Endpoint(LOOPBACK, free_port())), 1.0)
    lines = [record for record in caplog.records if "no coordinator at" in record.message]
    assert len(lines) == 1
    assert "nobody listens there" in lines[0].message


def test_a_request_that_cannot_be_made_is_the_callers_error(
    coordinator: ThreadedCoordinator, make_client: MakeClient
) -> None:
    client = make_client(coordinator.endpoint)

    def broken(request_id: int) -> Status:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        client.call(broken, LATE_S)
    ask(client)


def test_a_cancelled_request_is_forgotten(
    proxy: Proxy, make_client: MakeClient, until: Until
) -> None:
    client = make_client(proxy.endpoint)
    ask(client)
    proxy.stall()
    future = client.submit(Status)
    until(lambda: client.attachment._requests, what="the request to be under way")
    assert future.cancel()
    until(lambda: not client.attachment._requests, what="the request to be forgotten")
    proxy.resume()
    ask(client)


def test_closing_fails_what_is_open_and_what_comes_later(
    proxy: Proxy, make_client: MakeClient, until: Until
) -> None:
    client = make_client(proxy.endpoint)
    ask(client)
    proxy.stall()
    future = client.submit(Status)
    until(lambda: client.attachment._requests, what="the request to be under way")
    client.close()
    for pending in (future, client.submit(Status)):
        with pytest.raises(RendezvousConnectionError, match="closed"):
            pending.result(LATE_S)
    client.close()


def test_closing_in_its_own_thread_does_not_wait_for_itself(
    coordinator: ThreadedCoordinator, make_client: MakeClient
) -> None:
    client = make_client(coordinator.endpoint)
    ask(client)
    closed = threading.Event()

    def close() -> None:
        client.close(LATE_S)
        closed.set()

    background_loop().call_soon_threadsafe(close)
    assert closed.wait(LATE_S / 2)


def test_many_threads_share_a_session(
    coordinator: ThreadedCoordinator, make_client: MakeClient
) -> None:
    client = make_client(coordinator.endpoint)
    answers: list[int] = []

    def visit() -> None:
        for _ in range(20):
            answers.append(ask(client).id)

    threads = [threading.Thread(target=visit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LATE_S)
    assert sorted(answers) == list(range(1, 81))


WELCOME = frame(encode(Welcome(1, "here", False)))


def test_r11_garbage_from_a_coordinator_costs_a_connection(
    make_server: Callable[..., FakeServer], caplog: pytest.LogCaptureFixture
) -> None:
    server = make_server(WELCOME + b"garbage", WELCOME + frame(encode(Report(1, b"{}"))))
    hello = operator_hello()
    client = Client([server.endpoint], lambda *_: hello, 60.0)
    future = client.submit(Status)
    client.start()
    assert future.result(LATE_S) == Report(1, b"{}")
    client.close()
    assert server.visits == 2
    assert "cannot understand the coordinator" in caplog.text


def test_a_change_waits_for_others_no_longer_than_for_its_answer(
    make_client: MakeClient, free_port: Callable[[], int]
) -> None:
    client = make_client(Endpoint(LOOPBACK, free_port()))
    with client._changing, pytest.raises(RendezvousConnectionError, match="could not be reached"):
        client.change(Status, 0.05)


def test_the_wait_for_a_turn_belongs_to_the_time_of_a_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = ManualClock()
    endpoint = Endpoint(LOOPBACK, 1)
    client = Client([endpoint], lambda *_: operator_hello(), INTERVAL_S, clock=clock)

    class Turn:
        def acquire(self, timeout: float) -> bool:
            clock.advance(timeout)
            return True

        def release(self) -> None:
            pass

    monkeypatch.setattr(client, "_changing", Turn())
    monkeypatch.setattr(client, "_do", lambda *_: None)
    with pytest.raises(RendezvousError, match=f"for {LATE_S:g} s"):
        client.change(Status, LATE_S)


def status_of_child(act: Callable[[], bool]) -> int:
    """Return the status of a forked child, 0 if what it did there came out true."""
    pid = os.fork()
    if pid == 0:
        code = 2
        with contextlib.suppress(BaseException):
            code = 0 if act() else 1
        os._exit(code)
    return os.waitpid(pid, 0)[1]


# Where there are threads, Python is afraid of forks.
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_is_told_at_once_that_the_session_is_its_parents(
    coordinator: ThreadedCoordinator, make_client: MakeClient
) -> None:
    """A loader of data that a worker forks waited for minutes, also for a lock that nobody held."""
    client = make_client(coordinator.endpoint)
    ask(client)
    told = f"belongs to process {os.getpid()}.*of your own after the fork"

    def in_child() -> bool:
        begun_s = time.monotonic()
        for ask_for in (client.call, client.change):
            with pytest.raises(RendezvousConnectionError, match=told):
                ask_for(Status, LATE_S)
        client.close(LATE_S)
        return time.monotonic() - begun_s < LATE_S / 2

    with client._changing:
        assert status_of_child(in_child) == 0
    ask(client)


# Where there are threads, Python is afraid of forks.
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_r8_a_forked_child_does_not_hold_the_connection_and_may_have_its_own(
    coordinator: ThreadedCoordinator, make_client: MakeClient, until: Until
) -> None:
    """Or the end of an agent would be told when the last worker that it has forked ends."""
    client = make_client(coordinator.endpoint)
    ask(client)
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(tell)
        os.read(told, 1)
        report = ask(make_client(coordinator.endpoint))
        os._exit(0 if report.json else 1)
    os.close(told)
    try:
        client.close()
        until(
            lambda: not coordinator.server._connections.by_number, what="the end of the connection"
        )
    finally:
        os.close(tell)
        _, status = os.waitpid(pid, 0)
    assert status == 0
