"""What lies in etcd between a node and who decides: the node's words, and the answers to it. Pure.

Below `<etcd_prefix>/<run id>` lie::

    node/SESSION         the words of a node: its hello and all that it asks and has no answer to
    answer/SESSION       the answers to it that it has not read yet, as far as is known
    store/EPOCH/ROUND/   the store of a round
    seat, log/, ...      who decides, and what it must not forget: see `coordinator.ledgers.etcd`

Both keys of a node hang on the node's own lease. Each holds what is true at present, so that
whoever was away reads the newest value and has missed nothing. Requests and replies are those of
`quorate.wire`, in frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, NamedTuple, TypeVar
from urllib.parse import quote

import msgspec

from quorate.core.state import WorldName
from quorate.errors import RendezvousError, RendezvousLimitError, RendezvousProtocolError
from quorate.undecodable import UNDECODABLE
from quorate.wire.frames import FRAME_BYTES_MAX, FrameReader, frame
from quorate.wire.messages import Reply, Request, decode_request, encode, failure

__all__ = ["WORDS_BYTES_MAX", "Answers", "Keys", "Words", "framed", "read", "requests_in"]

# A node asks for few things at a time; each is small.
WORDS_BYTES_MAX = 64 * 1024

# etcd takes 1.5 MiB in one request.
ANSWER_BYTES_MAX = 1024 * 1024

Count = Annotated[int, msgspec.Meta(ge=0)]


class Words(msgspec.Struct, array_like=True):
    """The value of a node's key.

    Args:
        attachment: Counts how often the node has begun anew: with each it says hello.
        term: Whose answers the node has read last: the revision at which they took the seat.
        heard: The number of the last answer of that term that it has read.
        said: Its hello, then all requests that it still wants to be answered; frames.
    """

    attachment: Count
    term: Count
    heard: Count
    said: bytes


class Answers(msgspec.Struct, array_like=True):
    """The value of an answer key.

    Args:
        attachment: Which of the node's beginnings they belong to.
        term: Who answers: the revision at which they took the seat.
        ended: Whether the node has to begin anew before anything more is heard.
        replies: Numbers that grow within the term, and what is told, in frames.
    """

    attachment: Count
    term: Count
    ended: bool
    replies: list[tuple[Count, bytes]]


Letter = TypeVar("Letter", Words, Answers)


class Keys(NamedTuple):
    """Where everything of one run lies.

    Args:
        prefix: The run's own prefix, without a slash at the end.
    """

    prefix: str

    @classmethod
    def of_run(cls, etcd_prefix: str, run_id: str) -> Keys:
        """Return the keys of a run; special characters of its id are escaped as in URLs."""
        return cls(f"{etcd_prefix}/{quote(run_id, safe='')}")

    @property
    def nodes(self) -> bytes:
        """What the keys of all nodes begin with."""
        return f"{self.prefix}/node/".encode()

    @property
    def stores(self) -> bytes:
        """What the keys of all rounds' stores begin with."""
        return f"{self.prefix}/store/".encode()

    def node(self, name: str) -> bytes:
        """Return the key of a node's words."""
        return self.nodes + quote(name, safe="").encode()

    def answer(self, name: str) -> bytes:
        """Return the key of the answers to a node."""
        return f"{self.prefix}/answer/{quote(name, safe='')}".encode()

    def store(self, world: WorldName) -> str:
        """Return the prefix of the store of a round; later rounds of an epoch sort behind it."""
        return f"{self.prefix}/store/{quote(world.epoch, safe='')}/{world.round:016x}"


def read(value: bytes, kind: type[Letter]) -> Letter:
    """Return what a key of the rendezvous holds.

    Raises:
        RendezvousProtocolError: It is something else.
    """
    try:
        return msgspec.msgpack.decode(value, type=kind)
    except UNDECODABLE as error:
        raise RendezvousProtocolError(
            f"A key of the rendezvous in etcd does not hold what it must ({error}): something else "
            f"writes there. Give the run another `etcd_prefix`, and the same release everywhere."
        ) from error


def requests_in(words: Words) -> Iterator[Request]:
    """Yield what a node says, its hello first.

    Raises:
        RendezvousProtocolError: It is not of our protocol, or not whole.
    """
    reader = FrameReader(FRAME_BYTES_MAX)
    for body in reader.feed(words.said):
        yield decode_request(body)
    if reader.buffered:
        raise RendezvousProtocolError("The words of a node in etcd end in the middle of a request.")


def framed(reply: Reply) -> bytes:
    """Return the frame of a reply; an answer that is too large for etcd becomes a failure."""
    body = encode(reply)
    if len(body) <= ANSWER_BYTES_MAX:
        return frame(body)
    error: RendezvousError = RendezvousLimitError(
        f"The answer has {len(body)} bytes, more than the {ANSWER_BYTES_MAX} that fit into a key "
        f"of etcd: so large a run needs coordinators (the `quorate` backend)."
    )
    return frame(encode(failure(getattr(reply, "id", 0), error)))
