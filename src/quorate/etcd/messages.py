"""What is said to etcd and what it answers: the v3 API in the JSON of its gateway.

The names are those of etcd's rpc.proto. Bytes travel as base64, 64-bit numbers of replies as text,
and what has its default value is left out (the JSON mapping of protocol buffers, version 3).
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from quorate.errors import RendezvousLimitError, RendezvousProtocolError
from quorate.undecodable import UNDECODABLE

__all__ = [
    "Authenticated",
    "Compare",
    "Delete",
    "Deleted",
    "Event",
    "Header",
    "KeyValue",
    "LeaseGranted",
    "LeaseKept",
    "LeaseLeft",
    "Member",
    "Members",
    "Operation",
    "OperationReply",
    "Put",
    "Range",
    "RangeReply",
    "Revised",
    "Status",
    "Transaction",
    "TransactionReply",
    "WatchLine",
    "WatchReply",
    "absent",
    "created_at",
    "decode",
    "encode",
    "modified_at",
    "operation",
    "prefix_end",
    "value_is",
    "version_is",
]

# etcd refuses requests above 1.5 MiB by default (--max-request-bytes), all keys and values counted.
REQUEST_BYTES_MAX = 1536 * 1024

T = TypeVar("T")

_encoder = msgspec.json.Encoder()


class Header(msgspec.Struct):
    """The header of a reply: who made it, the revision of all keys, the leader's term."""

    revision: int = 0
    member_id: int = 0
    raft_term: int = 0


class KeyValue(msgspec.Struct):
    """One key as it is stored.

    Attributes:
        key: The key.
        value: Its bytes.
        create_revision: The revision that created it.
        mod_revision: The revision that wrote it last.
        version: How often it was written since it was created.
        lease: The lease whose end removes it, 0 if none does.
    """

    key: bytes = b""
    value: bytes = b""
    create_revision: int = 0
    mod_revision: int = 0
    version: int = 0
    lease: int = 0


class Put(msgspec.Struct, omit_defaults=True, frozen=True):
    """Give a key a value, and let the end of a lease remove it."""

    key: bytes
    value: bytes
    lease: int = 0


class Range(msgspec.Struct, omit_defaults=True, frozen=True):
    """Read a key, or all keys from `key` up to and without `range_end`."""

    key: bytes
    range_end: bytes = b""
    limit: int = 0
    keys_only: bool = False
    count_only: bool = False


class Delete(msgspec.Struct, omit_defaults=True, frozen=True):
    """Remove a key, or all keys from `key` up to and without `range_end`."""

    key: bytes
    range_end: bytes = b""


class Compare(msgspec.Struct, omit_defaults=True, frozen=True):
    """A condition on one key; `absent`, `modified_at` and their like make them."""

    key: bytes
    target: str
    result: str = "EQUAL"
    version: int | None = None
    create_revision: int | None = None
    mod_revision: int | None = None
    value: bytes | None = None


class Operation(msgspec.Struct, omit_defaults=True, frozen=True):
    """One step of a transaction; `operation` makes them."""

    request_range: Range | None = None
    request_put: Put | None = None
    request_delete_range: Delete | None = None
    request_txn: Transaction | None = None


class Transaction(msgspec.Struct, frozen=True):
    """Do all of `success` at once if every condition holds, else all of `failure`."""

    compare: tuple[Compare, ...] = ()
    success: tuple[Operation, ...] = ()
    failure: tuple[Operation, ...] = ()


class RangeReply(msgspec.Struct):
    """The keys that were found; `count` is how many there are, whatever the limit."""

    header: Header = msgspec.field(default_factory=Header)
    kvs: list[KeyValue] = []
    count: int = 0


class Deleted(msgspec.Struct):
    """How many keys were removed."""

    header: Header = msgspec.field(default_factory=Header)
    deleted: int = 0


class Revised(msgspec.Struct):
    """The revision after a write; nothing else is worth keeping of the answer."""

    header: Header = msgspec.field(default_factory=Header)


class OperationReply(msgspec.Struct):
    """The answer to one step of a transaction; a put has none worth keeping."""

    response_range: RangeReply | None = None
    response_delete_range: Deleted | None = None
    response_txn: TransactionReply | None = None


class TransactionReply(msgspec.Struct):
    """Which branch was taken, and the answer to each of its steps."""

    header: Header = msgspec.field(default_factory=Header)
    succeeded: bool = False
    responses: list[OperationReply] = []


class LeaseGranted(msgspec.Struct):
    """A new lease, and after how many seconds it ends."""

    lease_id: int = msgspec.field(name="ID")
    ttl_s: int = msgspec.field(name="TTL")


class LeaseLife(msgspec.Struct):
    """What is left of a lease, in seconds; 0 if there is no such lease."""

    ttl_s: int = msgspec.field(default=0, name="TTL")


class LeaseLeft(msgspec.Struct):
    """The answer to the question what is left of a lease, in seconds; below 0 if it has ended."""

    header: Header = msgspec.field(default_factory=Header)
    ttl_s: int = msgspec.field(default=0, name="TTL")


class LeaseKept(msgspec.Struct):
    """The answer to a keep-alive."""

    result: LeaseLife


class Authenticated(msgspec.Struct):
    """What proves who asks, for some minutes."""

    token: str


class Status(msgspec.Struct):
    """What one member says of itself.

    Attributes:
        header: Its revision.
        version: The version of etcd.
        leader: The id of the member that leads, 0 if it knows none.
        db_size: Bytes of its data on disk.
    """

    header: Header = msgspec.field(default_factory=Header)
    version: str = ""
    leader: int = 0
    db_size: int = msgspec.field(default=0, name="dbSize")


class Member(msgspec.Struct):
    """One member of the cluster: its name, and where the others and clients find it."""

    name: str = ""
    peer_urls: list[str] = msgspec.field(default_factory=list, name="peerURLs")
    client_urls: list[str] = msgspec.field(default_factory=list, name="clientURLs")


class Members(msgspec.Struct):
    """The members of the cluster."""

    members: list[Member] = []


class Event(msgspec.Struct):
    """One change of one key, of type PUT or DELETE."""

    kv: KeyValue
    type: str = "PUT"


class WatchReply(msgspec.Struct):
    """One message of a watch."""

    header: Header = msgspec.field(default_factory=Header)
    created: bool = False
    canceled: bool = False
    compact_revision: int = 0
    cancel_reason: str = ""
    events: list[Event] = []


class WatchLine(msgspec.Struct):
    """One line of a watch's stream; without a result it tells of an error."""

    result: WatchReply | None = None


def absent(key: bytes) -> Compare:
    """Return the condition that a key is not there."""
    return created_at(key, 0)


def created_at(key: bytes, revision: int) -> Compare:
    """Return the condition that a key was created at a revision; 0 stands for its absence."""
    return Compare(key, "CREATE", create_revision=revision)


def modified_at(key: bytes, revision: int) -> Compare:
    """Return the condition that a key was last written at a revision."""
    return Compare(key, "MOD", mod_revision=revision)


def version_is(key: bytes, version: int) -> Compare:
    """Return the condition that a key was written so often since it was created."""
    return Compare(key, "VERSION", version=version)


def value_is(key: bytes, value: bytes) -> Compare:
    """Return the condition that a key is there and has a value."""
    return Compare(key, "VALUE", value=value)


def operation(step: Range | Put | Delete | Transaction) -> Operation:
    """Return a request as a step of a transaction."""
    match step:
        case Range():
            return Operation(request_range=step)
        case Put():
            return Operation(request_put=step)
        case Delete():
            return Operation(request_delete_range=step)
        case Transaction():
            return Operation(request_txn=step)


def prefix_end(prefix: bytes) -> bytes:
    """Return the end of the range of all keys that start with `prefix`.

    It is the prefix with its last byte that is not 255 one higher; all keys if there is none.
    """
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else b"\0"


def encode(request: object) -> bytes:
    """Return a request as the gateway takes it.

    Raises:
        RendezvousLimitError: It is larger than etcd takes.
    """
    content = _encoder.encode(request)
    # base64 makes four bytes of three; the exact limit is etcd's own to apply.
    if len(content) * 3 // 4 > REQUEST_BYTES_MAX:
        raise RendezvousLimitError(
            f"A request of about {len(content) * 3 // 4} bytes was not sent: etcd takes at most "
            f"{REQUEST_BYTES_MAX}. Write less at once; a run with so many nodes needs the "
            "coordinator (the `quorate` backend)."
        )
    return content


def decode(content: bytes, kind: type[T]) -> T:
    """Return a reply as the type that it must have.

    Raises:
        RendezvousProtocolError: It is something else.
    """
    try:
        return msgspec.json.decode(content, type=kind, strict=False)
    except UNDECODABLE as error:
        raise RendezvousProtocolError(
            f"What answers at the endpoint of etcd is not etcd's v3 gateway ({error}). See "
            "whether the endpoint is right and etcd is 3.4 or newer."
        ) from error
