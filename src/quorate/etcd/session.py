"""A node's session over etcd: a lease, a key, a watch, and two threads around `correspondent`.

Where a session with a coordinator beats, this one keeps its lease alive, which writes nothing;
where it redials, it begins anew once etcd answers again. The lease ends with the session, or when
the process was silent for as long as the run allows; its keys go with it.
"""

from __future__ import annotations

import concurrent.futures
import logging
import socket
import threading
from collections.abc import Callable, Sequence

from quorate.clock import Clock, SystemClock
from quorate.coordinator.agent.answers import Answers, await_answer
from quorate.coordinator.agent.attachment import Attachment, Phase, unreachable
from quorate.errors import (
    RendezvousConnectionError,
    RendezvousError,
    RendezvousLimitError,
    RendezvousProtocolError,
    RendezvousTimeoutError,
)
from quorate.etcd.client import EtcdClient, LeaseLost, ReplyLost, lost_reply
from quorate.etcd.correspondent import Correspondent
from quorate.etcd.letters import Keys
from quorate.etcd.messages import KeyValue, Put, Transaction, operation
from quorate.etcd.watch import Watch
from quorate.identity import Endpoint
from quorate.wire.messages import Answer, Hello, Request

__all__ = ["EtcdSession", "local_address"]

logger = logging.getLogger("quorate.etcd")

# Between two tries while etcd does not answer.
RETRY_S = 0.5

# How long one watch is asked for news; it tells at once if there are any.
WATCH_S = 60.0

# How long the end may take: what is not over by then ends with the process.
CLOSE_S = 5.0


class EtcdSession:
    """One node's session.

    Args:
        client: The way to etcd; the session shares it, and does not close it.
        endpoints: The members of etcd.
        keys: Where the run lies.
        name: The name of the session, the same as in its hello.
        make_hello: Returns the hello, given the endpoint and the local address in use.
        lease_s: How long its lease lives without a sign of life, in seconds; etcd counts in whole
            ones, and no less than about two.
        clock: The time.
    """

    def __init__(
        self,
        client: EtcdClient,
        endpoints: Sequence[Endpoint],
        keys: Keys,
        name: str,
        make_hello: Callable[[Endpoint, str], Hello],
        lease_s: float,
        clock: Clock | None = None,
    ) -> None:
        self._client = client
        self._endpoints = list(endpoints)
        self._node_key = keys.node(name)
        self._answer_key = keys.answer(name)
        self._ttl_s = max(1, round(lease_s))
        self._clock = clock or SystemClock()
        self.attachment = Attachment(
            lambda addr: make_hello(self.endpoint, addr), lease_s, lambda: 0.0
        )
        self._correspondent = Correspondent(self.attachment)
        self._answers = Answers()
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._watch: Watch | None = None
        self._lease = 0
        self._beat_at_s = 0.0
        self._threads = [
            threading.Thread(target=self._speak, name="quorate-etcd-speaker", daemon=True),
            threading.Thread(target=self._listen, name="quorate-etcd-listener", daemon=True),
        ]

    @property
    def endpoint(self) -> Endpoint:
        """The first member of etcd, for people."""
        return self._endpoints[0]

    def start(self) -> None:
        """Begin to speak; returns at once."""
        self.attachment.detached_since_s = self._clock.monotonic()
        for thread in self._threads:
            thread.start()

    def submit(self, make_request: Callable[[int], Request]) -> concurrent.futures.Future[Answer]:
        """Ask something.

        Args:
            make_request: Returns the request, given its id.

        Returns:
            A future of the answer; cancelling it stops the asking.
        """
        future: concurrent.futures.Future[Answer] = concurrent.futures.Future()
        with self._changed:
            request_id = self.attachment.next_id()
            self._answers.expect(request_id, future)
            try:
                now_s = self._clock.monotonic()
                self._correspondent.request(request_id, make_request(request_id), now_s)
            except RendezvousError as error:
                self._answers.fail(request_id, error)
            self._changed.notify_all()
        future.add_done_callback(lambda done: self._forget_cancelled(request_id, done))
        self._settle()
        return future

    def call(self, make_request: Callable[[int], Request], timeout_s: float) -> Answer:
        """Ask something and wait for the answer.

        Args:
            make_request: Returns the request, given its id.
            timeout_s: How long to wait, whatever becomes of who decides, in seconds.

        Raises:
            RendezvousConnectionError: etcd could not be reached when the time was over.
            RendezvousTimeoutError: It could, but there was no answer.
            RendezvousError: What was answered.
        """
        return await_answer(self.submit(make_request), timeout_s, self._no_answer)

    def _no_answer(self, timeout_s: float) -> RendezvousError:
        """Return the error for a call that was not answered in time."""
        if not self._correspondent.has_begun:
            return unreachable(str(self.endpoint), self.attachment, timeout_s)
        return RendezvousTimeoutError(
            f"etcd at {self.endpoint} can be reached, but no node of the run answered within "
            f"{timeout_s:g} s: see the log of the node that holds the run's seat."
        )

    def detached_for_s(self) -> float:
        """Return for how long, in seconds, nobody has answered; 0 while somebody does."""
        return self.attachment.detached_for_s(self._clock.monotonic())

    def end(self, error: RendezvousError) -> None:
        """End the session with an error; what is unanswered fails with it."""
        with self._changed:
            if self.attachment.phase is not Phase.ENDED:
                self.attachment.end(error)
            self._changed.notify_all()
        self._settle()

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """End the session and its lease; what is unanswered fails."""
        self._closed.set()
        self.end(RendezvousConnectionError("The session was closed."))
        if (watch := self._watch) is not None:
            watch.close()
        for thread in self._threads:
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(timeout_s)

    def _speak(self) -> None:
        """Keep the lease and put the words, until the session ends."""
        while self.attachment.phase is not Phase.ENDED:
            try:
                self._keep_lease()
                self._put_words()
            except RendezvousProtocolError as error:
                self.end(error)
            except (RendezvousConnectionError, RendezvousLimitError) as error:
                # Space can be made, and load passes.
                self._lose(str(error))
                self._closed.wait(RETRY_S)
            except RendezvousError as error:
                self.end(error)
            else:
                self._await_news()
        if (watch := self._watch) is not None:
            watch.close()
        self._end_lease()

    def _keep_lease(self) -> None:
        """Grant a lease where there is none, and keep it alive where it is time."""
        limit_s = self._call_limit_s()
        asked_s = self._clock.monotonic()
        if self._lease and asked_s >= self._beat_at_s:
            if self._client.keep_alive(self._lease, limit_s) <= 0:
                self._lease = 0
                self._lose("etcd was not heard of this node for as long as its lease")
        elif self._lease:
            return
        if not self._lease:
            self._lease = self._client.grant_lease(self._ttl_s, limit_s).lease_id
        self._beat_at_s = asked_s + self._ttl_s / 4

    def _put_words(self) -> None:
        # A name service may hang: nobody else waits for it.
        local_addr = "" if self._correspondent.has_begun else local_address(self._endpoints)
        with self._changed:
            if self.attachment.phase is Phase.ENDED:
                return
            if not self._correspondent.has_begun and not local_addr:
                # It was lost in this moment: the next turn looks again.
                return
            if not self._correspondent.has_begun:
                self._correspondent.begin(local_addr, self._clock.monotonic())
            if not self._correspondent.has_news:
                return
            try:
                words = self._correspondent.words()
            except RendezvousLimitError as error:
                self.end(error)
                return
        put = Transaction(success=(operation(Put(self._node_key, words, self._lease)),))
        outcome = self._client.try_transaction(put, self._call_limit_s())
        if isinstance(outcome, LeaseLost):
            self._lease = 0
            self._lose("the lease of this node has ended")
        elif isinstance(outcome, ReplyLost):
            raise lost_reply()

    def _await_news(self) -> None:
        """Wait until there is something to say, or the lease has to be kept alive."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._correspondent.has_news
                    or not self._correspondent.has_begun
                    or not self._beat_at_s
                ),
                max(0.0, self._beat_at_s - self._clock.monotonic()),
            )

    def _listen(self) -> None:
        """Read the answer key, and every change of it, until the session ends."""
        while self.attachment.phase is not Phase.ENDED:
            try:
                found = self._client.range(self._answer_key, timeout_s=self._call_limit_s())
                self._take(found.kvs)
                self._follow(found.header.revision)
            except RendezvousProtocolError as error:
                self.end(error)
            except (RendezvousConnectionError, RendezvousLimitError):
                self._closed.wait(RETRY_S)
            except RendezvousError as error:
                self.end(error)

    def _follow(self, revision: int) -> None:
        """Take changes of the answer key since a revision, until some are missing."""
        with self._client.watch(self._answer_key, revision + 1) as watch:
            self._watch = watch
            while self.attachment.phase is not Phase.ENDED:
                changes = watch.next(WATCH_S)
                if changes is not None and changes.is_gap:
                    return
                if changes is not None:
                    self._take([event.kv for event in changes.events if event.type == "PUT"])
                    if changes.events[-1].type != "PUT":
                        self._doubt_lease()

    def _doubt_lease(self) -> None:
        """Look at once whether the lease lives: the answer key, which hangs on it, is gone."""
        with self._changed:
            self._beat_at_s = 0.0
            self._changed.notify_all()

    def _take(self, found: Sequence[KeyValue]) -> None:
        with self._changed:
            for pair in found:
                self._correspondent.take(pair.value, self._clock.monotonic())
            self._changed.notify_all()
        self._settle()

    def _lose(self, why: str) -> None:
        with self._changed:
            had_begun = self._correspondent.has_begun
            self._correspondent.lost(why, self._clock.monotonic())
        if had_begun:
            logger.info("this node will begin anew: %s", why)

    def _settle(self) -> None:
        """Let the futures know of their outcomes."""
        with self._changed:
            outcomes = self.attachment.take_outcomes()
        self._answers.settle(outcomes)

    def _forget_cancelled(self, request_id: int, future: concurrent.futures.Future[Answer]) -> None:
        if future.cancelled():
            with self._changed:
                self._answers.forget(request_id)
                self._correspondent.forget(request_id)
                self._changed.notify_all()

    def _call_limit_s(self) -> float:
        """How long one call may take: a lease must survive one that fails."""
        return min(self._client.timeout_s, max(1.0, self._ttl_s / 4))

    def _end_lease(self) -> None:
        lease, self._lease = self._lease, 0
        if lease:
            try:
                self._client.revoke_lease(lease)
            except RendezvousError as error:
                logger.info("this node's keys in etcd could not be removed, they lapse: %s", error)


def local_address(endpoints: Sequence[Endpoint]) -> str:
    """Return the address from which this machine speaks to the first of `endpoints` that it can.

    Nothing is sent.

    Raises:
        RendezvousConnectionError: There is no way to any of them.
    """
    why = "none was given"
    for endpoint in endpoints:
        try:
            found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_DGRAM)
            family, kind, protocol, _, address = found[0]
            with socket.socket(family, kind, protocol) as probe:
                probe.connect(address)
                return str(probe.getsockname()[0])
        except (OSError, UnicodeError) as error:
            why = f"{endpoint}: {error}"
    raise RendezvousConnectionError(
        f"This machine has no way to etcd ({why}). Check the endpoint, its name and the network."
    )
