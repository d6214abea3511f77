"""The agent's side of a coordinator: a connection and a background thread around `attachment`.

All clients of a process share one thread with an event loop. Their calls block the caller only;
whatever happens to the connection, they go on until they are answered, ended, or out of time.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from quorate.clock import Clock, SystemClock
from quorate.coordinator.agent.answers import Answers, await_answer
from quorate.coordinator.agent.attachment import Attachment, Phase, unreachable
from quorate.coordinator.agent.blocking import outcome_of
from quorate.coordinator.agent.candidates import Candidates
from quorate.coordinator.agent.dialer import DialedConnection, Dialer, told
from quorate.credentials import Token
from quorate.errors import (
    RendezvousAuthenticationError,
    RendezvousConnectionError,
    RendezvousError,
    RendezvousProtocolError,
    RendezvousSettingsError,
    RendezvousTimeoutError,
    translating,
)
from quorate.identity import Endpoint, parse_rendezvous_endpoint
from quorate.tls import TlsContexts
from quorate.wire.messages import Answer, Hello, Request

__all__ = ["Client", "background_loop"]

logger = logging.getLogger("quorate.client")

# When an unreachable coordinator is first mentioned in the log (one that is being started is not
# worth a word), and how often then.
COMPLAIN_AFTER_S = 2.0
COMPLAIN_EVERY_S = 10.0

# However often something is due, a session looks no more often than this in a keep-alive interval.
TICKS_MAX = 16

# A coordinator is started in a moment, unless the name service hangs; it may be elsewhere.
HOST_TIMEOUT_S = 2.0

_THREAD = "quorate-client"

_loop_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def background_loop() -> asyncio.AbstractEventLoop:
    """Return the event loop that all clients of this process share, starting its thread once.

    Raises:
        RendezvousConnectionError: The system gives no thread, or no files, for it now.
    """
    global _loop  # noqa: PLW0603 - one loop a process is the point
    with _loop_lock:
        if _loop is None:
            _loop = _started_loop()
        return _loop


def _started_loop() -> asyncio.AbstractEventLoop:
    with translating(
        {OSError: RendezvousConnectionError, RuntimeError: RendezvousConnectionError},
        "Starting the thread of connections to coordinators",
    ):
        loop = asyncio.new_event_loop()
        # asyncio takes it to read addresses with a scope; what may block is in threads of its own.
        loop.set_default_executor(ThreadPoolExecutor(thread_name_prefix=_THREAD))
        try:
            threading.Thread(target=loop.run_forever, name=_THREAD, daemon=True).start()
        except RuntimeError:
            loop.close()
            raise
    return loop


def _forget_in_child() -> None:
    """After a fork: its thread is the parent's."""
    global _loop, _loop_lock
    _loop, _loop_lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget_in_child)


class Client:
    """One session with a coordinator, kept up over all connections that it takes.

    Args:
        endpoints: Where coordinators are; tried in turn.
        make_hello: Returns the hello, given the endpoint and the local address in use.
        interval_s: The keep-alive interval (R11).
        host: Called in a thread of its own when one of `endpoints` refuses connections: it may
            start a coordinator there. What takes it long holds up nothing.
        clock: The time.
        loop: The loop to live in; the process's own background loop by default.
        dialing: How many of the clients that share it may dial at once: thousands in one loop
            would keep each other from being connected in time.
        token: What the coordinator and this session must both know; `None` if there is none.
        tls: What connections are secured with, by the host name of each endpoint; `None` for
            plain ones.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        make_hello: Callable[[Endpoint, str], Hello],
        interval_s: float,
        host: Callable[[Endpoint], None] | None = None,
        clock: Clock | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        dialing: asyncio.Semaphore | None = None,
        token: Token | None = None,
        tls: TlsContexts | None = None,
    ) -> None:
        self._dialer = Dialer(self, tls)
        self._distrusted: set[Endpoint] = set()
        self._dialing = dialing or asyncio.Semaphore()
        self._endpoints = list(endpoints)
        self._make_hello = make_hello
        self._interval_s = interval_s
        self._host = host
        self._clock = clock or SystemClock()
        self._loop = loop or background_loop()
        self._candidates = Candidates(self._endpoints)
        self.attachment = Attachment(self._hello, interval_s, token=token)
        self._connection: DialedConnection | None = None
        # The coordinator remembers one change of a session: they are made one at a time.
        self._changing = threading.Lock()
        self._made_in = os.getpid()
        self._answers = Answers()
        self._task: asyncio.Task[None] | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._complained_s: float | None = None

    @property
    def endpoint(self) -> Endpoint:
        """The endpoint in use, or tried last."""
        return self._candidates.current

    def start(self) -> None:
        """Begin to connect; returns at once."""
        self._do(self._start)

    def submit(self, make_request: Callable[[int], Request]) -> concurrent.futures.Future[Answer]:
        """Ask something.

        Args:
            make_request: Returns the request, given its id.

        Returns:
            A future of the answer; cancelling it stops the asking.

        Raises:
            RendezvousConnectionError: The session was made before this process was forked.
        """
        future: concurrent.futures.Future[Answer] = concurrent.futures.Future()
        self._do(self._submit, make_request, future)
        return future

    def call(self, make_request: Callable[[int], Request], timeout_s: float) -> Answer:
        """Ask something and wait for the answer.

        Args:
            make_request: Returns the request, given its id.
            timeout_s: How long to wait, over as many connections as it takes.

        Raises:
            RendezvousConnectionError: There was no connection when the time was over, or the
                session was made before this process was forked.
            RendezvousTimeoutError: There was one, but no answer.
            RendezvousError: What the coordinator answered.
        """
        return await_answer(self.submit(make_request), timeout_s, self._no_answer)

    def change(self, make_request: Callable[[int], Request], timeout_s: float) -> Answer:
        """Change something in a store: as `call` does, one change after the other.

        To wait for its turn belongs to its time.
        """
        # After a fork, whoever held the lock may never let it go.
        self._require_own()
        began_s = self._now_s()
        if not self._changing.acquire(timeout=max(0.0, timeout_s)):
            raise self._no_answer(timeout_s)
        try:
            left_s = max(0.0, timeout_s - (self._now_s() - began_s))
            return await_answer(
                self.submit(make_request), left_s, lambda _: self._no_answer(timeout_s)
            )
        finally:
            self._changing.release()

    def _no_answer(self, timeout_s: float) -> RendezvousError:
        """Return the error for a call that was not answered in time."""
        if not self.attachment.attached:
            return unreachable(str(self.endpoint), self.attachment, timeout_s)
        return RendezvousTimeoutError(
            f"The coordinator at {self.endpoint} did not answer within {timeout_s:g} s, though it "
            f"is connected: see its log."
        )

    def detached_for_s(self) -> float:
        """Return for how long, in seconds, there has been no coordinator; 0 while there is one."""
        return self.attachment.detached_for_s(self._now_s())

    def close(self, timeout_s: float = 5.0) -> None:
        """End the session and its connection; what is unanswered fails.

        A forked child leaves the session of its parent alone.
        """
        if self._is_of_parent:
            return
        ended = threading.Event()

        def end() -> None:
            self._end()
            ended.set()

        if not self._loop.is_closed() and self._loop.is_running():
            self._loop.call_soon_threadsafe(end)
            if not self._in_loop():
                ended.wait(timeout_s)

    # What follows runs in the loop's thread.

    def made(self, connection: DialedConnection) -> None:
        """Take a new connection into use."""
        assert connection.transport is not None
        self._connection = connection
        local_addr = connection.transport.get_extra_info("sockname")[0]
        self.attachment.connected(local_addr, self._now_s())
        self._flush()

    def received(self, connection: DialedConnection, data: bytes) -> None:
        """Hand on what was received; a connection that was given up has no say any more."""
        if connection is not self._connection:
            return
        try:
            self.attachment.received(data, self._now_s())
        except (RendezvousProtocolError, RendezvousAuthenticationError) as error:
            self.attachment.end(type(error)(f"At {self.endpoint}: {error}"))
        self._flush()
        if self.attachment.phase is Phase.ENDED:
            self._end()
        elif self.attachment.is_garbled:
            logger.warning("cannot understand the coordinator at %s", self.endpoint)
            self._give_up("it cannot be understood")
        elif self.attachment.attached:
            self._complained_s = None

    def lost(self, connection: DialedConnection, why: str) -> None:
        """Note the end of a connection."""
        if connection is self._connection:
            self._connection = None
            self.attachment.lost(why, self._now_s())

    @property
    def _is_of_parent(self) -> bool:
        """Whether this is a forked child's copy: the loop's thread lives in the parent only."""
        return self._made_in != os.getpid()

    def _require_own(self) -> None:
        if self._is_of_parent:
            raise RendezvousConnectionError(
                f"This session with the coordinator at {self.endpoint} belongs to process "
                f"{self._made_in}, which has forked this one: make a store or a handler of your "
                f"own after the fork."
            )

    def _do(self, callback: Callable[..., None], *arguments: Any) -> None:
        """Run something in the loop's thread: at once if this is it."""
        self._require_own()
        if self._in_loop():
            callback(*arguments)
        else:
            self._loop.call_soon_threadsafe(callback, *arguments)

    def distrusted(self, connection: DialedConnection, error: RendezvousConnectionError) -> None:
        """Note that a connection cannot be trusted, after it was taken into use."""
        self.lost(connection, str(error))
        self._note_distrust(error)

    def _in_loop(self) -> bool:
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    def _hello(self, local_addr: str) -> Hello:
        return self._make_hello(self.endpoint, local_addr)

    def _now_s(self) -> float:
        return self._clock.monotonic()

    def _start(self) -> None:
        if self._task is None and self.attachment.phase is not Phase.ENDED:
            self.attachment.detached_since_s = self._now_s()
            self._task = self._loop.create_task(self._stay_connected())
            self._task.add_done_callback(self._stopped_connecting)
            self._plan_tick()

    def _submit(
        self,
        make_request: Callable[[int], Request],
        future: concurrent.futures.Future[Answer],
    ) -> None:
        if future.cancelled():
            return
        request_id = self.attachment.next_id()
        self._answers.expect(request_id, future)
        future.add_done_callback(lambda done: self._forget_cancelled(request_id, done))
        try:
            self.attachment.request(request_id, make_request(request_id), self._now_s())
        except Exception as error:
            # It is the caller's, whatever it is: a request that cannot be sent is not asked.
            self._answers.fail(request_id, error)
        self._flush()

    def _flush(self) -> None:
        output = self.attachment.take_output()
        if output and self._connection is not None:
            self._connection.write(output)
        self._answers.settle(self.attachment.take_outcomes())

    def _forget_cancelled(self, request_id: int, future: concurrent.futures.Future[Answer]) -> None:
        if future.cancelled():
            self._loop.call_soon_threadsafe(self._forget, request_id)

    def _forget(self, request_id: int) -> None:
        self._answers.forget(request_id)
        self.attachment.forget(request_id)

    def _tick(self) -> None:
        if self.attachment.tick(self._now_s()):
            self._give_up(f"it did not answer for {self._interval_s:g} s")
        self._flush()
        self._plan_tick()

    def _give_up(self, why: str) -> None:
        """Reset the connection, to go on with another one."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            self.attachment.lost(why, self._now_s())
            connection.reset()

    def _plan_tick(self) -> None:
        due_in_s = self.attachment.tick_at_s(self._now_s()) - self._now_s()
        pause_s = max(due_in_s, self._interval_s / TICKS_MAX)
        self._ticker = self._loop.call_later(pause_s, self._tick)

    async def _stay_connected(self) -> None:
        while self.attachment.phase is not Phase.ENDED:
            pause_s = self.attachment.dial_at_s - self._now_s()
            if pause_s > 0:
                await asyncio.sleep(pause_s)
            connection = await self._dial(self._candidates.advance(self._named()))
            if connection is not None:
                await connection.lost
            if connection is not None and self.attachment.is_served:
                self._candidates.accepted()
            else:
                self._candidates.failed(connection is not None and self.attachment.is_answered)
                self._complain()

    def _stopped_connecting(self, task: asyncio.Task[None]) -> None:
        """End the session if nobody is left to connect it: callers must not wait in vain."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self.attachment.end(RendezvousConnectionError(f"Connecting is over: {error}."))
            self._end()

    def _named(self) -> Endpoint | None:
        """Return the coordinator that decides, if another one has just said so."""
        redirected_to, self.attachment.redirected_to = self.attachment.redirected_to, ""
        if redirected_to:
            # What cannot be read is no reason to give up.
            with contextlib.suppress(RendezvousSettingsError):
                return parse_rendezvous_endpoint(redirected_to, self._endpoints[0].port)
        return None

    async def _dial(self, endpoint: Endpoint) -> DialedConnection | None:
        self.attachment.dialing()
        try:
            async with self._dialing:
                connection = await self._dialer.dial(endpoint)
                self.made(connection)
                return connection
        except RendezvousConnectionError as error:
            self.attachment.refused(str(error), self._now_s())
            self._note_distrust(error)
            return None
        except (OSError, UnicodeError) as error:
            why = told(error)
        # Where others send this node, it starts nothing: they share a state, and may be impostors.
        if self._host is not None and endpoint in self._endpoints:
            why += await self._started_there(self._host, endpoint)
        self.attachment.refused(why, self._now_s())
        return None

    async def _started_there(self, host: Callable[[Endpoint], None], endpoint: Endpoint) -> str:
        """Let a coordinator be started at an endpoint; return why that has failed, if it has."""
        try:
            await outcome_of((self, endpoint), lambda: host(endpoint), HOST_TIMEOUT_S)
        except RendezvousError as error:
            return f". {error}"
        except TimeoutError:
            return (
                f". To find out whether it is this machine, or to start a coordinator here, takes "
                f"longer than {HOST_TIMEOUT_S:g} s: see whether the name service answers"
            )
        return ""

    def _note_distrust(self, error: RendezvousConnectionError) -> None:
        """End a session that no coordinator has known yet once there is none to hope for.

        A session that one has known goes on: certificates are renewed, impostors go away (R11).
        """
        self._distrusted.add(self.endpoint)
        if not self.attachment.is_known and self._distrusted.issuperset(self._endpoints):
            self.attachment.end(type(error)(f"At {self.endpoint}: {error}"))
            self._end()

    def _complain(self) -> None:
        """Say now and then that there is no coordinator (R16)."""
        if self.detached_for_s() < COMPLAIN_AFTER_S:
            return
        now_s = self._now_s()
        if self._complained_s is None or now_s - self._complained_s >= COMPLAIN_EVERY_S:
            self._complained_s = now_s
            logger.info(
                "no coordinator at %s for %.0f s (%s); trying again",
                self.endpoint,
                self.detached_for_s(),
                self.attachment.last_error.rstrip("."),
            )

    def _end(self) -> None:
        if self.attachment.phase is not Phase.ENDED:
            self.attachment.end(RendezvousConnectionError("The session was closed."))
        self._flush()
        for handle in (self._task, self._ticker):
            if handle is not None:
                handle.cancel()
        if self._connection is not None:
            self._connection.close()
