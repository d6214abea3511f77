"""Who may come in: one connection's way from its first word to the engine. Pure.

Without a token everybody may, at once. With one, a hello is kept back until its sender has proved
that it knows the token (see `wire.proof`); until then nothing of the coordinator is told, and
nothing of what was said has an effect.
"""

from __future__ import annotations

from typing import NamedTuple

from quorate.credentials import Token
from quorate.errors import RendezvousAuthenticationError, RendezvousProtocolError
from quorate.wire.messages import (
    ROLE_OPERATOR,
    Challenge,
    Hello,
    Proof,
    Proven,
    Request,
    Word,
)
from quorate.wire.proof import NONCE_BYTES, Side, Transcript, mac_of, secret_behind

__all__ = ["Door", "Entry", "Keys"]


class Keys(NamedTuple):
    """What opens the doors of a coordinator.

    Args:
        token: What everybody must know; `None` to let everybody in.
        operator_token: What operators must know to change something; `None` if the token will do.
    """

    token: Token | None = None
    operator_token: Token | None = None


class Entry(NamedTuple):
    """What follows from a word.

    Args:
        reply: What to answer, before anything else.
        request: What to hand to the engine.
    """

    reply: Challenge | Proven | None
    request: Request | None


class Door:
    """The door of one connection.

    Args:
        keys: What opens it.
        nonce: New random bytes, `quorate.wire.proof.NONCE_BYTES` of them.

    Attributes:
        is_open: Whether the peer has come in.
        may_act: Whether the peer may change things as an operator.
    """

    __slots__ = ("_hello", "_keys", "_nonce", "is_open", "may_act")

    def __init__(self, keys: Keys, nonce: bytes) -> None:
        self._keys = keys
        self._nonce = nonce
        self._hello: tuple[Hello, bytes] | None = None
        self.is_open = keys.token is None
        self.may_act = True

    def enter(self, word: Word, body: bytes) -> Entry:
        """Take what the peer says.

        Args:
            word: What it says.
            body: The bytes of that.

        Raises:
            RendezvousAuthenticationError: It does not know the token.
            RendezvousProtocolError: Its words are not in order. In both cases: refuse it.
        """
        if self.is_open:
            if isinstance(word, Proof):
                raise RendezvousProtocolError("The peer sent a proof that nobody has asked for.")
            return Entry(None, word)
        if self._hello is None:
            return self._challenge(word, body)
        return self._check(*self._hello, word)

    def _challenge(self, word: Word, body: bytes) -> Entry:
        if not isinstance(word, Hello):
            raise RendezvousProtocolError(
                "The first message of a connection must be a hello: this peer sent "
                f"{type(word).__name__}."
            )
        self._hello = (word, body)
        return Entry(Challenge(self._nonce), None)

    def _check(self, hello: Hello, body: bytes, word: Word) -> Entry:
        if not isinstance(word, Proof) or len(word.nonce) != NONCE_BYTES:
            raise RendezvousAuthenticationError(
                "The coordinator wants a token, and this node has not shown that it has one."
            )
        transcript = Transcript(self._nonce, word.nonce, body)
        secret = secret_behind(word.mac, self._accepted(hello), Side.CLIENT, transcript)
        if secret is None:
            raise RendezvousAuthenticationError(
                "The coordinator does not accept this node's token: both must have been given the "
                "same one."
            )
        operators = self._keys.operator_token
        self.may_act = operators is None or secret in operators.current().accepted
        self.is_open, self._hello = True, None
        return Entry(Proven(mac_of(secret, Side.COORDINATOR, transcript)), hello)

    def _accepted(self, hello: Hello) -> list[bytes]:
        assert self._keys.token is not None
        accepted = list(self._keys.token.current().accepted)
        operators = self._keys.operator_token
        if operators is not None and hello.role == ROLE_OPERATOR:
            accepted += operators.current().accepted
        return accepted
