"""Coordinators and sessions over TLS, on real sockets and both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from quorate.coordinator.agent import dialer as dialer_module
from quorate.coordinator.agent.answers import answered
from quorate.coordinator.agent.client import Client
from quorate.coordinator.entrance import connections as connections_module
from quorate.coordinator.entrance.door import Keys
from quorate.core.settings import PROTOCOL_VERSION
from quorate.errors import (
    RendezvousConnectionError,
    RendezvousError,
    RendezvousProtocolError,
    RendezvousTimeoutError,
)
from quorate.identity import Endpoint
from quorate.renewal import LOOK_EVERY_S
from quorate.testing import ManualClock
from quorate.tls import (
    TlsContexts,
    TlsFiles,
    client_context,
    client_contexts,
    server_context,
)
from quorate.wire.frames import frame
from quorate.wire.messages import ROLE_OPERATOR, Hello, Redirect, Refused, Report, Status, encode
from quorate.wire.tls import TlsPipe
from tests.certificates import Authority
from tests.served import (
    LOOPBACK,
    Proxy,
    RawPeer,
    ThreadedCoordinator,
    make_handler,
    operator_hello,
    token,
)

Until = Callable[..., Any]
Start = Callable[..., ThreadedCoordinator]
MakeClient = Callable[..., Client]

INTERVAL_S = 0.5
LATE_S = 10.0


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "others")


@pytest.fixture(scope="module")
def node(authority: Authority) -> TlsFiles:
    return authority.issue("node")


@pytest.fixture
def start() -> Iterator[Start]:
    with contextlib.ExitStack() as started:

        def start_one(files: TlsFiles | None, **options: Any) -> ThreadedCoordinator:
            tls = TlsContexts(files, server_context) if files is not None else None
            coordinator = ThreadedCoordinator(tls=tls, **options)
            started.callback(coordinator.stop)
            return coordinator

        yield start_one


@pytest.fixture
def make_client() -> Iterator[MakeClient]:
    with contextlib.ExitStack() as made:

        def make(files: TlsFiles | None, *endpoints: Endpoint, **options: Any) -> Client:
            hello = operator_hello()
            client = Client(
                endpoints,
                lambda *_: hello,
                INTERVAL_S,
                **({"tls": client_contexts(files)} | options),
            )
            made.callback(client.close)
            client.start()
            return client

        yield make


def ask(client: Client, timeout_s: float = LATE_S) -> Report:
    return answered(client.call(Status, timeout_s), Report)


def refusal(client: Client) -> RendezvousError:
    """Return the error that a session ends in, which must come at once."""
    began_s = time.monotonic()
    with pytest.raises(RendezvousConnectionError) as caught:
        ask(client)
    assert time.monotonic() - began_s < LATE_S / 2
    return caught.value


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
@pytest.mark.parametrize("secret", ["", "what-everybody-knows"])
def test_a_round_over_mutual_tls(
    run: Callable[..., None],
    secret: str,
    start: Start,
    node: TlsFiles,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Alone, and together with a token."""
    named = {f"tls_{name}": getattr(node, name) for name in ("ca_file", "cert_file", "key_file")}
    if secret:
        (tmp_path / "token").write_text(secret)
        named["token_file"] = str(tmp_path / "token")
    keys = Keys(token(secret.encode()) if secret else None)
    coordinator = start(node, run=run, keys=keys)
    handlers = [make_handler(coordinator.endpoint, nodes=(2, 2), **named) for _ in range(2)]
    infos: list[Any] = []
    threads = [
        threading.Thread(target=lambda each=each: infos.append(each.next_rendezvous()))
        for each in handlers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LATE_S)
    assert sorted(info.rank for info in infos) == [0, 1]
    value = os.urandom(300_000)
    infos[0].store.set("key", value)
    assert infos[1].store.get("key") == value
    for handler in handlers:
        handler.leave("done")
    assert "refused 127" not in caplog.text


def test_r8_a_connection_that_finishes_is_a_process_that_ended(
    start: Start, node: TlsFiles, until: Until
) -> None:
    """The end of the socket counts, with TLS's own goodbye or without."""
    coordinator = start(node)
    named = {f"tls_{name}": getattr(node, name) for name in ("ca_file", "cert_file", "key_file")}
    grace = {"reconnect_grace": "0.2", "keep_alive_interval": "30", **named}
    stays, goes = (make_handler(coordinator.endpoint, nodes=(1, 2), **grace) for _ in range(2))
    joining = threading.Thread(target=goes.next_rendezvous)
    joining.start()
    stays.next_rendezvous()
    joining.join(LATE_S)
    client = goes._client
    assert isinstance(client, Client)
    connection = client._connection
    assert connection is not None
    client._loop.call_soon_threadsafe(client._task.cancel)  # type: ignore[union-attr]
    client._loop.call_soon_threadsafe(connection.transport.close)  # type: ignore[union-attr]
    until(stays.num_nodes_waiting, what="the loss to be told")
    assert "ended" in stays.reason_to_regroup
    stays.leave("done")
    goes._release()


def test_r11_cuts_are_survived(start: Start, node: TlsFiles, make_client: MakeClient) -> None:
    proxy = Proxy(start(node).endpoint)
    try:
        client = make_client(node, proxy.endpoint)
        for harm in (proxy.finish, proxy.reset) * 2:
            ask(client)
            harm()
        ask(client)
        assert proxy.connections >= 2
    finally:
        proxy.close()


def test_a_coordinator_that_nobody_trusts(
    start: Start, authority: Authority, others: Authority, make_client: MakeClient
) -> None:
    coordinator = start(others.issue("stranger"))
    told = refusal(make_client(authority.trusting, coordinator.endpoint))
    assert str(told).startswith(f"At {coordinator.endpoint}: The certificate of the coordinator")
    assert "comes from an authority that is not trusted here" in str(told)
    assert told.exit_code == 73


def test_a_coordinator_under_a_wrong_name(
    start: Start, authority: Authority, make_client: MakeClient
) -> None:
    coordinator = start(authority.issue("elsewhere", ("elsewhere.example",)))
    told = refusal(make_client(authority.trusting, coordinator.endpoint))
    assert f"is not for '{LOOPBACK}'" in str(told)


def test_a_node_without_a_certificate(
    start: Start,
    authority: Authority,
    node: TlsFiles,
    make_client: MakeClient,
    caplog: pytest.LogCaptureFixture,
    until: Until,
) -> None:
    coordinator = start(node)
    told = refusal(make_client(authority.trusting, coordinator.endpoint))
    assert "wants a certificate of this node: give `tls_cert_file`" in str(told)
    until(lambda: "has shown no certificate" in caplog.text, what="the log")
    ask(make_client(node, coordinator.endpoint))


def test_a_node_of_another_authority(
    start: Start, others: Authority, node: TlsFiles, make_client: MakeClient
) -> None:
    stranger = others.issue("stranger")
    files = TlsFiles(node.ca_file, stranger.cert_file, stranger.key_file)
    told = refusal(make_client(files, start(node).endpoint))
    assert "certificate of this node comes from an authority that it does not trust" in str(told)


def test_a_plain_node_at_a_coordinator_with_tls(
    start: Start, node: TlsFiles, make_client: MakeClient
) -> None:
    coordinator = start(node)
    told = refusal(make_client(None, coordinator.endpoint))
    assert isinstance(told, RendezvousProtocolError)
    assert "does not speak TLS, and this coordinator speaks nothing else" in str(told)
    with RawPeer(coordinator.endpoint) as web:
        web.socket.sendall(b"GET / HTTP/1.1\r\n\r\n")
        refused = web.read()
        assert isinstance(refused, Refused)
        assert "does not speak TLS" in refused.message
        assert web.read() is None


def test_a_node_with_tls_at_a_plain_coordinator(
    start: Start,
    node: TlsFiles,
    make_client: MakeClient,
    caplog: pytest.LogCaptureFixture,
    until: Until,
) -> None:
    told = refusal(make_client(node, start(None).endpoint))
    assert isinstance(told, RendezvousProtocolError)
    assert "What listens there does not speak TLS" in str(told)
    until(lambda: "The peer speaks TLS, and this side does not" in caplog.text, what="the log")


def test_a_coordinator_that_cannot_be_trusted_does_not_hide_the_next(
    start: Start, others: Authority, node: TlsFiles, make_client: MakeClient
) -> None:
    impostor, coordinator = start(others.issue("stranger")), start(node)
    client = make_client(node, impostor.endpoint, coordinator.endpoint)
    ask(client)
    assert client.endpoint == coordinator.endpoint


def test_r11_a_session_outlives_an_impostor(
    start: Start, others: Authority, node: TlsFiles, make_client: MakeClient, until: Until
) -> None:
    """A certificate that has become bad costs time until it is renewed, and no session."""
    coordinator = start(node)
    client = make_client(node, coordinator.endpoint)
    ask(client)
    coordinator.stop()
    impostor = start(others.issue("impostor"), port=coordinator.endpoint.port)
    until(lambda: "not trusted" in client.attachment.last_error, what="the impostor to be met")
    with pytest.raises(RendezvousConnectionError, match=r"could not be reached.*not trusted here"):
        ask(client, 0.2)
    impostor.stop()
    start(node, port=coordinator.endpoint.port)
    ask(client)


def test_the_host_of_a_redirect_is_verified(
    start: Start, authority: Authority, node: TlsFiles, make_client: MakeClient
) -> None:
    """What a standby names must have a certificate for that name, not for the standby's."""
    numeric = start(authority.issue("numeric", (LOOPBACK,)))
    named = start(authority.issue("named", ("localhost",)))
    client = make_client(node, numeric.endpoint)
    ask(client)

    def redirect(coordinator: ThreadedCoordinator, endpoint: Endpoint) -> None:
        (connection,) = coordinator.server._connections.by_number.values()
        coordinator.do(lambda: connection.redirect(str(endpoint)))

    def ask_until_at(endpoint: Endpoint) -> None:
        deadline_s = time.monotonic() + LATE_S
        while client.endpoint != endpoint:
            assert time.monotonic() < deadline_s, client.attachment.last_error
            ask(client)
        ask(client)

    redirect(numeric, Endpoint("localhost", named.endpoint.port))
    ask_until_at(Endpoint("localhost", named.endpoint.port))
    redirect(named, named.endpoint)
    ask_until_at(numeric.endpoint)


def test_a_renewed_certificate_is_used_by_the_next_connection(
    authority: Authority, node: TlsFiles, make_client: MakeClient
) -> None:
    clock = ManualClock()
    files = authority.issue("renewable", ("elsewhere.example",))
    coordinator = ThreadedCoordinator(tls=TlsContexts(files, server_context, clock))
    try:
        refusal(make_client(node, coordinator.endpoint))
        renewed = authority.issue("renewed")
        os.replace(renewed.key_file, files.key_file)
        os.replace(renewed.cert_file, files.cert_file)
        clock.advance(LOOK_EVERY_S)
        ask(make_client(node, coordinator.endpoint))
    finally:
        coordinator.stop()


def test_r15_half_a_handshake_is_ended(
    start: Start, node: TlsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections_module, "GREETING_TIMEOUT_S", 0.2)
    coordinator = start(node)
    with RawPeer(coordinator.endpoint) as slow, RawPeer(coordinator.endpoint) as mute:
        slow.socket.sendall(TlsPipe(client_context(node), False, LOOPBACK).take_output()[:50])
        assert slow.read() is None
        assert mute.read() is None


def test_a_handshake_that_does_not_end_is_given_up(
    node: TlsFiles, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialer_module, "HANDSHAKE_TIMEOUT_S", 0.2)
    with socket.create_server((LOOPBACK, 0)) as silent:
        client = make_client(node, Endpoint(*silent.getsockname()))
        with pytest.raises(RendezvousConnectionError, match=r"no end of the TLS handshake within"):
            ask(client, 0.5)


def test_a_session_may_end_during_its_handshake(
    node: TlsFiles, make_client: MakeClient, until: Until
) -> None:
    with socket.create_server((LOOPBACK, 0)) as silent:
        client = make_client(node, Endpoint(*silent.getsockname()))
        silent.settimeout(LATE_S)
        accepted, _ = silent.accept()
        with accepted:
            client.close()
            accepted.settimeout(LATE_S)
            # What it has said comes to an end.
            with contextlib.suppress(ConnectionResetError):
                while accepted.recv(4096):
                    pass


def test_a_peer_that_goes_away_during_the_handshake(
    node: TlsFiles, make_client: MakeClient
) -> None:
    with socket.create_server((LOOPBACK, 0)) as rude:
        client = make_client(node, Endpoint(*rude.getsockname()))
        rude.settimeout(LATE_S)
        rude.accept()[0].close()
        with pytest.raises(RendezvousConnectionError, match="during the TLS handshake"):
            ask(client, 0.2)


class TlsPeer:
    """A socket to a coordinator with TLS that says what it is told to."""

    def __init__(self, endpoint: Endpoint, files: TlsFiles) -> None:
        self.socket = socket.create_connection(endpoint, timeout=LATE_S)
        self.pipe = TlsPipe(client_context(files), False, endpoint.host)
        while not self.pipe.established:
            self.flush()
            self.pipe.feed(self.socket.recv(65536))

    def flush(self) -> None:
        self.socket.sendall(self.pipe.take_output())


def test_r15_a_damaged_record_ends_its_connection_alone(
    start: Start,
    node: TlsFiles,
    make_client: MakeClient,
    caplog: pytest.LogCaptureFixture,
    until: Until,
) -> None:
    coordinator = start(node)
    healthy = make_client(node, coordinator.endpoint)
    ask(healthy)
    peer = TlsPeer(coordinator.endpoint, node)
    with peer.socket:
        peer.pipe.send(frame(encode(operator_hello())))
        damaged = bytearray(peer.pipe.take_output())
        damaged[-1] ^= 1
        peer.socket.sendall(damaged)
        with contextlib.suppress(RendezvousProtocolError):
            while data := peer.socket.recv(65536):
                peer.pipe.feed(data)
    until(lambda: "bad record mac" in caplog.text, what="the log")
    ask(healthy)


def test_r15_a_hello_of_another_version_is_refused_inside_tls(start: Start, node: TlsFiles) -> None:
    def hello(endpoint: Endpoint, local_addr: str) -> Hello:
        return Hello(PROTOCOL_VERSION + 1, ROLE_OPERATOR, "", "s")

    client = Client([start(node).endpoint], hello, INTERVAL_S, tls=client_contexts(node))
    client.start()
    with pytest.raises(RendezvousProtocolError, match="the peer version"):
        ask(client)
    client.close()


def test_a_coordinator_that_becomes_silent_after_its_handshake(
    start: Start, node: TlsFiles, make_client: MakeClient
) -> None:
    """A coordinator that shakes hands and says nothing more is not one that is away."""
    proxy = Proxy(start(node).endpoint)
    try:
        client = make_client(node, proxy.endpoint)
        ask(client)
        proxy.stall()
        with pytest.raises((RendezvousConnectionError, RendezvousTimeoutError)):
            ask(client, 2 * INTERVAL_S)
        proxy.resume()
        ask(client)
    finally:
        proxy.close()


def test_redirects_and_refusals_need_no_handshake_to_be_harmless(
    start: Start, node: TlsFiles
) -> None:
    """Nothing is written into a handshake: what is said too early is not said."""
    coordinator = start(node)
    with RawPeer(coordinator.endpoint) as early:
        done = threading.Event()

        def write_early() -> None:
            for connection in coordinator.server._connections.by_number.values():
                connection.write(frame(encode(Redirect("elsewhere:1"))))
            done.set()

        pipe = TlsPipe(client_context(node), False, LOOPBACK)
        early.socket.sendall(pipe.take_output())
        pipe.feed(early.socket.recv(65536))
        coordinator.do(write_early)
        assert done.wait(LATE_S)
        early.socket.sendall(pipe.take_output())
        pipe.send(frame(encode(operator_hello())))
        early.socket.sendall(pipe.take_output())
        assert b"elsewhere" not in pipe.feed(early.socket.recv(65536))
