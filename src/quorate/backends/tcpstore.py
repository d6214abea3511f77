"""A backend over torch's own stores: TCPStore, FileStore and HashStore.

Format of the value, in base64: a header of 24 bytes (magic, 16 random bytes of the writer, a CRC-32
of those and what follows), then the state, compressed (RFC 1950). An empty value means that there
is no state yet.
"""

from __future__ import annotations

import binascii
import os
import secrets
import struct
import tempfile
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

from torch.distributed import FileStore, PrefixStore, Store, TCPStore

from quorate.api import RendezvousParameters
from quorate.backends.base import RendezvousBackend, Token
from quorate.backends.bounded import BoundedCaller
from quorate.config import read_timeout_from
from quorate.errors import (
    RendezvousConnectionError,
    RendezvousLimitError,
    RendezvousSettingsError,
    RendezvousStateError,
    translating,
)
from quorate.identity import Endpoint, own_addresses, parse_rendezvous_endpoint

__all__ = [
    "C10dRendezvousBackend",
    "create_backend",
    "create_file_store",
    "create_tcp_store",
    "prefixed",
    "serve_tcp_store",
    "translating_torch",
]

# torch's defaults for its c10d rendezvous.
DEFAULT_PORT = 29400
READ_TIMEOUT_S = 60

MAGIC = b"qrt2"
HEADER = struct.Struct("<4s16sI")
NONCE_BYTES = 16
NO_STATE = b""

# Every write carries the state twice, and every read once. A node's name, most of it random, stands
# in several places of a state: the fastest level makes a fifth of one of 64 nodes, in 0.1 ms.
COMPRESSION_LEVEL = 1

# A TCPStore cuts connections that send it values above 8 MiB, and base64 makes 4 bytes of 3. What
# cannot be compressed grows by 2 KiB.
STATE_BYTES_MAX = 6 * 1024 * 1024 - 8 * 1024


class C10dRendezvousBackend(RendezvousBackend):
    """Keeps the state in one key of a torch store, ``torch.rendezvous.<run_id>``.

    Such a store compares values only, so each write carries random bytes of its own: the same
    state written twice is two values, and after a lost reply a writer knows its own. torch's
    calls block without a limit while the server is frozen; here they run on a thread, and after
    one that did not return in time further ones are refused until it does.

    Args:
        store: The store, the same for every node of the run.
        run_id: The id of the run.
        timeout_s: How long to wait for each answer, in seconds; by default the store's own.

    Raises:
        RendezvousSettingsError: The run id is empty.
    """

    def __init__(self, store: Store, run_id: str, timeout_s: float | None = None) -> None:
        if not run_id:
            raise RendezvousSettingsError("The run id must be a non-empty string.")
        self._store = store
        self._key = f"torch.rendezvous.{run_id}"
        self._timeout_s = store.timeout.total_seconds() if timeout_s is None else timeout_s
        self._caller = BoundedCaller("The c10d store")

    @property
    def name(self) -> str:
        """See `RendezvousBackend`."""
        return "c10d"

    def close(self) -> None:
        """End the thread that calls the store; the store itself stays open."""
        self._caller.close()

    def get_state(self) -> tuple[bytes, Token] | None:
        """Return the state and its token, None if there is none; see `RendezvousBackend`."""
        return self._unpack(self._read())

    def set_state(
        self, state: bytes, token: Token | None = None
    ) -> tuple[bytes, Token, bool] | None:
        """Set the state if `token` is the current one; see `RendezvousBackend`.

        Raises:
            RendezvousLimitError: The state is larger than a torch store takes.
        """
        expected = NO_STATE if token is None else token
        if not isinstance(expected, bytes) or (token is not None and not is_value(expected)):
            return not_set(self.get_state())
        value = pack(state)
        answer = self._write(expected, value)
        if answer == value:
            return state, value, True
        # For an absent key a torch store answers with what was expected of it.
        if answer == expected:
            return None
        return not_set(self._unpack(answer))

    def _read(self) -> bytes:
        # `get` blocks while the key is absent; this changes nothing and never does.
        return self._compare_set(NO_STATE, NO_STATE)

    def _write(self, expected: bytes, value: bytes) -> bytes:
        """Compare and set; return the value that is there now, also after a lost reply."""
        try:
            return self._compare_set(expected, value)
        except RendezvousConnectionError as lost:
            try:
                answer = self._read()
            except RendezvousConnectionError:
                raise lost from lost.__cause__
            if answer != value:
                raise
            return answer

    def _compare_set(self, expected: bytes, desired: bytes) -> bytes:
        def call() -> bytes:
            return bytes(self._store.compare_set(self._key, expected.decode(), desired.decode()))

        with translating_torch("Calling the c10d store"):
            return self._caller.call(call, self._timeout_s)

    def _unpack(self, value: bytes) -> tuple[bytes, bytes] | None:
        if value == NO_STATE:
            return None
        try:
            content = b64decode(value, validate=True)
        except binascii.Error:
            content = b""
        state = unpack(content)
        if state is not None:
            return state, value
        raise RendezvousStateError(
            f"The state under the key {self._key!r} of the c10d store is corrupt, or was written "
            "by another program (torch's own c10d rendezvous?). Use another run id or endpoint."
        )


def create_backend(params: RendezvousParameters) -> tuple[C10dRendezvousBackend, Store]:
    """Return the backend that `params` ask for, and the store below it.

    Keys, as in torch: ``store_type`` (``tcp``, the default, or ``file``), ``read_timeout``
    (seconds, 60 by default), ``is_host`` (whether this process must host the TCPStore; by
    default it tries if the endpoint is an address of this machine, and connects if it cannot).

    Raises:
        RendezvousSettingsError: A key has a value that means nothing.
        RendezvousConnectionError: The store cannot be hosted or reached.
    """
    timeout_s = read_timeout_from(params, READ_TIMEOUT_S)
    store_type = params.get_as_text("store_type", "tcp").lower()
    if store_type == "tcp":
        endpoint = parse_rendezvous_endpoint(params.endpoint, DEFAULT_PORT)
        store = create_tcp_store(endpoint, params.get_as_bool("is_host"), timeout_s)
    elif store_type == "file":
        store = create_file_store(params.endpoint)
    else:
        raise RendezvousSettingsError(
            f"`store_type` is {store_type!r}: it must be 'tcp' or 'file'."
        )
    return C10dRendezvousBackend(store, params.run_id, timeout_s), store


def create_tcp_store(endpoint: Endpoint, is_host: bool | None, timeout_s: float) -> TCPStore:
    """Host a TCPStore, or connect to the one at `endpoint`.

    Args:
        endpoint: Where it is; port 0 takes a free one if this process hosts.
        is_host: Whether to host it; None tries to if the endpoint is this machine, and connects
            to the one that another process hosts if it cannot.
        timeout_s: How long to try, and the store's own timeout, in seconds.

    Raises:
        RendezvousConnectionError: Neither worked in time.
    """

    def attempt(is_master: bool) -> TCPStore:
        return TCPStore(
            endpoint.host,
            endpoint.port,
            is_master=is_master,
            wait_for_workers=False,
            multi_tenant=True,
            timeout=timedelta(seconds=timeout_s),
        )

    def create() -> TCPStore:
        if is_host is not None:
            return attempt(is_host)
        if not is_this_machine(endpoint):
            return attempt(False)
        try:
            return attempt(True)
        except RuntimeError:
            return attempt(False)

    doing = "Hosting" if is_host else "Connecting to"
    with (
        translating_torch(f"{doing} the TCPStore at {endpoint}"),
        closing(BoundedCaller(f"The TCPStore at {endpoint}")) as caller,
    ):
        return caller.call(create, timeout_s)


def create_file_store(path: str) -> FileStore:
    """Open a FileStore.

    Args:
        path: The file, the same for every node; empty takes a new temporary file, which only
            the processes that are told its name can share.

    Raises:
        RendezvousConnectionError: The file cannot be used.
    """
    with translating({OSError: RendezvousConnectionError}, "Creating a file for the store"):
        if not path:
            descriptor, path = tempfile.mkstemp(prefix="quorate-store-")
            os.close(descriptor)
        elif not Path(path).parent.is_dir():
            raise FileNotFoundError(f"the directory of {path} does not exist; create or mount it")
    with translating_torch(f"Opening the FileStore {path}"):
        return FileStore(path)


def prefixed(prefix: str, store: Store) -> PrefixStore:
    """Return a store whose keys are those of another, after ``<prefix>/``."""
    return PrefixStore(prefix, store)


def serve_tcp_store() -> TCPStore:
    """Serve a new TCPStore on every address of this machine, for as long as it is referred to.

    Its ``port`` is a free one that the system picked.

    Raises:
        RendezvousConnectionError: It cannot be served.
    """
    with translating_torch("Serving a TCPStore"):
        return TCPStore("localhost", 0, is_master=True, wait_for_workers=False)


def is_this_machine(endpoint: Endpoint) -> bool:
    """Return whether `endpoint` has an address of this machine."""
    try:
        return bool(own_addresses(endpoint))
    except RendezvousConnectionError:
        # The name service may know it later; torch's client goes on asking.
        return False


def pack(state: bytes) -> bytes:
    """Return the value that holds `state`, another one at each call.

    Raises:
        RendezvousLimitError: A torch store would not take it.
    """
    if len(state) > STATE_BYTES_MAX:
        raise RendezvousLimitError(
            f"A state of {len(state)} bytes was refused: a torch store takes at most "
            f"{STATE_BYTES_MAX}. Use the coordinator (the `quorate` backend) for so many nodes."
        )
    nonce = secrets.token_bytes(NONCE_BYTES)
    body = zlib.compress(state, COMPRESSION_LEVEL)
    return b64encode(HEADER.pack(MAGIC, nonce, checksum(nonce, body)) + body)


def unpack(content: bytes) -> bytes | None:
    """Return the state in a value without its base64, `None` if there is none in it."""
    if len(content) < HEADER.size:
        return None
    magic, nonce, crc = HEADER.unpack_from(content)
    body = content[HEADER.size :]
    if magic != MAGIC or crc != checksum(nonce, body):
        return None
    inflater = zlib.decompressobj()
    try:
        # A few bytes can stand for gigabytes (R15).
        state = inflater.decompress(body, STATE_BYTES_MAX + 1)
    except zlib.error:
        return None
    return state if inflater.eof and not inflater.unused_data else None


def checksum(nonce: bytes, body: bytes) -> int:
    """Return the CRC-32 of a writer's random bytes and its compressed state."""
    return zlib.crc32(body, zlib.crc32(nonce))


def is_value(token: bytes) -> bool:
    """Return whether `token` can be a value of this backend, which torch takes as text."""
    return bool(token) and token.isascii()


def not_set(current: tuple[bytes, Token] | None) -> tuple[bytes, Token, bool] | None:
    """Return the answer to a write that did not happen."""
    return None if current is None else (*current, False)


@contextmanager
def translating_torch(doing: str) -> Iterator[None]:
    """Turn the errors of torch's stores into ours, without the C++ stack in their messages.

    Raises:
        RendezvousConnectionError: With torch's error as its cause.
    """
    try:
        yield
    except (RuntimeError, ValueError, TimeoutError) as error:
        first_line = str(error).partition("\n")[0]
        raise RendezvousConnectionError(
            f"{doing} failed: {first_line} See whether its host is alive and the endpoint right."
        ) from error
