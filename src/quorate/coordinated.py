"""The coordinated way, as a `RendezvousHandler`: one session with a coordinator (the default)."""

from __future__ import annotations

import atexit
import concurrent.futures
import logging
import os
import secrets
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from quorate import events
from quorate.api import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    free_port,
)
from quorate.clock import Clock, SystemClock
from quorate.config import check_keys, local_addr_from, profile_from, settings_from
from quorate.coordinator.agent.answers import answered
from quorate.coordinator.agent.attachment import Attachment, unreachable
from quorate.coordinator.agent.client import Client
from quorate.coordinator.agent.remote_store import RemoteStore
from quorate.coordinator.host import CoordinatorHost
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.ops import SPARE
from quorate.core.settings import PROTOCOL_VERSION, RendezvousSettings
from quorate.core.state import Place, World, WorldName
from quorate.credentials import Token, token_from
from quorate.errors import (
    RendezvousError,
    RendezvousGracefulExitError,
    RendezvousProtocolError,
    RendezvousSettingsError,
)
from quorate.identity import (
    Endpoint,
    NodeDescGenerator,
    advertised_address,
    parse_rendezvous_endpoints,
)
from quorate.logs import fields
from quorate.tls import TlsContexts, client_contexts, tls_files_from
from quorate.tracing import RendezvousSpan, rendezvous_span
from quorate.wait import NO_COORDINATOR, Wait, WaitLog, WaitReporter
from quorate.wire.messages import (
    FAILED,
    ROLE_AGENT,
    SUCCEEDED,
    Answer,
    Close,
    Finish,
    Flag,
    GetWorld,
    Hello,
    Join,
    Joined,
    Leave,
    Request,
    Waiting,
    WorldRecord,
)

__all__ = ["DEFAULT_PORT", "CoordinatedRendezvousHandler", "Session", "create_handler"]

logger = logging.getLogger("quorate.rendezvous")

BACKEND = "quorate"
DEFAULT_PORT = 29400

# A node that ends says so where it can; it does not wait longer than this for an answer.
LEAVE_TIMEOUT_S = 3.0

# How often a waiting agent looks whether there is something new to tell its log.
EXPLAIN_EVERY_S = 1.0


class Session(Protocol):
    """What a handler needs of its session with whoever decides; `Client` is one."""

    attachment: Attachment

    @property
    def endpoint(self) -> Endpoint:
        """The endpoint in use, or tried last."""
        ...

    def start(self) -> None:
        """Begin to connect; returns at once."""
        ...

    def submit(self, make_request: Callable[[int], Request]) -> concurrent.futures.Future[Answer]:
        """Ask something; `make_request` gets the request's id."""
        ...

    def call(self, make_request: Callable[[int], Request], timeout_s: float) -> Answer:
        """Ask something and wait for the answer."""
        ...

    def detached_for_s(self) -> float:
        """Return for how long, in seconds, nobody has answered; 0 while somebody does."""
        ...

    def close(self) -> None:
        """End the session; what is unanswered fails."""
        ...


class CoordinatedRendezvousHandler(RendezvousHandler):
    """One node's session with a coordinator.

    All calls may be made from any thread. A `next_rendezvous` under way ends with an error where
    another one steps aside, leaves, or closes the run.

    Args:
        settings: The settings of the run.
        endpoints: Where coordinators are.
        profile: What the node says about itself.
        local_addr: The address to advertise; that of its own connection if `None`.
        host: May start a coordinator on this machine; `None` never to.
        token: What the coordinator and this node must both know; `None` if there is none.
        tls: What the connection is secured with; `None` for a plain one.
        clock: Measures for how long this node has waited.
    """

    _node_desc_generator = NodeDescGenerator()

    def __init__(
        self,
        settings: RendezvousSettings,
        endpoints: Sequence[Endpoint],
        profile: NodeProfile | None = None,
        local_addr: str | None = None,
        host: Callable[[Endpoint], None] | None = None,
        token: Token | None = None,
        tls: TlsContexts | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._tls = tls
        self._clock = clock or SystemClock()
        self._reporter: WaitReporter = WaitLog(settings.run_id, self._clock, self._fields)
        self._settings = settings
        self._token = token
        self._profile = profile or NodeProfile()
        self._local_addr = local_addr
        self._session = secrets.token_hex(8)
        self._node: NodeDesc | None = None
        self._place: Place | None = None
        self._started = False
        self._made_in = os.getpid()
        self._ended = False
        self._joining = threading.Lock()
        self._client: Session = self._new_session(endpoints, host)

    @property
    def settings(self) -> RendezvousSettings:
        """The settings of the run."""
        return self._settings

    @property
    def endpoint(self) -> Endpoint:
        """The coordinator's endpoint, for workers that use the store."""
        return self._client.endpoint

    @property
    def node(self) -> NodeDesc | None:
        """This node's descriptor, known once there was a connection."""
        return self._node

    @property
    def reason_to_regroup(self) -> str:
        """Why `num_nodes_waiting` is above zero, for people."""
        return self._client.attachment.changed_reason

    @property
    def is_world_broken(self) -> bool:
        """Whether the present world has lost a member, or its members have begun to regroup."""
        return self._client.attachment.broken

    @property
    def closed_reason(self) -> str:
        """Why the run was closed, empty while it is open."""
        return self._client.attachment.closed_reason

    def get_backend(self) -> str:
        """See base class."""
        return BACKEND

    def get_run_id(self) -> str:
        """See base class."""
        return self._settings.run_id

    def next_rendezvous(self) -> RendezvousInfo:
        """See base class."""
        self._record("wants to join the next round")
        with self._joining, rendezvous_span(self.get_run_id(), self.get_backend()) as span:
            self._start()
            after = self._place.world if self._place is not None else None
            addr = self._changed_address()
            profile = msgspec.structs.replace(self._profile, port=free_port(), addr=addr)
            timeout_s = self._settings.timeout.join.total_seconds()
            future = self._client.submit(lambda id: Join(id, after, timeout_s, profile))
            try:
                joined = answered(self._await_join(future, timeout_s, span), Joined)
            except RendezvousError as error:
                done = isinstance(error, RendezvousGracefulExitError)
                state = events.EventState.SUCCEEDED if done else events.EventState.FAILED
                self._record(f"was not given a place: {error}", state)
                raise
            finally:
                # A caller that was interrupted does not want the answer any more.
                future.cancel()
            self._place = place = joined.place
            span.joined(place.round, place.rank, place.size, str(self._node or ""))
        text = f"has rank {place.rank} in round {place.world}, a world of {place.size}"
        self._record(text, events.EventState.SUCCEEDED)
        return self._info(place)

    def is_closed(self) -> bool:
        """See base class."""
        return self._client.attachment.closed

    def set_closed(self, reason: str = "") -> None:
        """See base class."""
        self._close(reason, "")

    def finish(self) -> None:
        """See base class."""
        timeout_s = self._settings.timeout.close.total_seconds()
        answered(self._client.call(Finish, timeout_s), Flag)

    def succeed(self, reason: str) -> bool:
        """Say that the job has succeeded, which closes the run (R7).

        Where another member is known to be lost, its work may be undone: this node leaves.

        Args:
            reason: What has succeeded, for everyone.

        Returns:
            Whether the run was closed.
        """
        return self._close(reason, SUCCEEDED)

    def fail(self, reason: str) -> bool:
        """Say that the job has failed on this node for good (R7).

        The coordinator waits until the other members have answered since. If one of them is
        lost, the failure was a symptom of that: this node leaves, and the others go on.

        Args:
            reason: What failed, for everyone.

        Returns:
            Whether the run was closed.
        """
        return self._close(reason, FAILED)

    def num_nodes_waiting(self) -> int:
        """See base class. Answers from what was pushed, at once; never fails."""
        if self._client.attachment.error is not None and not self._ended:
            return 1
        return self._client.attachment.waiting

    def members_change(self) -> bool:
        """See base class. Answers as `num_nodes_waiting` does."""
        return self.num_nodes_waiting() > 0 and (
            self._client.attachment.error is not None or self._client.attachment.members_change
        )

    def leave(self, reason: str = "") -> None:
        """See base class. Does not fail: without a word, the others notice the end."""
        if self._is_of_parent:
            return
        if not self._ended and self._client.attachment.is_known:
            self._ended = True
            try:
                self._client.call(lambda id: Leave(id, reason), LEAVE_TIMEOUT_S)
            except RendezvousError as error:
                logger.info("could not say that this node leaves: %s", error)
        self._release()

    def report_waits_to(self, reporter: WaitReporter) -> None:
        """See base class."""
        self._reporter = reporter

    def step_aside(self, reason: str) -> None:
        """See base class. It keeps its session, and hears of a close."""
        self._start()
        timeout_s = self._settings.timeout.close.total_seconds()
        answered(self._client.call(lambda id: Leave(id, reason), timeout_s), Flag)

    def shutdown(self) -> bool:
        """Close the run if this node is in a world that stands, else leave; end the session."""
        if self._is_of_parent:
            return True
        if self._ended or not self._started:
            self._release()
            return True
        try:
            if self._place is not None and not self.is_closed():
                # The coordinator lets a node go whose word does not count.
                self.succeed("the job was shut down")
                self._ended = True
            self.leave()
        except RendezvousError as error:
            logger.warning("could not close the run %s: %s", self._settings.run_id, error)
            self._release()
            return False
        return True

    def world(self) -> World | None:
        """See base class. A large record comes in parts, which may take one timeout each."""
        known: World | None = None
        while True:
            first = len(known.members) if known is not None else 0
            record = self._world_from(first)
            part = record.world
            if part is None or record.size is None:
                return part
            if known is not None and part.name != known.name:
                # Another round has been completed meanwhile.
                known = None
                continue
            known = part if known is None else known.extended(part)
            if len(known.members) >= record.size:
                return known
            if not part.members:
                raise RendezvousProtocolError(
                    f"The coordinator has sent {first} of {record.size} members of a world, and no "
                    f"more: run the same release everywhere."
                )

    def _world_from(self, first: int) -> WorldRecord:
        timeout_s = self._settings.timeout.heartbeat.total_seconds()
        return answered(self._client.call(lambda id: GetWorld(id, first), timeout_s), WorldRecord)

    def _start(self) -> None:
        if not self._started:
            self._started = True
            atexit.register(self.leave, "the process has ended")
            self._client.start()

    @property
    def _is_of_parent(self) -> bool:
        """Whether this is a forked child's copy: the session is the parent's, and goes on there."""
        return self._made_in != os.getpid()

    def _release(self) -> None:
        self._ended = True
        atexit.unregister(self.leave)
        self._client.close()

    def _new_session(
        self, endpoints: Sequence[Endpoint], host: Callable[[Endpoint], None] | None
    ) -> Session:
        interval_s = self._settings.keep_alive_interval.total_seconds()
        return Client(endpoints, self._hello, interval_s, host, token=self._token, tls=self._tls)

    def _store(self, world: WorldName) -> Any:
        assert isinstance(self._client, Client)
        return RemoteStore(self._client, world)

    def _hello(self, endpoint: Endpoint, connection_addr: str) -> Hello:
        addr = self._advertised(endpoint, connection_addr)
        node = self._node_desc_generator.generate(addr)
        self._node = msgspec.structs.replace(node, incarnation=self._session)
        return Hello(
            version=PROTOCOL_VERSION,
            role=ROLE_AGENT,
            run_id=self._settings.run_id,
            session=self._session,
            node=self._node,
            profile=self._profile,
            settings=self._settings.agreed,
        )

    def _advertised(self, endpoint: Endpoint, connection_addr: str) -> str:
        return advertised_address(connection_addr, endpoint.host, self._local_addr)

    def _changed_address(self) -> str:
        """Return the address of this node if it is not the one with which it came, else nothing."""
        if self._node is None:
            return ""
        addr = self._advertised(self.endpoint, self._client.attachment.local_addr)
        return "" if addr == self._node.addr else addr

    def _await_join(
        self,
        future: concurrent.futures.Future[Answer],
        timeout_s: float,
        span: RendezvousSpan,
    ) -> Answer:
        """Wait for the coordinator's word; it counts the time, except while there is none."""
        told = _Explanation(self._clock, timeout_s)
        try:
            while True:
                try:
                    return future.result(EXPLAIN_EVERY_S)
                except TimeoutError:
                    if future.done():
                        return future.result()
                detached_s = self._client.detached_for_s()
                if detached_s > timeout_s:
                    future.cancel()
                    raise unreachable(str(self.endpoint), self._client.attachment, detached_s)
                self._report(told, detached_s, timeout_s, span)
        finally:
            self._reporter.done()

    def _report(
        self, told: _Explanation, detached_s: float, timeout_s: float, span: RendezvousSpan
    ) -> None:
        """Say what is waited for (R16)."""
        attachment = self._client.attachment
        explanation = attachment.explanation
        if explanation is not None and explanation is not told.said:
            span.waits(explanation.reason)
        wait = told.wait(explanation)
        if detached_s > 0 and not attachment.is_put_off:
            reason = f"no coordinator at {self.endpoint} ({attachment.last_error.rstrip('.')})"
            left_s = timeout_s - detached_s
            wait = Wait(NO_COORDINATOR, reason, detached_s, gives_up_in_s=left_s)
        if wait is not None:
            self._reporter.report(wait)

    def _record(self, text: str, state: events.EventState = events.EventState.RUNNING) -> None:
        place = self._place
        events.record(
            "CoordinatedRendezvousHandler.next_rendezvous",
            self._settings.run_id,
            f"{self._node or 'this node'} {text}",
            state,
            self._node,
            place.rank if place else None,
            place.round if place else None,
        )

    def _fields(self) -> dict[str, Any]:
        place = self._place
        known = (place.round, str(self._node or ""), place.rank) if place else (None, "", None)
        return fields(self._settings.run_id, *known)

    def _info(self, place: Place) -> RendezvousInfo:
        return RendezvousInfo(
            store=self._store(place.world),
            rank=place.rank,
            world_size=place.size,
            bootstrap_store_info=RendezvousStoreInfo(place.leader_addr, place.leader_port),
            place=place,
        )

    def _close(self, reason: str, outcome: str) -> bool:
        self._start()
        timeout_s = self._settings.timeout.close.total_seconds()
        answer = self._client.call(lambda id: Close(id, reason, outcome), timeout_s)
        return answered(answer, Flag).value


class _Explanation:
    """What a coordinator has said of a wait, and how old that is.

    Args:
        clock: Measures it.
        timeout_s: How long the node waits for a round, in seconds.

    Attributes:
        said: The coordinator's last word.
    """

    def __init__(self, clock: Clock, timeout_s: float) -> None:
        self._clock = clock
        self._timeout_s = timeout_s
        self._begun_s = self._heard_s = clock.monotonic()
        self.said: Waiting | None = None

    def wait(self, said: Waiting | None) -> Wait | None:
        """Return what is waited for now, as far as it is known."""
        now_s = self._clock.monotonic()
        if said is not self.said:
            if self.said is not None and self.said.kind == SPARE:
                # Now that there is a place for it, its time has begun (R6).
                self._begun_s = now_s
            self.said, self._heard_s = said, now_s
        if said is None:
            return None
        age_s = now_s - self._heard_s
        left_s = max(self._timeout_s - (now_s - self._begun_s), 0.0)
        return Wait(
            said.kind,
            said.reason,
            said.since_s + age_s,
            said.missing,
            said.missing_count,
            None if said.ends_in_s is None else max(said.ends_in_s - age_s, 0.0),
            None if said.kind == SPARE else left_s,
        )


def create_handler(params: RendezvousParameters) -> CoordinatedRendezvousHandler:
    """Return the handler for a node's parameters, `backend` being `quorate`.

    Raises:
        RendezvousSettingsError: A parameter is wrong.
    """
    check_keys(params.config, BACKEND)
    endpoints = parse_rendezvous_endpoints(params.endpoint, DEFAULT_PORT)
    if any(endpoint.port == 0 for endpoint in endpoints):
        raise RendezvousSettingsError(
            f"Nobody can find a coordinator at port 0 ('{params.endpoint}'): name a port, as in "
            f"HOST:{DEFAULT_PORT}. Only a job of a single node (--nnodes 1) may leave it open."
        )
    is_host = params.get_as_bool("is_host")
    if is_host is None and len(endpoints) > 1:
        # Coordinators that stand in for each other share a state: one with a journal of its own
        # must not appear among them.
        is_host = False
    token = token_from(params.get("token_file"))
    tls = tls_files_from(params)
    return CoordinatedRendezvousHandler(
        settings_from(params),
        endpoints,
        profile_from(params),
        local_addr_from(params),
        CoordinatorHost(is_host, params.get("state_dir"), token=token, tls=tls),
        token,
        client_contexts(tls),
    )
