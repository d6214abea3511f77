"""A visitor of the page that is no browser."""

from __future__ import annotations

import http.client
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

__all__ = ["Answer", "events", "visit"]

TIMEOUT_S = 10.0


class Answer(NamedTuple):
    """What was answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


def visit(url: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
    """Ask for something; `_` in the name of a header stands for `-`."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=TIMEOUT_S)
    try:
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path or "/"
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        return Answer(answer.status, dict(answer.getheaders()), answer.read())
    finally:
        connection.close()


@contextmanager
def events(url: str, **headers: str) -> Iterator[Iterator[tuple[str, Any]]]:
    """Read a stream of events, each as its name and its content."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=TIMEOUT_S)
    with closing(connection):
        connection.request("GET", f"{parts.path}?{parts.query}", headers=headers)
        # What is still to be read keeps the socket open.
        with closing(connection.getresponse()) as answer:
            assert answer.status == 200, answer.read()
            assert answer.getheader("Content-Type") == "text/event-stream; charset=utf-8"
            yield _read(answer)


def _read(answer: http.client.HTTPResponse) -> Iterator[tuple[str, Any]]:
    name = ""
    for line in answer:
        text = line.decode().rstrip("\n")
        if text.startswith("event: "):
            name = text.removeprefix("event: ")
        elif text.startswith("data: "):
            yield name, msgspec.json.decode(text.removeprefix("data: "))
