"""A transport without a network: each member answers as the test says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import msgspec

from quorate.etcd.transport import Failure, Reply
from quorate.identity import Endpoint
from quorate.testing.clock import ManualClock

MEMBERS = [Endpoint("a", 1), Endpoint("b", 1), Endpoint("c", 1)]

LOST = Failure("it did not answer in time", was_sent=True)
DOWN = Failure("connection refused", was_sent=False)
DISTRUSTED = Failure("its certificate is not trusted", was_sent=False, is_distrust=True)


def ok(**content: object) -> Reply:
    return Reply(200, msgspec.json.encode({"header": {"revision": "7"}, **content}))


class ScriptedStream:
    """Lines, then silence."""

    def __init__(self, *lines: Mapping[str, object]) -> None:
        self.content = [msgspec.json.encode(line) for line in lines]
        self.is_closed = self.is_released = False

    def lines(self) -> Iterator[bytes]:
        yield from self.content

    def close(self) -> None:
        self.is_closed = True

    def release(self) -> None:
        self.is_released = True


Answer = Reply | Failure | ScriptedStream
Script = Callable[[Endpoint, str], Answer]


class ScriptedTransport:
    """Asks `script` for each answer; a failure after sending takes all the time there was."""

    def __init__(self, script: Script, clock: ManualClock) -> None:
        self._script = script
        self._clock = clock
        self.asked: list[tuple[str, str]] = []
        self.requests: list[tuple[str, dict[str, object]]] = []
        self.headers: list[Mapping[str, str]] = []
        self.limits_s: list[float] = []
        self.is_closed = False

    def exchange(
        self, endpoint: Endpoint, path: str, body: bytes, headers: Mapping[str, str], limit_s: float
    ) -> Reply | Failure:
        answer = self._answer(endpoint, path, body, headers, limit_s)
        assert not isinstance(answer, ScriptedStream)
        return answer

    def open_stream(
        self, endpoint: Endpoint, path: str, body: bytes, headers: Mapping[str, str], limit_s: float
    ) -> Answer:
        return self._answer(endpoint, path, body, headers, limit_s)

    def close(self) -> None:
        self.is_closed = True

    def _answer(
        self, endpoint: Endpoint, path: str, body: bytes, headers: Mapping[str, str], limit_s: float
    ) -> Answer:
        self.asked.append((endpoint.host, path))
        self.requests.append((path, msgspec.json.decode(body)))
        self.headers.append(headers)
        self.limits_s.append(limit_s)
        answer = self._script(endpoint, path)
        if isinstance(answer, Failure) and answer.was_sent:
            self._clock.advance(limit_s)
        return answer
