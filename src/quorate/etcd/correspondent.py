"""A node's side of the letters: its session with whoever decides, over keys. Pure.

The session is an `Attachment`, as with a coordinator: what it would say on a connection becomes
the value of the node's key, what it reads comes from its answer key. While etcd answers, the node
counts as connected; it begins anew after a time in which etcd did not.
"""

from __future__ import annotations

import msgspec

from quorate.coordinator.agent.attachment import Attachment, Phase
from quorate.errors import RendezvousLimitError
from quorate.etcd.letters import WORDS_BYTES_MAX, Answers, Words, read
from quorate.wire.messages import Request

__all__ = ["Correspondent"]

# Some numbers come before it.
SAID_BYTES_MAX = WORDS_BYTES_MAX - 64


class Correspondent:
    """What one node says and has read.

    Args:
        attachment: The session.

    Attributes:
        has_news: Whether the node's key has to be put again, with `words`.
    """

    def __init__(self, attachment: Attachment) -> None:
        self.has_news = False
        self._attachment = attachment
        self._number = 0
        self._term = 0
        self._heard = 0
        self._local_addr = ""
        self._said = b""

    @property
    def has_begun(self) -> bool:
        """Whether the node's words can be put: it has said hello, and etcd was there since."""
        return self._attachment.phase in {Phase.GREETING, Phase.ATTACHED}

    def begin(self, local_addr: str, now_s: float) -> None:
        """Begin anew: say hello, and ask again what is unanswered.

        Args:
            local_addr: The address from which this machine speaks to etcd.
            now_s: The time.
        """
        self._number += 1
        self._local_addr = local_addr
        self._attachment.connected(local_addr, now_s)
        self._note()
        self.has_news = True

    def request(self, request_id: int, message: Request, now_s: float) -> None:
        """Ask something; it is in the words until it is answered or forgotten.

        Raises:
            RendezvousLimitError: More is asked than the node's key may hold.
        """
        self._attachment.request(request_id, message, now_s)
        self._note()
        if self.has_begun and len(self._attachment.everything_unanswered()) > SAID_BYTES_MAX:
            self._attachment.forget(request_id)
            raise too_much()

    def forget(self, request_id: int) -> None:
        """Stop asking."""
        self._attachment.forget(request_id)
        self.has_news = True

    def take(self, value: bytes, now_s: float) -> None:
        """Read the answer key.

        Raises:
            RendezvousProtocolError: It does not hold what it must.
        """
        answers = read(value, Answers)
        if not self.has_begun:
            # Nobody knows whether the last words were put; they are put anew, and answered anew.
            return
        if answers.attachment != self._number or answers.term < self._term:
            # Who answers to a former beginning has read a put that came late: say it again.
            self.has_news |= answers.attachment < self._number
            return
        if answers.term > self._term:
            self._term, self._heard = answers.term, 0
        for number, frame in answers.replies:
            if number > self._heard:
                self._heard = number
                self._attachment.received(frame, now_s)
        self._note()
        # What is answered must not be asked of the next one who decides; it may mean another
        # thing by then.
        self.has_news |= self.has_begun and self._attachment.everything_unanswered() != self._said
        if answers.ended and self.has_begun:
            self._attachment.lost("it wants this node to begin anew", now_s)
            self.begin(self._local_addr, now_s)

    def lost(self, why: str, now_s: float) -> None:
        """Note that etcd does not answer, or has forgotten the node's lease: `begin` follows."""
        self._attachment.lost(why, now_s)

    def words(self) -> bytes:
        """Return what the node's key must hold; it has no news then, until something happens.

        Raises:
            RendezvousLimitError: It is more than the key may hold.
        """
        self.has_news = False
        self._said = self._attachment.everything_unanswered()
        if len(self._said) > SAID_BYTES_MAX:
            raise too_much()
        return msgspec.msgpack.encode(Words(self._number, self._term, self._heard, self._said))

    def _note(self) -> None:
        # What it would say at once, on a socket, is news: requests, and answers to probes.
        if self._attachment.take_output():
            self.has_news = True


def too_much() -> RendezvousLimitError:
    """Return the error of a node that says more than fits into its key."""
    return RendezvousLimitError(
        f"This node says more at once than the {SAID_BYTES_MAX} bytes that its key in etcd may "
        f"hold: give it shorter labels, or ask for less at a time."
    )
