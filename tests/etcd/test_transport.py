"""HTTP over real sockets: servers that answer, stall, drip, break off and talk nonsense."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from quorate.etcd import transport as transport_module
from quorate.etcd.transport import Failure, HttpStream, HttpTransport, Reply
from quorate.identity import Endpoint

Handler = Callable[[socket.socket], None]

REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
END = b"0\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Peer:
    """Does what a handler says with each connection, one after the other."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = Endpoint("127.0.0.1", self._listener.getsockname()[1])
        self.accepted = 0
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.accepted += 1
                self._open.append(connection)
                with connection:
                    self._handler(connection)

    def close(self) -> None:
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5.0)


@pytest.fixture
def serve() -> Iterator[Callable[[Handler], Peer]]:
    peers: list[Peer] = []

    def start(handler: Handler) -> Peer:
        peers.append(Peer(handler))
        return peers[-1]

    yield start
    for peer in peers:
        peer.close()


@pytest.fixture
def transport() -> Iterator[HttpTransport]:
    with contextlib.closing(HttpTransport()) as transport:
        yield transport


def answering(*parts: bytes) -> Handler:
    def handle(connection: socket.socket) -> None:
        while connection.recv(65536):
            for part in parts:
                connection.sendall(part)

    return handle


def stalling(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


def exchange(transport: HttpTransport, endpoint: Endpoint, limit_s: float = 5.0) -> Reply | Failure:
    return transport.exchange(endpoint, "/path", b"{}", {"X": "y"}, limit_s)


def test_a_connection_is_kept_for_the_next_request(
    serve: Callable[[Handler], Peer], transport: HttpTransport
) -> None:
    peer = serve(answering(REPLY))
    for _ in range(3):
        assert exchange(transport, peer.endpoint) == Reply(200, b"{}")
    assert peer.accepted == 1


def test_any_status_is_an_answer(
    serve: Callable[[Handler], Peer], transport: HttpTransport
) -> None:
    for status in (b"302 Found\r\nLocation: /x", b"404 No", b"503 No"):
        peer = serve(answering(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n"))
        assert exchange(transport, peer.endpoint) == Reply(int(status[:3]), b"")


def test_nobody_listens(transport: HttpTransport, free_port: Callable[[], int]) -> None:
    failure = exchange(transport, Endpoint("127.0.0.1", free_port()))
    assert isinstance(failure, Failure)
    assert not failure.was_sent
    assert "refused" in failure.reason


def test_a_name_that_is_not_known(transport: HttpTransport) -> None:
    failure = exchange(transport, Endpoint("etcd.invalid", 2379))
    assert isinstance(failure, Failure)
    assert not failure.was_sent


def test_a_server_that_stalls_costs_its_limit(
    serve: Callable[[Handler], Peer], transport: HttpTransport
) -> None:
    failure = exchange(transport, serve(stalling).endpoint, limit_s=0.1)
    assert failure == Failure("it did not answer in time", was_sent=True)


@pytest.mark.parametrize("answer", [b"", b"garbage\r\n\r\n", REPLY[:-1], CHUNKED + b"zz\r\n"])
def test_a_server_that_breaks_off_or_talks_nonsense(
    answer: bytes, serve: Callable[[Handler], Peer], transport: HttpTransport
) -> None:
    def handle(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(answer)

    failure = exchange(transport, serve(handle).endpoint)
    assert isinstance(failure, Failure)
    assert failure.was_sent


def test_an_answer_without_an_end_is_cut(
    serve: Callable[[Handler], Peer], transport: HttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R15"""

    def handle(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(CHUNKED)
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(b"1000\r\n" + bytes(0x1000) + b"\r\n")

    monkeypatch.setattr(transport_module, "REPLY_BYTES_MAX", 10_000)
    failure = exchange(transport, serve(handle).endpoint)
    assert failure == Failure("its answer was too large", was_sent=True)
    monkeypatch.setattr(transport_module, "REPLY_BYTES_MAX", 10**12)
    failure = exchange(transport, serve(handle).endpoint, limit_s=0.2)
    assert failure == Failure("its answer was too slow", was_sent=True)


def test_tls_with_a_server_that_does_not_speak_it(
    serve: Callable[[Handler], Peer],
) -> None:
    def handle(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")

    transport = HttpTransport(ssl.create_default_context())
    with contextlib.closing(transport):
        failure = exchange(transport, serve(handle).endpoint)
    assert isinstance(failure, Failure)
    assert "connection broke" in failure.reason


def stream_of(transport: HttpTransport, peer: Peer, silence_s: float = 5.0) -> HttpStream:
    stream = transport.open_stream(peer.endpoint, "/watch", b"{}", {}, silence_s)
    assert isinstance(stream, HttpStream)
    return stream


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


def test_lines_come_whole_however_they_are_cut(
    serve: Callable[[Handler], Peer], transport: HttpTransport
) -> None:
    peer = serve(
        answering(
            CHUNKED, chunk(b'{"a"'), chunk(b':1}\n{"b":2}\n{"c'), chunk(b'":3}\n'), b"0\r\n\r\n"
        )
    )
    stream = stream_of(transport, peer)
    assert list(stream.lines()) == [b'{"a":1}', b'{"b":2}', b'{"c":3}']
    stream.release()


def test_a_silent_stream_ends(serve: Callable[[Handler], Peer], transport: HttpTransport) -> None:
    peer = serve(answering(CHUNKED, chunk(b"{}\n")))
    stream = stream_of(transport, peer, silence_s=0.1)
    assert list(stream.lines()) == [b"{}"]
    stream.release()


def test_closing_a_stream_ends_its_reader(
    serve: Callable[[Handler], Peer], transport: HttpTransport, until: Callable[..., Any]
) -> None:
    peer = serve(answering(CHUNKED, chunk(b"{}\n")))
    stream = stream_of(transport, peer, silence_s=600.0)
    seen: list[bytes] = []
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(lambda: seen.extend(stream.lines()))
        stream.close()
        reading.result(5.0)
    stream.release()


def test_a_stream_that_has_ended_can_still_be_closed(
    serve: Callable[[Handler], Peer], transport: HttpTransport
) -> None:
    peer = serve(answering(CHUNKED, chunk(b"{}\n"), END))
    stream = stream_of(transport, peer, silence_s=600.0)
    assert list(stream.lines()) == [b"{}"]
    stream.close()
    stream.release()


def test_a_stream_that_is_refused_is_an_answer(
    serve: Callable[[Handler], Peer], transport: HttpTransport
) -> None:
    peer = serve(answering(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"))
    assert transport.open_stream(peer.endpoint, "/watch", b"{}", {}, 5.0) == Reply(404, b"")


def test_an_ipv6_address_is_understood(
    transport: HttpTransport, free_port: Callable[[], int]
) -> None:
    failure = exchange(transport, Endpoint("::1", free_port()))
    assert isinstance(failure, Failure)
    assert not failure.was_sent
    assert "resolve" not in failure.reason
