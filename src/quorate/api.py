"""The face of a rendezvous, in PyTorch's names and shape.

A program that uses `torch.distributed.elastic.rendezvous` finds the same calls here. What is new
is added beside them: `RendezvousInfo.place`, and `leave`.
"""

from __future__ import annotations

import contextlib
import random
import socket
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from quorate.core.settings import NUMBER_MAX
from quorate.core.state import Place, World
from quorate.errors import RendezvousSettingsError, RendezvousStateError, translating
from quorate.wait import WaitReporter

__all__ = [
    "BootstrapStore",
    "RendezvousHandler",
    "RendezvousInfo",
    "RendezvousParameters",
    "RendezvousStoreInfo",
    "free_port",
]


class BootstrapStore(Protocol):
    """As much of a store as `RendezvousStoreInfo.build` needs."""

    def set(self, key: str, value: bytes) -> Any:
        """Give a key a value."""
        ...

    def get(self, key: str) -> bytes:
        """Return a key's value, waiting for it if need be."""
        ...


# Where the kernel takes the ports of outgoing connections from, and what holds if it does not say.
_EPHEMERAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_EPHEMERAL_PORT_MIN = 32768
_UNPRIVILEGED_PORT_MIN = 10240
_PORT_TRIES = 64
_PORT_MAX = 65_535


def free_port() -> int:
    """Return a TCP port that was free on this machine a moment ago.

    Minutes may pass before it is used. It is taken from below the range of outgoing connections,
    so that none of those gets it meanwhile, and at random, so that neighbours rarely choose alike.
    """
    first_ephemeral = _EPHEMERAL_PORT_MIN
    with contextlib.suppress(OSError, ValueError, IndexError):
        first_ephemeral = int(_EPHEMERAL_PORTS.read_text().split()[0])
    candidates = range(_UNPRIVILEGED_PORT_MIN, max(first_ephemeral, _UNPRIVILEGED_PORT_MIN + 1))
    for _ in range(_PORT_TRIES):
        with contextlib.suppress(OSError):
            return _port_if_free(random.choice(candidates))
    return _port_if_free(0)


def _port_if_free(port: int) -> int:
    with contextlib.closing(socket.create_server(("", port))) as listener:
        bound: int = listener.getsockname()[1]
        return bound


@dataclass
class RendezvousStoreInfo:
    """Where the workers of a world find their own store.

    Args:
        master_addr: The address of rank 0.
        master_port: A port on it.
    """

    MASTER_ADDR_KEY: ClassVar[str] = "MASTER_ADDR"
    MASTER_PORT_KEY: ClassVar[str] = "MASTER_PORT"

    master_addr: str
    master_port: int

    @staticmethod
    def build(
        rank: int,
        store: BootstrapStore,
        local_addr: str | None,
        server_port: int | None = None,
    ) -> RendezvousStoreInfo:
        """Agree on address and port through a store: rank 0 writes them, everyone reads them.

        Args:
            rank: This node's rank.
            store: The store of the round.
            local_addr: This node's address; its host name if `None`.
            server_port: A port that is served already; a free one is looked for if `None` or 0.

        Raises:
            RendezvousStateError: Somebody else has written something else there.
        """
        if rank == 0:
            addr = local_addr or socket.getfqdn()
            port = server_port or free_port()
            store.set(RendezvousStoreInfo.MASTER_ADDR_KEY, addr.encode())
            store.set(RendezvousStoreInfo.MASTER_PORT_KEY, str(port).encode())
        told_addr = store.get(RendezvousStoreInfo.MASTER_ADDR_KEY)
        told_port = store.get(RendezvousStoreInfo.MASTER_PORT_KEY)
        with translating({ValueError: RendezvousStateError}, "Reading rank 0's address and port"):
            return RendezvousStoreInfo(told_addr.decode(), _port_of(told_port))


def _port_of(text: bytes) -> int:
    port = int(text)
    if not 0 <= port <= _PORT_MAX:
        raise ValueError(f"there is no port {port}")
    return port


class RendezvousInfo:
    """What a node gets from a completed round.

    Args:
        store: A store of the round's own.
        rank: The node's rank.
        world_size: The number of nodes.
        bootstrap_store_info: Where the workers find their own store.
        place: The node's place in the world, where the handler keeps such records.
    """

    def __init__(
        self,
        store: Any,
        rank: int,
        world_size: int,
        bootstrap_store_info: RendezvousStoreInfo | None,
        place: Place | None = None,
    ) -> None:
        self._store = store
        self._rank = rank
        self._world_size = world_size
        self._bootstrap_store_info = bootstrap_store_info
        self._place = place

    @property
    def store(self) -> Any:
        """The store of the round."""
        return self._store

    @property
    def rank(self) -> int:
        """The node's rank."""
        return self._rank

    @property
    def world_size(self) -> int:
        """The number of nodes in the round."""
        return self._world_size

    @property
    def bootstrap_store_info(self) -> RendezvousStoreInfo | None:
        """Where the workers of the round find their own store."""
        return self._bootstrap_store_info

    @property
    def place(self) -> Place | None:
        """The node's place: epoch, round, rank, size and digest of the world (R1)."""
        return self._place


class RendezvousHandler(ABC):
    """One node's part in the rendezvous of one run."""

    @abstractmethod
    def get_backend(self) -> str:
        """Return the name under which the handler was asked for."""

    @property
    def use_agent_store(self) -> bool:
        """Whether the workers may use the agents' store as their own."""
        return False

    @abstractmethod
    def next_rendezvous(self) -> RendezvousInfo:
        """Join the next round and wait until it is complete.

        Call it again whenever `num_nodes_waiting` is above zero, or after a failure, to regroup.

        Raises:
            RendezvousClosedError: The run is closed.
            RendezvousTimeoutError: No round was completed with this node in time.
            RendezvousConnectionError: The coordinator or backend could not be reached.
            RendezvousStateError: The stored state is corrupt.
            RendezvousSettingsError: The node's settings differ from the run's.
            RendezvousReplacedError: A newer incarnation of the node took its place.
            RendezvousGracefulExitError: The node was a spare, and the run ended without it.
        """

    @abstractmethod
    def is_closed(self) -> bool:
        """Return whether the run is closed."""

    @abstractmethod
    def set_closed(self, reason: str = "") -> None:
        """Close the run for everyone; nobody can join it any more.

        Args:
            reason: Why, for those who are turned away. The first one to close a run is quoted.
        """

    @abstractmethod
    def num_nodes_waiting(self) -> int:
        """Return how many nodes give reason to regroup: lost, left, back, or newly come (R8)."""

    @abstractmethod
    def get_run_id(self) -> str:
        """Return the id of the run."""

    @abstractmethod
    def shutdown(self) -> bool:
        """Close the run if this node may, release everything, and say whether that worked."""

    def members_change(self) -> bool:
        """Return whether nodes give reason to regroup by having come, left, or been lost (R8).

        Members that are back to regroup and nothing else, as when their own workers have failed,
        are none; handlers that cannot tell them apart count them too.
        """
        return self.num_nodes_waiting() > 0

    @property
    def reason_to_regroup(self) -> str:
        """Why `num_nodes_waiting` is above zero, for people; empty if the handler cannot tell."""
        return ""

    @property
    def closed_reason(self) -> str:
        """Why the run was closed, for people; empty while it is open, or if nobody can tell."""
        return ""

    def finish(self) -> None:
        """Say that this node's work is done: it will not come back, and nobody need regroup (R7).

        Handlers that cannot tell the others do nothing; call `shutdown` or `leave` in any case.
        """
        return None

    def fail(self, reason: str) -> bool:
        """Say that the job has failed on this node for good, which closes the run (R7).

        Handlers that cannot tell who is a member, and who is lost, close it in any case.

        Args:
            reason: What failed, for the others.

        Returns:
            Whether the run was closed. If not, the failure was a symptom of a loss: this node has
            left, and the others go on.
        """
        self.set_closed(reason)
        return True

    def leave(self, reason: str = "") -> None:
        """Leave the run without closing it; the others regroup without this node (R7).

        Handlers that have nobody to tell do nothing.

        Args:
            reason: Why, for the others.
        """
        return None

    def report_waits_to(self, reporter: WaitReporter) -> None:
        """Say from now on to a reporter what `next_rendezvous` waits for, instead of to the log.

        Handlers that cannot tell do nothing.
        """
        return None

    def step_aside(self, reason: str) -> None:
        """Leave the run until the next call of `next_rendezvous`: the others go on meanwhile.

        With a handler that cannot do so, they go on once this node is missed (R10).

        Args:
            reason: Why, for the others.

        Raises:
            RendezvousError: The others could not be told.
        """
        return None

    def world(self) -> World | None:
        """Return the whole record of the world that this node is in, if the handler has it."""
        return None


class RendezvousParameters:
    """What is needed to create a handler.

    A key whose value is `None` counts as not given.

    Args:
        backend: The name of the kind of rendezvous, see `quorate.registry`.
        endpoint: Where it is, usually `host[:port]`.
        run_id: The id of the run.
        min_nodes: The least number of nodes of a round.
        max_nodes: The greatest number of nodes of a round.
        local_addr: The address at which others reach this node; found out if `None`.
        **kwargs: The configuration, see `docs/configuration.md`.

    Raises:
        ValueError: The backend has no name, or the numbers of nodes make no sense.
    """

    def __init__(
        self,
        backend: str,
        endpoint: str,
        run_id: str,
        min_nodes: int,
        max_nodes: int,
        local_addr: str | None = None,
        **kwargs: Any,
    ) -> None:
        if not backend:
            raise RendezvousSettingsError("The rendezvous backend must have a name.")
        if min_nodes < 1:
            raise RendezvousSettingsError(
                f"The minimum number of nodes ({min_nodes}) must be greater than zero."
            )
        if max_nodes < min_nodes:
            raise RendezvousSettingsError(
                f"The maximum number of nodes ({max_nodes}) must not be less than the minimum "
                f"number of nodes ({min_nodes})."
            )
        self.backend = backend
        self.endpoint = endpoint
        self.run_id = run_id
        self.min_nodes = min_nodes
        self.max_nodes = max_nodes
        self.config: Mapping[str, Any] = kwargs
        self.local_addr = local_addr

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a configuration key."""
        return self.config.get(key, default)

    def get_as_text(self, key: str, default: str = "") -> str:
        """Return the value of a key as text, without white space around it."""
        value = self.get(key)
        return default if value is None else str(value).strip()

    def get_as_bool(self, key: str, default: bool | None = None) -> bool | None:
        """Return the value of a key as a truth value; words such as `yes` and `0` are understood.

        Raises:
            ValueError: The value is not one.
        """
        value = self.get(key)
        if value is None or isinstance(value, bool):
            return default if value is None else value
        text = str(value).strip().lower()
        if text in {"1", "true", "t", "yes", "y"}:
            return True
        if text in {"0", "false", "f", "no", "n"}:
            return False
        raise RendezvousSettingsError(
            f"The configuration option '{key}' is '{value}', which is neither true nor false: "
            f"use 1 or 0."
        )

    def get_as_int(self, key: str, default: int | None = None) -> int | None:
        """Return the value of a key as a whole number.

        Raises:
            ValueError: The value is not one.
        """
        value = self.get(key)
        if value is None:
            return default
        try:
            number = int(value)
            if isinstance(value, float) and value != number:
                raise ValueError("it has a fraction")
        except (TypeError, ValueError, OverflowError) as error:
            raise RendezvousSettingsError(
                f"The configuration option '{key}' is '{value}', which is not a whole number."
            ) from error
        if abs(number) > NUMBER_MAX:
            raise RendezvousSettingsError(
                f"The configuration option '{key}' is beyond {NUMBER_MAX}: no number is so large."
            )
        return number

    def get_as_float(self, key: str, default: float | None = None) -> float | None:
        """Return the value of a key as a number, for timeouts in seconds.

        Raises:
            ValueError: The value is not one.
        """
        value = self.get(key)
        if value is None:
            return default
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise RendezvousSettingsError(
                f"The configuration option '{key}' is '{value}', which is not a number of seconds."
            ) from error
