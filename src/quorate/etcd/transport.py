"""One exchange with one member of etcd over HTTP: the only place that knows urllib3."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NewConnectionError,
    ReadTimeoutError,
    SSLError,
)

from quorate.clock import Clock, SystemClock
from quorate.identity import Endpoint

__all__ = ["Failure", "HttpTransport", "Reply", "Stream", "Transport"]

# A dump of all keys of a run; far more than one transaction can have written.
REPLY_BYTES_MAX = 64 * 1024 * 1024
READ_BYTES = 64 * 1024

# Threads beyond these open connections of their own.
CONNECTIONS_KEPT_MAX = 4


@dataclass(frozen=True)
class Reply:
    """What a member has answered.

    Attributes:
        status: The HTTP status.
        body: The bytes.
    """

    status: int
    body: bytes


@dataclass(frozen=True)
class Failure:
    """Why there is no answer.

    Attributes:
        reason: For people.
        was_sent: Whether the request may have reached the member.
        is_distrust: Whether one side does not trust the other's certificate.
    """

    reason: str
    was_sent: bool
    is_distrust: bool = False


class Stream(Protocol):
    """The answer to a watch, as it comes."""

    def lines(self) -> Iterator[bytes]:
        """Yield each line; end when the stream has ended, was cut, or was silent for too long."""
        ...

    def close(self) -> None:
        """End the stream; any thread may call it while another one reads."""
        ...

    def release(self) -> None:
        """Give the connection up; only the thread that reads may call it."""
        ...


class Transport(Protocol):
    """Exchanges requests with members of etcd."""

    def exchange(
        self, endpoint: Endpoint, path: str, body: bytes, headers: Mapping[str, str], limit_s: float
    ) -> Reply | Failure:
        """Send one request and return its whole answer, within about `limit_s` seconds."""
        ...

    def open_stream(
        self, endpoint: Endpoint, path: str, body: bytes, headers: Mapping[str, str], limit_s: float
    ) -> Stream | Reply | Failure:
        """Send one request and return its answer as it comes; `limit_s` bounds each silence."""
        ...

    def close(self) -> None:
        """Close every connection that is kept."""
        ...


class HttpTransport:
    """HTTP/1.1 with connections that are kept, from any number of threads.

    Args:
        tls: How members prove who they are and we do, None for plain HTTP.
        connect_timeout_s: How long a connection may take to be made, in seconds.
        clock: Gives the time.
    """

    def __init__(
        self,
        tls: ssl.SSLContext | None = None,
        connect_timeout_s: float = 1.0,
        clock: Clock | None = None,
    ) -> None:
        self._tls = tls
        self._connect_timeout_s = connect_timeout_s
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._pools: dict[Endpoint, urllib3.HTTPConnectionPool] = {}

    def exchange(
        self, endpoint: Endpoint, path: str, body: bytes, headers: Mapping[str, str], limit_s: float
    ) -> Reply | Failure:
        """See `Transport`."""
        deadline = self._clock.monotonic() + limit_s
        response = self._send(endpoint, path, body, headers, limit_s)
        if isinstance(response, Failure):
            return response
        try:
            return self._read(response, deadline)
        except (HTTPError, OSError) as error:
            response.close()
            return failure_of(error)

    def open_stream(
        self, endpoint: Endpoint, path: str, body: bytes, headers: Mapping[str, str], limit_s: float
    ) -> Stream | Reply | Failure:
        """See `Transport`."""
        response = self._send(endpoint, path, body, headers, limit_s)
        if isinstance(response, Failure):
            return response
        if response.status == 200:
            return HttpStream(response)
        with contextlib.closing(response):
            return Reply(response.status, b"")

    def close(self) -> None:
        """See `Transport`."""
        with self._lock:
            pools, self._pools = self._pools, {}
        for pool in pools.values():
            pool.close()

    def _send(
        self, endpoint: Endpoint, path: str, body: bytes, headers: Mapping[str, str], limit_s: float
    ) -> urllib3.BaseHTTPResponse | Failure:
        timeout = urllib3.Timeout(connect=min(self._connect_timeout_s, limit_s), read=limit_s)
        try:
            return self._pool(endpoint).urlopen(
                "POST",
                path,
                body=body,
                headers=headers,
                timeout=timeout,
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
        except (HTTPError, OSError) as error:
            return self._refusal_of_tls(endpoint, error) or failure_of(error)

    def _refusal_of_tls(self, endpoint: Endpoint, error: Exception) -> Failure | None:
        """Find out why a member hung up on us within TLS.

        In TLS 1.3 a member that refuses our certificate may have closed the connection when the
        request is written, and then its reason is never read: here nothing is written.
        """
        if self._tls is None or not isinstance(cause_of(error), ssl.SSLEOFError):
            return None
        try:
            with (
                socket.create_connection(endpoint, self._connect_timeout_s) as connection,
                self._tls.wrap_socket(connection, server_hostname=endpoint.host) as secured,
            ):
                secured.recv(1)
        except OSError as refusal:
            failure = failure_of(refusal)
            return failure if failure.is_distrust else None
        return None

    def _read(self, response: urllib3.BaseHTTPResponse, deadline: float) -> Reply | Failure:
        parts = []
        left = REPLY_BYTES_MAX
        while part := response.read1(READ_BYTES):
            parts.append(part)
            left -= len(part)
            if left < 0 or self._clock.monotonic() > deadline:
                response.close()
                what = "too large" if left < 0 else "too slow"
                return Failure(f"its answer was {what}", was_sent=True)
        response.release_conn()
        return Reply(response.status, b"".join(parts))

    def _pool(self, endpoint: Endpoint) -> urllib3.HTTPConnectionPool:
        with self._lock:
            pool = self._pools.get(endpoint)
            if pool is None:
                pool = self._pools[endpoint] = self._new_pool(endpoint)
            return pool

    def _new_pool(self, endpoint: Endpoint) -> urllib3.HTTPConnectionPool:
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        if self._tls is None:
            return urllib3.HTTPConnectionPool(host, endpoint.port, maxsize=CONNECTIONS_KEPT_MAX)
        return urllib3.HTTPSConnectionPool(
            host, endpoint.port, maxsize=CONNECTIONS_KEPT_MAX, ssl_context=self._tls
        )


class HttpStream:
    """See `Stream`.

    Args:
        response: The answer, of which nothing was read yet.
    """

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self._response = response
        self._closed = threading.Event()

    def lines(self) -> Iterator[bytes]:
        """See `Stream`."""
        rest = b""
        while not self._closed.is_set():
            try:
                part = self._response.read1(READ_BYTES)
            except (HTTPError, OSError, ValueError):
                return
            *complete, rest = (rest + part).split(b"\n")
            yield from filter(None, complete)
            if not part or len(rest) > REPLY_BYTES_MAX:
                return

    def close(self) -> None:
        """See `Stream`."""
        self._closed.set()
        # Whoever reads is woken by this, and releases the connection itself. That it may have done
        # already, at the end of the answer: urllib3 raises RuntimeError then.
        with contextlib.suppress(HTTPError, OSError, ValueError, RuntimeError):
            self._response.shutdown()

    def release(self) -> None:
        """See `Stream`."""
        with contextlib.suppress(HTTPError, OSError):
            self._response.close()


def failure_of(error: Exception) -> Failure:
    """Return what an error of urllib3's means."""
    cause = cause_of(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return Failure(
            f"its certificate is not trusted ({cause.verify_message})",
            was_sent=False,
            is_distrust=True,
        )
    if isinstance(cause, ssl.SSLError) and "ALERT" in (cause.reason or ""):
        return Failure(
            f"it does not accept our side of TLS ({cause.reason})", was_sent=False, is_distrust=True
        )
    if isinstance(error, NewConnectionError):
        return Failure(str(error).rpartition(": ")[2], was_sent=False)
    if isinstance(error, ConnectTimeoutError):
        return Failure("connecting took too long", was_sent=False)
    if isinstance(error, ReadTimeoutError):
        return Failure("it did not answer in time", was_sent=True)
    return Failure(f"the connection broke ({cause})", was_sent=True)


def cause_of(error: Exception) -> object:
    """Return the error of TLS in one of urllib3's, or the error itself."""
    return error.args[0] if isinstance(error, SSLError) and error.args else error
