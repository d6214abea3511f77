"""What an engine knows of one connection. Pure."""

from __future__ import annotations

from quorate.coordinator.runs.session import Session
from quorate.errors import RendezvousAuthenticationError, RendezvousError, RendezvousProtocolError
from quorate.wire.messages import ROLE_OPERATOR, Request

__all__ = ["Peer", "Unmet"]


class Unmet(Exception):
    """A request that cannot be met; the connection is as good as before.

    Args:
        error: What the peer is told.
    """

    def __init__(self, error: RendezvousError) -> None:
        super().__init__(str(error))
        self.error = error


class Peer:
    """One connection, from its first message on.

    Attributes:
        may_act: Whether it may change something as an operator.
        role: What it is, once it has said hello.
        run_id: The run of its hello; `None` before it.
        session_id: The session of its hello.
        session: An agent's attachment, which may have moved to a newer connection since.
        refused: Whether it was refused: nothing that it has sent after that counts.
    """

    __slots__ = ("may_act", "refused", "role", "run_id", "session", "session_id")

    def __init__(self) -> None:
        self.may_act = True
        self.role = ""
        self.run_id: str | None = None
        self.session_id = ""
        self.session: Session | None = None
        self.refused = False

    def require_session(self, message: Request) -> Session:
        """Return its session.

        Raises:
            RendezvousProtocolError: It is no agent.
        """
        if self.session is None:
            raise RendezvousProtocolError(
                f"Only agents may send {type(message).__name__}; this peer is none."
            )
        return self.session

    def require_operator(self, message: Request) -> None:
        """See to it that only operators who may act do what changes something.

        Raises:
            RendezvousProtocolError: It is no operator.
            Unmet: It has not shown the operators' token.
        """
        kind = type(message).__name__
        if self.role != ROLE_OPERATOR:
            raise RendezvousProtocolError(f"Only operators may send {kind}; this peer is none.")
        if not self.may_act:
            raise Unmet(
                RendezvousAuthenticationError(
                    "This token does not let an operator change anything at this coordinator: give "
                    "the operators' token with --token-file."
                )
            )
