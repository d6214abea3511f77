"""The messages between an agent and a coordinator, typed; msgpack arrays with a number in front.

A request carries an `id` that grows within its session and stays the same when it is repeated on
a new connection; the answer carries it back. Messages without an `id` are not answered.
"""

from __future__ import annotations

import contextlib
from typing import Annotated, Any, TypeAlias, cast, get_args

import msgspec

from quorate.compression import compress, decompress
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.settings import AgreedSettings
from quorate.core.state import Place, World
from quorate.errors import (
    RendezvousAuthenticationError,
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousDeposedError,
    RendezvousError,
    RendezvousEvictedError,
    RendezvousGracefulExitError,
    RendezvousLimitError,
    RendezvousProtocolError,
    RendezvousReplacedError,
    RendezvousSettingsError,
    RendezvousStateError,
    RendezvousTimeoutError,
    RendezvousUnhealthyError,
    StoreTimeoutError,
)
from quorate.printable import printable
from quorate.undecodable import UNDECODABLE

__all__ = [
    "FAILED",
    "SUCCEEDED",
    "AddNumber",
    "Challenge",
    "Changed",
    "CheckKeys",
    "Close",
    "CompareSet",
    "CountKeys",
    "DeleteKey",
    "Done",
    "Drain",
    "Evict",
    "Failed",
    "Finish",
    "Flag",
    "GetValue",
    "GetWorld",
    "Hello",
    "History",
    "Hold",
    "Join",
    "Joined",
    "Leave",
    "Number",
    "OperatorRequest",
    "Ping",
    "Pong",
    "Probe",
    "Proof",
    "Proven",
    "Push",
    "Redirect",
    "Refused",
    "Release",
    "Report",
    "Scale",
    "SetValue",
    "Status",
    "Value",
    "WaitKeys",
    "Waiting",
    "Welcome",
    "Word",
    "WorldRecord",
    "decode_reply",
    "decode_request",
    "decode_word",
    "encode",
    "error_of",
    "failure",
    "record_of",
    "report_of",
    "request_id_of",
]

# Texts of errors quote what peers sent; they must fit into a frame, many times over.
TEXT_CHARACTERS_MAX = 4096

# Keys of one request. It counts while a request is decoded: what has too many costs nothing.
KEYS_AWAITED_MAX = 100_000

# A number that is not one has no order, and would block the queue of deadlines for everybody.
Seconds: TypeAlias = Annotated[float, msgspec.Meta(ge=-1e12)]

Keys: TypeAlias = Annotated[tuple[str, ...], msgspec.Meta(max_length=KEYS_AWAITED_MAX)]

FAILED = "failed"
SUCCEEDED = "succeeded"

# The code of the one refusal, beside that of a protocol error, that counts without a proof.
AUTHENTICATION = "authentication"
PROTOCOL = "protocol"

# The code of a refusal for the moment: the peer may come again.
CONNECTION = "connection"

ROLE_AGENT = "agent"
ROLE_STORE = "store"
ROLE_OPERATOR = "operator"


class _Message(msgspec.Struct, array_like=True):
    """A message; subclasses have a number of their own as their tag."""


class Hello(_Message, tag=1):
    """The first message on a connection: who speaks, and to whom.

    Args:
        version: The protocol version, `quorate.core.settings.PROTOCOL_VERSION`.
        role: `agent`, `store` (a worker that uses the store) or `operator`.
        run_id: The run.
        session: Random text, the same on every connection of the session.
        node: The agent's node; its incarnation is the session.
        profile: What the agent says about its node.
        settings: The agent's settings, to be compared with the run's (R13).
        holding: Epoch and round of the world that the agent was given last.
    """

    version: int
    role: str
    run_id: str
    session: str
    node: NodeDesc | None = None
    profile: NodeProfile | None = None
    settings: AgreedSettings | None = None
    holding: tuple[str, int] | None = None


class Join(_Message, tag=2):
    """Take part in a round after the given world; held until that round is complete."""

    id: int
    after: tuple[str, int] | None
    timeout_s: Seconds
    profile: NodeProfile


class Leave(_Message, tag=3):
    """Leave the run; the others go on without this node (R7)."""

    id: int
    reason: str


class Close(_Message, tag=4):
    """Close the run (R7).

    Args:
        id: The request's id.
        reason: Why, for everyone.
        outcome: `FAILED` and `SUCCEEDED` are a member's word about its job, and count only while
            its world stands; a failure is held until the others have answered since. Empty: the
            run is closed on request, whatever its state.
    """

    id: int
    reason: str
    outcome: str = ""


class GetWorld(_Message, tag=5):
    """Ask for the record of the last completed world (R1).

    Args:
        id: The request's id.
        first: The rank of the first member that is wanted: the answer has as many as fit into a
            message. `None` asks for the whole record in one, which fails for a large world.
    """

    id: int
    first: Annotated[int, msgspec.Meta(ge=0)] | None = None


class Ping(_Message, tag=6):
    """Say that the session is alive; answered at once.

    Args:
        sequence: Counts the pings of a session.
        probe: The number of the last probe that was read on this connection; 0 before the first.
    """

    sequence: int
    probe: int = 0


class Finish(_Message, tag=7):
    """Say that the node's work is done: it will not come back, and nobody need regroup (R7)."""

    id: int


class Proof(_Message, tag=8):
    """The answer to a challenge: that the sender of the hello knows the token, see `proof`.

    Args:
        nonce: Random bytes of the sender's own, `quorate.wire.proof.NONCE_BYTES`.
        mac: What only a holder of the token can compute.
    """

    nonce: bytes
    mac: bytes


class SetValue(_Message, tag=10):
    """Give a key of a round's store a value."""

    id: int
    space: tuple[str, int]
    key: str
    value: bytes


class AddNumber(_Message, tag=11):
    """Add to a key that holds a decimal number."""

    id: int
    space: tuple[str, int]
    key: str
    amount: int


class CompareSet(_Message, tag=12):
    """Replace a value if it is the expected one."""

    id: int
    space: tuple[str, int]
    key: str
    expected: bytes
    desired: bytes


class DeleteKey(_Message, tag=13):
    """Remove a key."""

    id: int
    space: tuple[str, int]
    key: str


class GetValue(_Message, tag=14):
    """Ask for a value; held until the key is there."""

    id: int
    space: tuple[str, int]
    key: str
    timeout_s: Seconds


class WaitKeys(_Message, tag=15):
    """Wait until all keys are there."""

    id: int
    space: tuple[str, int]
    keys: Keys
    timeout_s: Seconds


class CheckKeys(_Message, tag=16):
    """Ask whether all keys are there now."""

    id: int
    space: tuple[str, int]
    keys: Keys


class CountKeys(_Message, tag=17):
    """Ask how many keys there are."""

    id: int
    space: tuple[str, int]


class Status(_Message, tag=20):
    """Ask for what an operator may see; an empty run id means all runs."""

    id: int
    run_id: str = ""


class Drain(_Message, tag=21):
    """Let a node leave the run at the next regroup, or now if it is in no world.

    Args:
        id: The request's id.
        node: Who: its rank, address, id or description.
        reason: Why, for everyone.
    """

    id: int
    node: str
    reason: str = ""


class Evict(_Message, tag=22):
    """Turn a node out of the run now, and keep it out.

    Args:
        id: The request's id.
        node: Who: its rank, address, id or description.
        for_s: For how long it is kept out; `None` for the rest of the run, 0 to let one in again
            that is kept out.
        reason: Why, for everyone.
    """

    id: int
    node: str
    for_s: Seconds | None = None
    reason: str = ""


class Hold(_Message, tag=23):
    """Keep rounds of the run from completing until it is released."""

    id: int
    reason: str = ""


class Release(_Message, tag=24):
    """Let rounds complete again."""

    id: int


class Scale(_Message, tag=25):
    """Say how many nodes a round should have; `None` for as many as the settings allow (R4)."""

    id: int
    nodes: int | None = None


class History(_Message, tag=26):
    """Ask for the rounds and the last events of a run."""

    id: int
    run_id: str


class Welcome(_Message, tag=30):
    """The hello was accepted. `resumed`: the session stands as it did before the connection."""

    version: int
    coordinator: str
    resumed: bool


class Refused(_Message, tag=31):
    """The connection is of no use; it is closed after this. `code` as in `Failed`."""

    code: str
    message: str


class Joined(_Message, tag=32):
    """The round is complete and the node is in it."""

    id: int
    place: Place


class Failed(_Message, tag=33):
    """A request failed. `code` names the error's type, see `error_of`."""

    id: int
    code: str
    message: str
    reason: str = ""


class Flag(_Message, tag=34):
    """A request was carried out; the answer is yes or no."""

    id: int
    value: bool


class Number(_Message, tag=35):
    """A request was carried out; the answer is a number."""

    id: int
    value: int


class Value(_Message, tag=36):
    """A request was carried out; the answer is bytes."""

    id: int
    value: bytes


class WorldRecord(_Message, tag=37):
    """The record of the last completed world, if there is one, or a part of it.

    Args:
        id: The request's id.
        world: The record, with the members from the rank on that was asked for.
        size: How many members the whole record has; `None` if this is all of it.
    """

    id: int
    world: World | None
    size: int | None = None


class Report(_Message, tag=38):
    """What an operator may see, as JSON; make one with `report_of`, read it with `text`."""

    id: int
    json: bytes
    compressed: bool = False

    def text(self) -> bytes:
        """Return the JSON.

        Raises:
            RendezvousProtocolError: It was not compressed as it says, or is too large.
        """
        if not self.compressed:
            return self.json
        try:
            return decompress(self.json, REPORT_BYTES_MAX)
        except ValueError as error:
            raise RendezvousProtocolError(
                f"The report cannot be read: {error}. Ask for one run only."
            ) from error


class Done(_Message, tag=39):
    """An operator's command was carried out.

    Args:
        id: The request's id.
        changed: Whether it has changed anything.
        node: The node that it was about, if it was about one.
        text: What comes of it, for people.
    """

    id: int
    changed: bool
    node: str
    text: str


class Pong(_Message, tag=40):
    """The answer to a ping."""

    sequence: int


class Probe(_Message, tag=41):
    """Asks for a ping at once: somebody wants to know who is still alive (R7).

    Only a ping that carries its number answers it. Any other word may have been said before the
    probe was, by somebody who has died since.
    """

    number: int


class Changed(_Message, tag=42):
    """The world that the node is in should change, or no longer, or the run is closed (R8).

    Args:
        waiting: What `num_nodes_waiting()` answers from now on.
        reason: Who was lost, left, came.
        closed: Whether the run is closed.
        closed_reason: Why.
        broken: Whether the world that the agent was given will never be whole again: a member is
            gone, or has come back to regroup. Newcomers alone do not break a world.
        returned: Whether there is no other reason than members that have come back to regroup, as
            they do when their own workers have failed.
    """

    waiting: int
    reason: str
    closed: bool = False
    closed_reason: str = ""
    broken: bool = False
    returned: bool = False


class Redirect(_Message, tag=44):
    """This coordinator does not decide at present: ask the one at `endpoint`, if one is known."""

    endpoint: str


class Waiting(_Message, tag=43):
    """Why a held join is not answered yet, for people (R16); see `quorate.wait.Wait`."""

    kind: str
    reason: str
    since_s: float
    missing: tuple[str, ...] = ()
    missing_count: int = 0
    ends_in_s: float | None = None


class Challenge(_Message, tag=45):
    """The coordinator has a token: the hello counts once a `Proof` for this nonce has come."""

    nonce: bytes


class Proven(_Message, tag=46):
    """The proof was right, and this is the coordinator's own; all that follows is its word."""

    mac: bytes


StoreChange: TypeAlias = SetValue | AddNumber | CompareSet | DeleteKey
StoreRequest: TypeAlias = StoreChange | GetValue | WaitKeys | CheckKeys | CountKeys
OperatorRequest: TypeAlias = Drain | Evict | Hold | Release | Scale
Request: TypeAlias = (
    Hello
    | Join
    | Leave
    | Close
    | Finish
    | GetWorld
    | Ping
    | StoreRequest
    | OperatorRequest
    | Status
    | History
)
Word: TypeAlias = Request | Proof
Answer: TypeAlias = Joined | Failed | Flag | Number | Value | WorldRecord | Report | Done
Push: TypeAlias = Probe | Changed | Waiting | Redirect
Reply: TypeAlias = Challenge | Proven | Welcome | Refused | Answer | Pong | Push

# The status of 10,000 nodes is 3 MB of JSON that repeats itself; small ones are not worth it.
COMPRESSED_FROM_BYTES = 256 * 1024
REPORT_BYTES_MAX = 64 * 1024 * 1024

# A part of a world's record: some 200 kB, less where nodes say much about themselves, so that it
# fits into a frame and into a key of etcd, and holds nobody else up.
PART_MEMBERS_MAX = 4096
PART_BYTES_MAX = 768 * 1024

# What is sent whole, to agents that do not ask for parts, is made in one go.
WHOLE_MEMBERS_MAX = 4 * PART_MEMBERS_MAX

# The tags of those requests that carry an id, which is their first field.
_ANSWERED_TAGS = frozenset(
    kind.__struct_config__.tag for kind in get_args(Request) if kind.__struct_fields__[0] == "id"
)


class _Head(msgspec.Struct, array_like=True):
    """How a request with an id begins; what follows is skipped, not made."""

    tag: int
    id: int


_encoder = msgspec.msgpack.Encoder()
_request_decoder = msgspec.msgpack.Decoder(Request)
_word_decoder = msgspec.msgpack.Decoder(Word)
_reply_decoder = msgspec.msgpack.Decoder(Reply)
_head_decoder = msgspec.msgpack.Decoder(_Head)

_ERRORS: dict[str, type[RendezvousError]] = {
    "closed": RendezvousClosedError,
    "timeout": RendezvousTimeoutError,
    "store_timeout": StoreTimeoutError,
    CONNECTION: RendezvousConnectionError,
    "deposed": RendezvousDeposedError,
    PROTOCOL: RendezvousProtocolError,
    "state": RendezvousStateError,
    "settings": RendezvousSettingsError,
    "replaced": RendezvousReplacedError,
    "evicted": RendezvousEvictedError,
    "unhealthy": RendezvousUnhealthyError,
    "limit": RendezvousLimitError,
    AUTHENTICATION: RendezvousAuthenticationError,
    "graceful_exit": RendezvousGracefulExitError,
    "error": RendezvousError,
}
_CODES = {error: code for code, error in _ERRORS.items()}


def encode(message: Word | Reply) -> bytes:
    """Return the body that carries a message."""
    return _encoder.encode(message)


def decode_request(body: bytes) -> Request:
    """Return what an agent sent.

    Raises:
        RendezvousProtocolError: It is not a request of this protocol.
    """
    return cast(Request, _decoded(body, _request_decoder))


def decode_word(body: bytes) -> Word:
    """Return what somebody sent who may still have to prove that it knows the token.

    Raises:
        RendezvousProtocolError: It is neither a request of this protocol nor a proof.
    """
    return cast(Word, _decoded(body, _word_decoder))


def request_id_of(body: bytes) -> int | None:
    """Return the id of a request that cannot be decoded, `None` if it cannot be made out either."""
    with contextlib.suppress(*UNDECODABLE):
        head = _head_decoder.decode(body)
        if head.tag in _ANSWERED_TAGS:
            return head.id
    return None


def decode_reply(body: bytes) -> Reply:
    """Return what a coordinator sent.

    Raises:
        RendezvousProtocolError: It is not a reply of this protocol.
    """
    try:
        return cast(Reply, _reply_decoder.decode(body))
    except UNDECODABLE as error:
        raise RendezvousProtocolError(
            f"The coordinator sent a malformed reply: {error}. Run the same release everywhere."
        ) from error


def _decoded(body: bytes, decoder: msgspec.msgpack.Decoder[Any]) -> object:
    try:
        return decoder.decode(body)
    except UNDECODABLE as error:
        raise RendezvousProtocolError(f"The peer sent a malformed request: {error}.") from error


def report_of(request_id: int, json: bytes) -> Report:
    """Return the answer that carries JSON, however large."""
    if len(json) < COMPRESSED_FROM_BYTES:
        return Report(request_id, json)
    return Report(request_id, compress(json), compressed=True)


def record_of(request: GetWorld, world: World | None) -> WorldRecord:
    """Return the answer to a question for a world's record: all of it, or the part that is meant.

    Args:
        request: What is asked.
        world: The record; `None` if there is none.

    Raises:
        RendezvousLimitError: All of it is asked for, and it has more than `WHOLE_MEMBERS_MAX`.
    """
    if world is None:
        return WorldRecord(request.id, None)
    if request.first is None:
        if len(world.members) > WHOLE_MEMBERS_MAX:
            raise RendezvousLimitError(
                f"This world of {len(world.members)} nodes is too large for one message, which may "
                f"have {WHOLE_MEMBERS_MAX}: ask for its parts, as newer releases do."
            )
        return WorldRecord(request.id, world)
    count = PART_MEMBERS_MAX
    while True:
        part = WorldRecord(request.id, world.part(request.first, count), len(world.members))
        if count == 1 or len(encode(part)) <= PART_BYTES_MAX:
            return part
        count //= 2


def failure(request_id: int, error: RendezvousError) -> Failed:
    """Return the answer that raises `error` again on the other side."""
    reason = error.reason if isinstance(error, RendezvousClosedError) else ""
    message = str(error)[:TEXT_CHARACTERS_MAX]
    return Failed(
        request_id, _CODES.get(type(error), "error"), message, reason[:TEXT_CHARACTERS_MAX]
    )


def error_of(failed: Failed | Refused) -> RendezvousError:
    """Return the error that a failure stands for, in one line.

    Whoever answers at an endpoint may have sent it: that others cut their texts is not relied on.
    """
    error = _ERRORS.get(failed.code, RendezvousError)
    if error is RendezvousClosedError and isinstance(failed, Failed):
        return RendezvousClosedError(_shown(failed.message), _shown(failed.reason))
    return error(_shown(failed.message))


def _shown(text: str) -> str:
    return printable(text[:TEXT_CHARACTERS_MAX])
