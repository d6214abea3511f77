"""A backend in one key of etcd.

Format of the value: a header of 8 bytes (magic, a CRC-32 of the state), then the state.
"""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

from quorate.api import RendezvousParameters
from quorate.backends.base import RendezvousBackend, Token
from quorate.clock import Clock, SystemClock
from quorate.errors import (
    RendezvousConnectionError,
    RendezvousSettingsError,
    RendezvousStateError,
)
from quorate.etcd.client import EtcdClient
from quorate.etcd.messages import (
    Compare,
    KeyValue,
    Put,
    Range,
    RangeReply,
    absent,
    modified_at,
    operation,
)
from quorate.etcd.parameters import client_from, prefix_from
from quorate.etcd.receipt import Applied
from quorate.etcd.writer import OWN_LEASE, TTL_S, Writer
from quorate.stores.etcd import EtcdStore

__all__ = ["DEFAULT_PREFIX", "EtcdRendezvousBackend", "create_backend", "run_key"]

# PyTorch's.
DEFAULT_PREFIX = "/torch/elastic/rendezvous"

MAGIC = b"qre1"
HEADER = struct.Struct("<4sI")

# etcd's revisions are signed numbers of 64 bits, and start at 1.
REVISION_MAX = 2**63 - 1

# A read before a watch gets at least this long, however short the wait.
READ_S = 2.0


class EtcdRendezvousBackend(RendezvousBackend):
    """Keeps the state in one key of etcd; its token is the revision that wrote it last.

    A write is certain: after a lost reply it is found out whether it happened (R14). The state
    goes `ttl` seconds after the last write.

    Args:
        client: The way to etcd.
        run_id: The id of the run.
        key_prefix: The key is ``<key_prefix>/<run_id>``; what else belongs to the run is below
            it. Special characters of the run id are escaped as in URLs.
        ttl: For how long a state that nobody writes any more is kept, in seconds; two hours if
            it is not given, as in PyTorch.
        clock: Gives the time.

    Raises:
        RendezvousSettingsError: The run id is empty.
    """

    def __init__(
        self,
        client: EtcdClient,
        run_id: str,
        key_prefix: str = DEFAULT_PREFIX,
        ttl: int | None = None,
        clock: Clock | None = None,
    ) -> None:
        if not run_id:
            raise RendezvousSettingsError("The run id must be a non-empty string.")
        self._client = client
        self._clock = clock or SystemClock()
        self._key = run_key(key_prefix, run_id).encode()
        ttl_s = ttl if ttl is not None and ttl > 0 else TTL_S
        # Threads' own: a heartbeat may not take as long as a join.
        self._limits = threading.local()
        self._writer = Writer(client, self._key + b"/writers/", ttl_s, self._clock)

    @property
    def name(self) -> str:
        """See `RendezvousBackend`."""
        return "etcd-v2"

    @property
    def can_watch(self) -> bool:
        """See `RendezvousBackend`."""
        return True

    def get_state(self) -> tuple[bytes, Token] | None:
        """Return the state and its revision, None if there is none; see `RendezvousBackend`."""
        return self._state_in(self._client.range(self._key, timeout_s=self._exchange_s))

    def set_state(
        self, state: bytes, token: Token | None = None
    ) -> tuple[bytes, Token, bool] | None:
        """Set the state if `token` is the current revision; see `RendezvousBackend`.

        Raises:
            RendezvousLimitError: The state is larger than etcd takes.
        """
        condition = condition_of(self._key, token)
        if condition is None:
            return not_set(self.get_state())
        outcome = self._writer.write(
            [condition],
            [operation(Put(self._key, pack(state), OWN_LEASE))],
            [operation(Range(self._key))],
            self._exchange_s,
        )
        if isinstance(outcome, Applied):
            return state, outcome.revision, True
        return not_set(self._state_in(outcome.found[0]))

    @contextmanager
    def limited_to(self, exchange_s: float) -> Iterator[None]:
        """See `RendezvousBackend`."""
        former_s = self._exchange_s
        self._limits.exchange_s = min(exchange_s, former_s)
        try:
            yield
        finally:
            self._limits.exchange_s = former_s

    @property
    def _exchange_s(self) -> float:
        """How long an exchange of this thread may take, in seconds."""
        limit_s: float = getattr(self._limits, "exchange_s", self._client.timeout_s)
        return limit_s

    def wait_for_change(self, token: Token | None, timeout_s: float) -> bool:
        """Block until the state is another than the one of `token`; see `RendezvousBackend`.

        While etcd cannot be reached, time passes as if nothing had changed.
        """
        deadline = self._clock.monotonic() + timeout_s
        try:
            found = self._client.range(self._key, keys_only=True, timeout_s=max(timeout_s, READ_S))
        except RendezvousConnectionError:
            return False
        if revision_of(found) != token:
            return True
        with self._client.watch(self._key, found.header.revision + 1) as watch:
            return watch.next(deadline - self._clock.monotonic()) is not None

    def close(self) -> None:
        """Close the connections to etcd."""
        self._client.close()

    def _state_in(self, found: RangeReply) -> tuple[bytes, int] | None:
        return self._unpack(found.kvs[0]) if found.kvs else None

    def _unpack(self, stored: KeyValue) -> tuple[bytes, int]:
        if len(stored.value) >= HEADER.size:
            magic, crc = HEADER.unpack_from(stored.value)
            state = stored.value[HEADER.size :]
            if magic == MAGIC and crc == zlib.crc32(state):
                return state, stored.mod_revision
        raise RendezvousStateError(
            f"The state under the key {self._key.decode()!r} of etcd is corrupt, or was written by "
            "another program. If no node of the run is alive, delete the key; else use another "
            "run id or `etcd_prefix`."
        )


def create_backend(params: RendezvousParameters) -> tuple[EtcdRendezvousBackend, EtcdStore]:
    """Return the backend that `params` ask for, and a store beside it.

    `quorate.etcd.parameters` reads the configuration; ``etcd_prefix`` is where runs are kept.

    Raises:
        RendezvousSettingsError: A key has a value that means nothing.
    """
    client = client_from(params)
    prefix = prefix_from(params, DEFAULT_PREFIX)
    store = EtcdStore(client, f"{run_key(prefix, params.run_id)}/store")
    return EtcdRendezvousBackend(client, params.run_id, prefix), store


def run_key(prefix: str, run_id: str) -> str:
    """Return the key of a run, below which is everything of the run and nothing of another."""
    return f"{prefix}/{quote(run_id, safe='')}"


def pack(state: bytes) -> bytes:
    """Return the value that holds `state`."""
    return HEADER.pack(MAGIC, zlib.crc32(state)) + state


def revision_of(found: RangeReply) -> int | None:
    """Return the revision that wrote the one key of a reply, None if it is not there."""
    return found.kvs[0].mod_revision if found.kvs else None


def condition_of(key: bytes, token: Token | None) -> Compare | None:
    """Return the condition that `token` is current, None if it cannot be one of this backend."""
    if token is None:
        return absent(key)
    if type(token) is int and 0 < token <= REVISION_MAX:
        return modified_at(key, token)
    return None


def not_set(current: tuple[bytes, Token] | None) -> tuple[bytes, Token, bool] | None:
    """Return the answer to a write that did not happen."""
    return None if current is None else (*current, False)
