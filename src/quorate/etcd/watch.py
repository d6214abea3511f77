"""A watch of etcd's keys that misses nothing, whatever becomes of the connection."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from quorate.clock import Clock
from quorate.errors import (
    RendezvousConnectionError,
    RendezvousLimitError,
    RendezvousProtocolError,
    RendezvousSettingsError,
)
from quorate.etcd.gateway import Gateway
from quorate.etcd.messages import Event, WatchLine, WatchReply, decode, encode
from quorate.etcd.transport import Stream

__all__ = ["Changes", "Watch"]

# A frozen member says nothing, as one without news does: after so long the question is put again,
# to a member that answers.
SILENCE_S = 5.0

# A member that takes a watch and ends it at once is not asked again sooner than after this.
PAUSE_S = 0.1

# One that has too much to do is not asked again sooner than after this.
LOAD_PAUSE_S = 0.5


@dataclass(frozen=True)
class Changes:
    """What a watch tells.

    Attributes:
        events: The changes, in order.
        revision: The revision up to which they are complete.
        is_gap: Whether changes before `revision` were lost because etcd has compacted them: read
            the keys again. The watch goes on from there by itself.
    """

    events: tuple[Event, ...]
    revision: int
    is_gap: bool = False


class Watch:
    """The changes of one key or range from a revision on; `EtcdClient.watch` makes them.

    One thread calls `next`; any thread may call `close`, which ends a `next` that is waiting.

    Args:
        gateway: The way to etcd.
        clock: Gives the time.
        key: The key, or the first one.
        start_revision: The first revision to tell of, above 0.
        range_end: The end of the range, itself not in it; empty watches one key.
    """

    def __init__(
        self,
        gateway: Gateway,
        clock: Clock,
        key: bytes,
        start_revision: int,
        range_end: bytes = b"",
    ) -> None:
        if start_revision <= 0:
            raise ValueError(f"The start revision {start_revision} must be above 0.")
        self._gateway = gateway
        self._clock = clock
        self._key = key
        self._range_end = range_end
        self._next_revision = start_revision
        self._silence_s = 0.0
        self._stream: Stream | None = None
        self._replies: Iterator[WatchReply] | None = None
        self._is_closed = False
        self._was_denied = False

    def __enter__(self) -> Self:
        """Return the watch itself; `close` is called at the end."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Call `close`, and release the connection."""
        self.close()
        self._drop()

    def next(self, timeout_s: float) -> Changes | None:
        """Return the next changes, None if there are none within `timeout_s` seconds.

        Connections that break are made again, to another member where it must be, and nothing is
        told twice or left out. While no member answers, or etcd has too much to do, time passes as
        if nothing had changed.

        Raises:
            RendezvousSettingsError: etcd refuses who asks.
            RendezvousProtocolError: What answers is not etcd.
        """
        deadline = self._clock.monotonic() + timeout_s
        if self._silence_s > timeout_s:
            self._drop()
        while not self._is_closed and (left_s := deadline - self._clock.monotonic()) > 0:
            if self._replies is None:
                self._open(left_s)
            if self._replies is None:
                continue
            reply = next(self._replies, None)
            if reply is None:
                self._drop()
                self._look_for_a_member(deadline)
            elif changes := self._changes_in(reply):
                return changes
        return None

    def close(self) -> None:
        """End the watch; `next` returns None from now on."""
        self._is_closed = True
        if (stream := self._stream) is not None:
            stream.close()

    def _look_for_a_member(self, deadline: float) -> None:
        """Find one that answers, quickly: a stream cannot tell one that is frozen."""
        self._clock.sleep(max(0.0, min(PAUSE_S, deadline - self._clock.monotonic())))
        limit_s = min(SILENCE_S, deadline - self._clock.monotonic())
        if limit_s > 0 and not self._is_closed:
            with contextlib.suppress(RendezvousConnectionError, RendezvousLimitError):
                self._gateway.read("/v3/maintenance/status", encode({}), limit_s)

    def _open(self, left_s: float) -> None:
        self._drop()
        self._silence_s = min(SILENCE_S, left_s)
        try:
            self._stream = self._gateway.open_stream(
                "/v3/watch", self._request(), self._silence_s, self._silence_s
            )
        except RendezvousProtocolError:
            raise
        except RendezvousLimitError:
            # It answers at once; load passes.
            self._clock.sleep(min(LOAD_PAUSE_S, left_s))
            return
        except RendezvousConnectionError:
            return
        self._replies = replies_of(self._stream.lines())
        if self._is_closed:
            self._stream.close()

    def _drop(self) -> None:
        if self._stream is not None:
            self._stream.release()
        self._stream = self._replies = None

    def _request(self) -> bytes:
        request: dict[str, object] = {"key": self._key, "start_revision": self._next_revision}
        if self._range_end:
            request["range_end"] = self._range_end
        return encode({"create_request": request})

    def _changes_in(self, reply: WatchReply) -> Changes | None:
        if reply.compact_revision:
            self._drop()
            self._next_revision = max(self._next_revision, reply.compact_revision)
            return Changes((), self._next_revision, is_gap=True)
        if reply.canceled:
            self._note_refusal(reply)
        elif reply.events:
            self._was_denied = False
            revision = reply.events[-1].kv.mod_revision
            self._next_revision = revision + 1
            return Changes(tuple(reply.events), revision)
        return None

    def _note_refusal(self, reply: WatchReply) -> None:
        """Try a refused watch once more with a new proof of who asks, on another member."""
        self._drop()
        if reply.created and self._was_denied:
            raise RendezvousSettingsError(
                "etcd refuses to let this user watch "
                f"{self._key!r} ({reply.cancel_reason[:200] or 'without a reason'}): grant the "
                "user read on `etcd_prefix`."
            )
        self._was_denied = reply.created
        self._gateway.forget_token()


def replies_of(lines: Iterable[bytes]) -> Iterator[WatchReply]:
    """Yield the messages of a watch's stream up to its end, or to the first error in it."""
    for line in lines:
        result = decode(line, WatchLine).result
        if result is None:
            return
        yield result
