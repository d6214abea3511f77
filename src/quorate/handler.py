"""The direct way: every node runs the rules itself, on a state that a backend keeps."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import threading
import weakref
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, ClassVar

import msgspec

from quorate import events
from quorate.api import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    free_port,
)
from quorate.backends.base import RendezvousBackend
from quorate.clock import Clock, SystemClock
from quorate.config import check_keys, local_addr_from, profile_from, settings_from
from quorate.core.action import Action, Decision, RendezvousContext
from quorate.core.completion import nodes_waiting
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.ops import (
    RendezvousCloseOp,
    RendezvousExitOp,
    RendezvousKeepAliveOp,
    RendezvousVerdictOp,
)
from quorate.core.settings import RendezvousSettings, RendezvousTimeout
from quorate.core.state import Place, RendezvousState, World, WorldName
from quorate.errors import (
    RendezvousConnectionError,
    RendezvousError,
    RendezvousGracefulExitError,
    RendezvousTimeoutError,
)
from quorate.executor import DistributedRendezvousOpExecutor, Operation
from quorate.heartbeat import PeriodicTimer
from quorate.holder import BackendRendezvousStateHolder, RendezvousStateHolder
from quorate.identity import NodeDescGenerator
from quorate.joining import Joining
from quorate.stores.foreign import is_of_torch, prefixed, translating_foreign
from quorate.tracing import rendezvous_span
from quorate.wait import WaitReporter

__all__ = ["DynamicRendezvousHandler", "create_handler"]

logger = logging.getLogger(__name__)

# Nodes that are started together would all write first in the same instant.
SKEW_MAX_S = 0.3

# Where the backend is away, others find out by themselves that this node has gone.
LEAVE_EXCHANGE_S = 3.0

# How often a node looks whether rank 0 has announced where its workers find their store.
ANNOUNCEMENT_POLL_S = 0.05

AGENT_STORE_OFF = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"


class DynamicRendezvousHandler(RendezvousHandler):
    """One node's part in a run whose state all nodes share through a backend.

    After `next_rendezvous` a thread, `RendezvousKeepAliveTimer_<local_id>`, keeps the node alive
    until `leave`, `shutdown`, or the end of the handler. All calls may be made from any thread;
    one that closes or leaves the run does not wait for a `next_rendezvous` under way, which ends
    with RendezvousClosedError, or after a leave joins again.

    The store of a round has the prefix `torch.rendezvous.<run_id>.<round>.<epoch>`: PyTorch's,
    and the epoch, because round numbers begin anew with each epoch.

    Args:
        node: The name of this node.
        settings: The settings of the run.
        backend_name: The name of the kind of backend.
        store: The store of the run: one of torch's, or a `quorate.stores.base.Store`.
        state_holder: The node's copy of the state.
        clock: Gives the time; the same that the holder has.
        profile: What the node says about itself.
    """

    _node_desc_generator: ClassVar[NodeDescGenerator] = NodeDescGenerator()

    @classmethod
    def from_backend(
        cls,
        run_id: str,
        store: Any,
        backend: RendezvousBackend,
        min_nodes: int,
        max_nodes: int,
        local_addr: str | None = None,
        timeout: RendezvousTimeout | None = None,
        keep_alive_interval: float = 5,
        keep_alive_max_attempt: int = 3,
    ) -> DynamicRendezvousHandler:
        """Return a handler for a new node.

        Args:
            run_id: The id of the run.
            store: The store of the run.
            backend: Keeps its state.
            min_nodes: The least number of nodes of a round.
            max_nodes: The greatest number of nodes of a round.
            local_addr: The address at which others reach the node; its full name if `None`.
            timeout: How long each step may take.
            keep_alive_interval: How often, in seconds, the node says that it is alive.
            keep_alive_max_attempt: After how many silent intervals a node is lost.

        Raises:
            RendezvousSettingsError: A setting makes no sense.
        """
        settings = RendezvousSettings(
            run_id,
            min_nodes,
            max_nodes,
            timeout or RendezvousTimeout(),
            keep_alive_interval=timedelta(seconds=keep_alive_interval),
            keep_alive_max_attempt=keep_alive_max_attempt,
        )
        node = cls._node_desc_generator.generate(local_addr)
        holder = BackendRendezvousStateHolder(backend, settings)
        return cls(node, settings, backend.name, store, holder)

    def __init__(
        self,
        node: NodeDesc,
        settings: RendezvousSettings,
        backend_name: str,
        store: Any,
        state_holder: RendezvousStateHolder,
        clock: Clock | None = None,
        profile: NodeProfile | None = None,
    ) -> None:
        self._node = node
        self._settings = settings
        self._backend_name = backend_name
        self._store = store
        self._state_holder = state_holder
        self._clock = clock or SystemClock()
        self._profile = profile or NodeProfile()
        # Held for single steps only, so that shutdown never waits for a join.
        self._lock = threading.Lock()
        self._executor = DistributedRendezvousOpExecutor(
            node, state_holder, settings, self._clock, self._profile, self._lock
        )
        self._keep_alive_timer: PeriodicTimer | None = None
        self._agent_store: Any = None
        self._place: Place | None = None
        self._world: World | None = None

    @property
    def settings(self) -> RendezvousSettings:
        """The settings of the run."""
        return self._settings

    @property
    def node(self) -> NodeDesc:
        """The name of this node."""
        return self._node

    @property
    def use_agent_store(self) -> bool:
        """Whether rank 0's agent serves a TCPStore for the workers.

        It does if the run has a store of torch's, unless TORCH_DISABLE_SHARE_RDZV_TCP_STORE is 1.
        """
        return is_of_torch(self._store) and os.environ.get(AGENT_STORE_OFF) != "1"

    def get_backend(self) -> str:
        """See `RendezvousHandler`."""
        return self._backend_name

    def get_run_id(self) -> str:
        """See `RendezvousHandler`."""
        return self._settings.run_id

    def world(self) -> World | None:
        """See `RendezvousHandler`."""
        return self._world

    def next_rendezvous(self) -> RendezvousInfo:
        """See `RendezvousHandler`."""
        backend = self.get_backend()
        span_of = rendezvous_span(self._settings.run_id, backend)
        with self._recording("next_rendezvous"), span_of as span:
            self._record("next_rendezvous", f"{self._node} wants to join the next round")
            self._stop_heartbeats()
            self._agent_store = None
            if self._place is None:
                self._clock.sleep(random.uniform(0, SKEW_MAX_S))
            bootstrap = None
            while bootstrap is None:
                with self._state_holder.limited_to(self._settings.timeout.join.total_seconds()):
                    place = self._join()
                self._start_heartbeats()
                store = self._round_store(place)
                with self._leaving_on_error():
                    bootstrap = self._bootstrap(place, store)
                if bootstrap is None:
                    self._stop_heartbeats()
            span.joined(place.round, place.rank, place.size, str(self._node))
        self._record(
            "next_rendezvous",
            f"{self._node} has rank {place.rank} in round {place.world}, a world of {place.size}",
            events.EventState.SUCCEEDED,
        )
        return RendezvousInfo(store, place.rank, place.size, bootstrap, place)

    def is_closed(self) -> bool:
        """See `RendezvousHandler`."""
        with self._recording("is_closed"), self._lock:
            return self._synced().state.closed

    def set_closed(self, reason: str = "") -> None:
        """See `RendezvousHandler`."""
        with self._recording("set_closed"):
            self._close(reason)

    def num_nodes_waiting(self) -> int:
        """See `RendezvousHandler`."""
        with self._recording("num_nodes_waiting"), self._lock:
            return nodes_waiting(self._synced(), self._world_name(), newcomers_at_once=True)

    def fail(self, reason: str) -> bool:
        """Say that the job has failed on this node for good (R7).

        It closes the run for a member of the present world. Where another member is known to be
        lost or to have left, the failure was a symptom of that, and whoever is no member any more
        has no say: this node leaves, and the others go on.

        Args:
            reason: What failed, for the others.

        Returns:
            Whether the run is closed.

        Raises:
            RendezvousError: The others could not be told.
        """
        with self._recording("fail"):
            is_closed = self._end(reason)
        if not is_closed:
            self._stop_heartbeats()
        return is_closed

    def leave(self, reason: str = "") -> None:
        """See `RendezvousHandler`.

        Raises:
            RendezvousError: The others could not be told; they will miss this node's heartbeats.
        """
        self._stop_heartbeats()
        with self._recording("leave"):
            self._leave(reason)

    def report_waits_to(self, reporter: WaitReporter) -> None:
        """See `RendezvousHandler`."""
        self._executor.reporter = reporter

    def step_aside(self, reason: str) -> None:
        """See `RendezvousHandler`."""
        self.leave(reason)

    def shutdown(self) -> bool:
        """Close the run if this node is a member of its world, else leave it; end the heartbeats.

        A node that never got into a world, or lost its place, must not end the run of the others,
        nor does a member while another one's work is undone (R7). Further calls change nothing.

        Returns:
            Whether the backend could be told.
        """
        self._stop_heartbeats()
        self._agent_store = None
        try:
            with self._recording("shutdown"):
                self._end(f"{self._node} has shut down")
        except RendezvousError as error:
            logger.warning("[%s] %s could not shut down: %s", self.get_run_id(), self._node, error)
            return False
        return True

    def _join(self) -> Place:
        self._executor.profile = self._profile_of_now()
        joining = Joining(
            self._executor,
            self._settings,
            self._clock,
            self._world_name(),
            retrying=self._warn_of_retry,
        )
        self._world = self._executor.carry_out(joining.steps())
        self._place = self._world.places()[self._node]
        return self._place

    def _warn_of_retry(self, error: RendezvousConnectionError) -> None:
        logger.warning("[%s] %s; trying again", self.get_run_id(), str(error).rstrip("."))

    def _profile_of_now(self) -> NodeProfile:
        port = 0 if self.use_agent_store else self._profile.port or free_port()
        return msgspec.structs.replace(self._profile, port=port)

    def _round_store(self, place: Place) -> Any:
        prefix = f"torch.rendezvous.{self._settings.run_id}.{place.round}.{place.epoch}"
        return prefixed(prefix, self._store)

    def _bootstrap(self, place: Place, store: Any) -> RendezvousStoreInfo | None:
        """Return where the workers find their store, `None` if rank 0 was lost meanwhile."""
        if place.leader_port:
            return RendezvousStoreInfo(place.leader_addr, place.leader_port)
        with translating_foreign(store, "Announcing where the workers find their store"):
            if place.rank == 0:
                return RendezvousStoreInfo.build(0, store, place.leader_addr, self._serve())
            if not self._await_announcement(place, store):
                return None
            return RendezvousStoreInfo.build(place.rank, store, None)

    def _serve(self) -> int:
        """Serve a store for the workers; a new one, as those of the last round used the old one."""
        from quorate.backends.tcpstore import serve_tcp_store

        self._agent_store = serve_tcp_store()
        port: int = self._agent_store.port
        return port

    def _await_announcement(self, place: Place, store: Any) -> bool:
        keys = [RendezvousStoreInfo.MASTER_ADDR_KEY, RendezvousStoreInfo.MASTER_PORT_KEY]
        deadline = self._deadline(self._settings.timeout.join)
        while not store.check(keys):
            with self._lock:
                if not _leader_stands(self._synced().state, place.world):
                    return False
            if self._clock.monotonic() > deadline:
                raise RendezvousTimeoutError(
                    f"Rank 0 ({place.leader_addr}) of round {place.world} did not announce in time "
                    f"where the workers find their store: see its log."
                )
            self._clock.sleep(ANNOUNCEMENT_POLL_S)
        return True

    def _close(self, reason: str) -> None:
        self._run(RendezvousCloseOp(reason), self._settings.timeout.close)
        self._record("close", f"{self._node} has closed the run", events.EventState.SUCCEEDED)

    def _end(self, reason: str) -> bool:
        """Say how the job has ended; return whether the run is closed, or this node has left it."""
        verdict = RendezvousVerdictOp(self._world_name(), reason)
        last = Decision(Action.SYNC, "", "")

        def operation(ctx: RendezvousContext, deadline: float) -> Decision:
            nonlocal last
            last = verdict(ctx, deadline)
            return last

        self._run(operation, self._settings.timeout.close)
        is_closed = last.kind == "closed"
        done = "has closed the run" if is_closed else "has left the run"
        self._record("end", f"{self._node} {done}", events.EventState.SUCCEEDED)
        return is_closed

    def _leave(self, reason: str) -> None:
        leave = RendezvousExitOp()

        def operation(ctx: RendezvousContext, deadline: float) -> Decision:
            decision = leave(ctx, deadline)
            return decision._replace(reason=reason or decision.reason)

        with self._state_holder.limited_to(LEAVE_EXCHANGE_S):
            self._run(operation, self._settings.timeout.close)

    def _run(self, operation: Operation, timeout: timedelta) -> None:
        """Carry out an operation, and give up after a time that exchanges have to heed too."""
        with self._state_holder.limited_to(timeout.total_seconds()):
            self._executor.run(operation, self._deadline(timeout))

    @contextlib.contextmanager
    def _leaving_on_error(self) -> Iterator[None]:
        """Give up the place in a world that this node cannot work in, so that others regroup."""
        try:
            yield
        except RendezvousError as error:
            self._stop_heartbeats()
            with contextlib.suppress(RendezvousError):
                self._leave(f"failed to start its workers' store: {error}")
            raise

    def _synced(self) -> RendezvousContext:
        """Return the context of this node in a state that is up to date; the lock is held."""
        self._state_holder.sync()
        holder = self._state_holder
        return RendezvousContext(self._node, holder.state, self._settings, holder.observer)

    def _world_name(self) -> WorldName | None:
        return self._place.world if self._place is not None else None

    def _deadline(self, timeout: timedelta) -> float:
        return self._clock.monotonic() + timeout.total_seconds()

    def _start_heartbeats(self) -> None:
        self._keep_alive_timer = PeriodicTimer(
            timedelta(seconds=self._settings.beat_look_s),
            _keep_alive,
            weakref.ref(self),
            name=f"RendezvousKeepAliveTimer_{self._node.local_id}",
        )
        self._keep_alive_timer.start()

    def _stop_heartbeats(self) -> None:
        timer, self._keep_alive_timer = self._keep_alive_timer, None
        if timer is not None:
            timer.cancel()

    def _keep_alive(self) -> None:
        try:
            self._run(RendezvousKeepAliveOp(), self._settings.timeout.heartbeat)
        except Exception as error:
            # The next one may succeed; the thread must live on to send it.
            self._record("keep_alive", f"no heartbeat: {error!r}", events.EventState.FAILED)

    @contextlib.contextmanager
    def _recording(self, call: str) -> Iterator[None]:
        """Record the error that ends a call."""
        try:
            yield
        except RendezvousGracefulExitError as error:
            self._record(call, str(error), events.EventState.SUCCEEDED)
            raise
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            self._record(call, message, events.EventState.FAILED)
            raise

    def _record(
        self,
        call: str,
        message: str,
        state: events.EventState = events.EventState.RUNNING,
    ) -> None:
        place = self._place
        events.record(
            f"DynamicRendezvousHandler.{call}",
            self._settings.run_id,
            message,
            state,
            node=self._node,
            rank=place.rank if place is not None else None,
            round_number=place.round if place is not None else None,
            time=self._clock.now(),
        )


def create_handler(
    store: Any, backend: RendezvousBackend, params: RendezvousParameters
) -> DynamicRendezvousHandler:
    """Return a handler for a new node, as its parameters ask for it.

    Args:
        store: The store of the run.
        backend: Keeps its state.
        params: The parameters; `docs/configuration.md` lists the keys.

    Raises:
        RendezvousSettingsError: A key is unknown, or its value makes no sense.
    """
    try:
        check_keys(params.config, params.backend)
        settings = settings_from(params)
        profile = profile_from(params)
    except RendezvousError as error:
        events.record("create_handler", params.run_id, str(error), events.EventState.FAILED)
        raise
    node = DynamicRendezvousHandler._node_desc_generator.generate(local_addr_from(params))
    holder = BackendRendezvousStateHolder(backend, settings)
    return DynamicRendezvousHandler(node, settings, backend.name, store, holder, profile=profile)


def _keep_alive(handler: weakref.ref[DynamicRendezvousHandler]) -> None:
    """Send a heartbeat, if there is still somebody to send it for."""
    present = handler()
    if present is not None:
        present._keep_alive()


def _leader_stands(state: RendezvousState, world: WorldName) -> bool:
    if state.world is None or not state.complete or state.name != world:
        return False
    return state.world.members[0] in state.participants
