"""Fixed ranks: every node is told its rank and the size of the world, and nobody may come or go.

When the workers of one node are to be started again, all nodes meet again, in the next round: a
worker cannot enter a group that others are in already.
"""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Callable
from typing import Any

from quorate.api import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
)
from quorate.backends.bounded import BoundedCaller
from quorate.clock import Clock, SystemClock
from quorate.config import check_keys
from quorate.core.state import Place
from quorate.errors import (
    RendezvousProtocolError,
    RendezvousSettingsError,
    RendezvousTimeoutError,
)
from quorate.identity import Endpoint, parse_rendezvous_endpoint
from quorate.stores.foreign import prefixed, translating_foreign
from quorate.tracing import rendezvous_span

__all__ = ["StaticRendezvous", "create_handler"]

# torch's default.
TIMEOUT_S = 600.0

NO_PORT = -1

# How often a node looks whether the others are there.
POLL_S = 0.1

# How long the look whether others meet again may keep a node from looking after its workers.
LOOK_TIMEOUT_S = 10.0

# Where in the store a node stands that has finished.
FINISHED = "finished"

StoreOpener = Callable[[Endpoint, bool, float], Any]
StoreServer = Callable[[], Any]


class StaticRendezvous(RendezvousHandler):
    """One node with a fixed rank, in a world that is complete when all ranks are there.

    Rank 0 serves a TCPStore at the endpoint, and the workers of the first round use it too. What
    they leave there would mislead the workers of a later round, for whom rank 0 serves a new one
    at a free port. Each node says there how many workers it runs, so that nodes may run different
    numbers of them.

    Args:
        endpoint: The address and port of rank 0.
        rank: The rank of this node.
        world_size: The number of nodes.
        run_id: The id of the run.
        timeout_s: How long to wait for the others, in seconds.
        slots: The number of workers of this node.
        open_store: Serves or reaches the store, given the endpoint, whether to serve, and the
            time that it may take; a TCPStore of torch's if `None`.
        serve_store: Serves a store for the workers of a later round, and returns it; its `port` is
            where. A TCPStore of torch's if `None`.
        clock: Gives the time.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        rank: int,
        world_size: int,
        run_id: str,
        timeout_s: float = TIMEOUT_S,
        slots: int = 1,
        open_store: StoreOpener | None = None,
        serve_store: StoreServer | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._rank = rank
        self._world_size = world_size
        self._run_id = run_id
        self._timeout_s = timeout_s
        self._slots = slots
        self._open_store = open_store or _open_tcp_store
        self._serve_store = serve_store or _serve_tcp_store
        self._clock = clock or SystemClock()
        self._store: Any = None
        self._caller: BoundedCaller | None = None
        self._workers_store: Any = None
        self._round = -1
        self._has_finished = False

    @property
    def use_agent_store(self) -> bool:
        """The workers use a store that rank 0 serves."""
        return True

    def get_backend(self) -> str:
        """See `RendezvousHandler`."""
        return "static"

    def get_run_id(self) -> str:
        """See `RendezvousHandler`."""
        return self._run_id

    def next_rendezvous(self) -> RendezvousInfo:
        """Wait until every rank has called this as often, and return this node's place.

        Raises:
            RendezvousTimeoutError: Some ranks did not come; the message names them.
            RendezvousConnectionError: The store at the endpoint could not be served or reached.
            RendezvousProtocolError: The store holds something else for a node.
        """
        with rendezvous_span(self._run_id, self.get_backend()) as span:
            info = self._meet()
            span.joined(self._round, info.rank, info.world_size)
        return info

    def _meet(self) -> RendezvousInfo:
        deadline = self._clock.monotonic() + self._timeout_s
        if self._store is None:
            self._store = self._open_store(self._endpoint, self._rank == 0, self._timeout_s)
            self._caller = BoundedCaller(f"The store at {self._endpoint}")
        with translating_foreign(self._store, f"Meeting the other nodes at {self._endpoint}"):
            self._round = self._next_round()
            self._announce()
            self._await_others(deadline)
            epoch = self._read(self._key("epoch"), rb"[0-9a-f]{8}")[0].decode()
            words = [self._word_of(rank) for rank in range(self._world_size)]
        slots, ports = zip(*words, strict=True)
        host, port = self._endpoint.host, ports[0]
        place = Place(
            epoch=epoch,
            round=self._round,
            rank=self._rank,
            size=self._world_size,
            digest="",
            leader_addr=host,
            leader_port=port,
            first_worker=sum(slots[: self._rank]),
            workers=sum(slots),
        )
        info = RendezvousStoreInfo(host, port)
        store = prefixed(self._run_id, self._store)
        return RendezvousInfo(store, self._rank, self._world_size, info, place)

    def _next_round(self) -> int:
        """Return the number of the round that the others are in, or go to."""
        number = self._round + 1
        while self._store.check([self._key(number + 1)]):
            number += 1
        return number

    def _port_to_announce(self) -> int:
        """Return where the workers of the round find their store; only rank 0's word counts."""
        if self._rank != 0:
            return self._endpoint.port
        if self._round > 0:
            self._workers_store = self._serve_store()
        elif self._endpoint.port:
            return self._endpoint.port
        port: int = (self._workers_store or self._store).port
        return port

    def is_closed(self) -> bool:
        """Return False: fixed ranks have no state that could be closed."""
        return False

    def set_closed(self, reason: str = "") -> None:
        """Do nothing: fixed ranks have no state that could be closed."""

    def num_nodes_waiting(self) -> int:
        """Return 1 if another node starts its workers again, for which all meet again, else 0.

        Raises:
            RendezvousConnectionError: The store at the endpoint cannot be reached.
        """
        if self._caller is None or self._has_finished:
            return 0
        keys = [self._key(self._round + 1)]
        with translating_foreign(self._store, f"Looking for other nodes at {self._endpoint}"):
            return int(self._caller.call(lambda: self._store.check(keys), LOOK_TIMEOUT_S))

    def finish(self) -> None:
        """Say that this node's work is done: it counts as there when others meet again.

        Raises:
            RendezvousConnectionError: The store at the endpoint cannot be reached.
        """
        if self._store is None:
            return
        self._has_finished = True
        with translating_foreign(self._store, f"Telling the other nodes at {self._endpoint}"):
            # Nobody meets at the store of one that has finished any more.
            word = f"{self._slots} {self._endpoint.port}"
            self._store.set(self._key(FINISHED, self._rank), word.encode())

    def leave(self, reason: str = "") -> None:
        """Do nothing: nobody waits for a node that was there once."""

    def shutdown(self) -> bool:
        """Release the store; rank 0 ends it for the others with that."""
        if self._caller is not None:
            self._caller.close()
        self._caller = self._store = self._workers_store = None
        return True

    def _key(self, *parts: object) -> str:
        return "/".join([f"quorate.static.{self._run_id}", *map(str, parts)])

    def _announce(self) -> None:
        """Say that this node is there, after what the others read once it is."""
        epoch = self._key("epoch")
        if self._rank == 0 and not self._store.check([epoch]):
            self._store.set(epoch, secrets.token_hex(4).encode())
        word = f"{self._slots} {self._port_to_announce()}"
        self._store.set(self._key(self._round), b"begun")
        self._store.set(self._key(self._round, self._rank), word.encode())

    def _is_there(self, rank: int) -> bool:
        return any(self._store.check([key]) for key in self._keys_of(rank))

    def _keys_of(self, rank: int) -> tuple[str, str]:
        return self._key(self._round, rank), self._key(FINISHED, rank)

    def _word_of(self, rank: int) -> tuple[int, int]:
        """Return how many workers a node runs that is there, and the port that it names."""
        key = next(key for key in self._keys_of(rank) if self._store.check([key]))
        word = self._read(key, rb"([1-9][0-9]{0,9}) ([0-9]{1,5})")
        return int(word[1]), int(word[2])

    def _read(self, key: str, pattern: bytes) -> re.Match[bytes]:
        value = bytes(self._store.get(key))
        word = re.fullmatch(pattern, value)
        if word is None:
            raise RendezvousProtocolError(
                f"The store at {self._endpoint} has {value[:40]!r} for '{key}': see whether all "
                f"nodes run the same release of quorate."
            )
        return word

    def _await_others(self, deadline: float) -> None:
        missing = list(range(self._world_size))
        while True:
            missing = [rank for rank in missing if not self._is_there(rank)]
            if not missing:
                return
            if self._clock.monotonic() > deadline:
                names = ", ".join(map(str, missing[:10])) + (", ..." if missing[10:] else "")
                raise RendezvousTimeoutError(
                    f"{len(missing)} of {self._world_size} nodes did not come to "
                    f"{self._endpoint} within {self._timeout_s:g} s: the ranks {names} are "
                    f"missing. See whether they were started, each with its own rank."
                )
            self._clock.sleep(POLL_S)


def create_handler(params: RendezvousParameters) -> StaticRendezvous:
    """Return a handler with the fixed rank that its parameters name.

    Raises:
        RendezvousSettingsError: The rank or the port is missing, or a value makes no sense.
    """
    check_keys(params.config, params.backend)
    rank = params.get_as_int("rank")
    if rank is None:
        raise RendezvousSettingsError(
            "The static rendezvous needs the rank of this node: give it with --node-rank, or as "
            "the configuration option 'rank'."
        )
    if not 0 <= rank < params.max_nodes:
        raise RendezvousSettingsError(
            f"The rank {rank} of this node must be from 0 to {params.max_nodes - 1}, because the "
            f"static rendezvous has {params.max_nodes} nodes."
        )
    endpoint = parse_rendezvous_endpoint(params.endpoint, NO_PORT)
    if not params.endpoint.strip() or endpoint.port == NO_PORT:
        raise RendezvousSettingsError(
            f"The static rendezvous needs address and port of rank 0, but the endpoint is "
            f"'{params.endpoint}': give it as host:port."
        )
    timeout_s = params.get_as_float("timeout", TIMEOUT_S) or 0.0
    slots = params.get_as_int("slots", 1) or 0
    if not 0 < timeout_s < math.inf or slots < 1:
        raise RendezvousSettingsError(
            f"The configuration options 'timeout' ({timeout_s:g}) and 'slots' ({slots}) must be "
            f"positive, and not endless."
        )
    return StaticRendezvous(endpoint, rank, params.max_nodes, params.run_id, timeout_s, slots)


def _open_tcp_store(endpoint: Endpoint, is_host: bool, timeout_s: float) -> Any:
    from quorate.backends.tcpstore import create_tcp_store

    return create_tcp_store(endpoint, is_host, timeout_s)


def _serve_tcp_store() -> Any:
    from quorate.backends.tcpstore import serve_tcp_store

    return serve_tcp_store()
