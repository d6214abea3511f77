"""A TCP proxy in front of etcd that loses or holds back what a transaction says and hears."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Iterator
from typing import Literal

from quorate.identity import Endpoint

Fate = Literal["pass", "lose request", "lose reply", "hold request"]

TRANSACTION = b"POST /v3/kv/txn "
BUFFER_BYTES = 2**20


class LossyProxy:
    """Passes connections on to etcd; each transaction has the fate that was planned for it."""

    def __init__(self, target: Endpoint) -> None:
        self._target = target
        self._fates: deque[Fate] = deque()
        self._held: list[tuple[socket.socket, bytes]] = []
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = Endpoint("127.0.0.1", self._listener.getsockname()[1])
        self.transactions = 0
        self.held = threading.Event()
        self._start(self._accept)

    def plan(self, *fates: Fate) -> None:
        self._fates.extend(fates)

    def release(self) -> bytes:
        """Deliver what was held back, long after its sender has gone; return etcd's answers."""
        answers = b""
        for upstream, request in self._held:
            upstream.sendall(request)
            answers += upstream.recv(BUFFER_BYTES)
        self._held.clear()
        return answers

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._sockets:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5.0)
        for connection in self._sockets:
            connection.close()

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                upstream = socket.create_connection(self._target)
                self._sockets += [client, upstream]
                self._start(self._serve, client, upstream)

    def _serve(self, client: socket.socket, upstream: socket.socket) -> None:
        """One connection: a request, its answer, the next request."""
        with contextlib.suppress(OSError):
            while request := read_message(client):
                fate: Fate = "pass"
                if request.startswith(TRANSACTION):
                    self.transactions += 1
                    fate = self._fates.popleft() if self._fates else "pass"
                if fate == "hold request":
                    self._held.append((upstream, request))
                    self.held.set()
                    # The client gives up and closes; etcd's connection stays.
                    client.recv(1)
                    return
                if fate == "lose request":
                    break
                upstream.sendall(request)
                reply = read_message(upstream)
                if fate == "lose reply":
                    break
                client.sendall(reply)
        for connection in (client, upstream):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def read_message(connection: socket.socket) -> bytes:
    """Return one HTTP message with a length; empty at the end of the connection."""
    content = b""
    while b"\r\n\r\n" not in content:
        part = connection.recv(BUFFER_BYTES)
        if not part:
            return b""
        content += part
    head, _, body = content.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1])
        for line in head.lower().split(b"\r\n")
        if line.startswith(b"content-length:")
    )
    while len(body) < length:
        part = connection.recv(BUFFER_BYTES)
        if not part:
            return b""
        body += part
    return head + b"\r\n\r\n" + body


@contextlib.contextmanager
def proxied(target: Endpoint) -> Iterator[LossyProxy]:
    proxy = LossyProxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
