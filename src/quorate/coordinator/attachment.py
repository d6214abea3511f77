"""One session's attachment to a coordinator, from the agent's side. Pure: no socket, no clock.

The shell (`client`, or the simulator) dials when `dial_at_s` has come, hands in what happens, and
takes out bytes to write and answers to deliver. A session survives its connections: whatever was
asked and not answered is asked again on the next one, under the same id (R11, R14).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from quorate.errors import RendezvousConnectionError, RendezvousError
from quorate.wire.frames import FRAME_BYTES_MAX, FrameReader, frame
from quorate.wire.messages import (
    Answer,
    Changed,
    Failed,
    Hello,
    Joined,
    Ping,
    Pong,
    Probe,
    Redirect,
    Refused,
    Reply,
    Request,
    Waiting,
    Welcome,
    decode_reply,
    encode,
    error_of,
)

__all__ = ["Attachment", "Outcome", "Phase", "unreachable"]

# A coordinator that was restarted must not be met by all agents in the same instant, again and
# again: the pause between two tries doubles up to this, and each agent draws its own part of it.
REDIAL_FIRST_S = 0.05
REDIAL_MAX_S = 1.0


class Phase(Enum):
    """How far the attachment is."""

    DETACHED = "detached"
    DIALING = "dialing"
    GREETING = "greeting"
    ATTACHED = "attached"
    ENDED = "ended"


class Outcome(NamedTuple):
    """The answer to a request, or the error that it ended in."""

    request_id: int
    answer: Answer | None
    error: RendezvousError | None


class Attachment:
    """The state of one session.

    Args:
        make_hello: Returns the hello, given the local address of the first connection.
        interval_s: The keep-alive interval: half of it passes between two beats, and a whole one
            without an answer makes the connection dead (R11).
        draw: Returns a random number from 0 to 1.
    """

    def __init__(
        self,
        make_hello: Callable[[str], Hello],
        interval_s: float,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.phase = Phase.DETACHED
        self.dial_at_s = 0.0
        self.detached_since_s: float | None = None
        self.last_error = "no connection was tried yet"
        self.coordinator = ""
        self.error: RendezvousError | None = None
        self.waiting = 0
        self.changed_reason = ""
        self.broken = False
        self.closed = False
        self.closed_reason = ""
        self.explanation: Waiting | None = None
        self.redirected_to = ""
        self._was_redirected = False
        self.welcomed = False
        self._make_hello = make_hello
        self._interval_s = interval_s
        self._draw = draw
        self._hello: Hello | None = None
        self._reader = FrameReader(FRAME_BYTES_MAX)
        self._requests: dict[int, bytes] = {}
        self._last_id = 0
        self._pings = 0
        self._tries = 0
        self._spoke_s = 0.0
        self._asked_since_s: float | None = None
        self._output: list[bytes] = []
        self._outcomes: list[Outcome] = []

    @property
    def attached(self) -> bool:
        """Whether a coordinator has accepted the hello on the present connection."""
        return self.phase is Phase.ATTACHED

    @property
    def is_known(self) -> bool:
        """Whether a coordinator has accepted this session once, and it has not ended since."""
        return bool(self.coordinator) and self.phase is not Phase.ENDED

    def next_id(self) -> int:
        """Return an id for a new request."""
        self._last_id += 1
        return self._last_id

    def request(self, request_id: int, message: Request, now_s: float) -> None:
        """Ask something; it is repeated until it is answered or forgotten.

        Raises:
            RendezvousProtocolError: It is too large to be sent.
        """
        if self.error is not None:
            self._outcomes.append(Outcome(request_id, None, self.error))
            return
        data = frame(encode(message))
        self._requests[request_id] = data
        if self.phase in {Phase.GREETING, Phase.ATTACHED}:
            self._say(data, now_s)

    def forget(self, request_id: int) -> None:
        """Stop asking; an answer that comes later is dropped."""
        self._requests.pop(request_id, None)

    def dialing(self) -> None:
        """Note that a connection is being made."""
        self.phase = Phase.DIALING

    def refused(self, error: str, now_s: float) -> None:
        """Note that no connection could be made."""
        self.lost(error, now_s)

    def connected(self, local_addr: str, now_s: float) -> None:
        """Note that a connection was made: say hello, and ask again what is unanswered."""
        self.phase = Phase.GREETING
        self.welcomed = False
        self.last_error = "what listens there does not answer as a coordinator does"
        self._reader = FrameReader(FRAME_BYTES_MAX)
        self._asked_since_s = now_s
        if self._hello is None:
            self._hello = self._make_hello(local_addr)
        self._output.clear()
        self._say(frame(encode(self._hello)), now_s)
        for data in self._requests.values():
            self._say(data, now_s)

    def lost(self, error: str, now_s: float) -> None:
        """Note that the connection is gone."""
        if self.phase is not Phase.ENDED:
            self._detach(error, now_s)

    def received(self, data: bytes, now_s: float) -> None:
        """Take bytes from the coordinator.

        Raises:
            RendezvousProtocolError: They are not of our protocol; drop the connection.
        """
        self._asked_since_s = None
        for body in self._reader.feed(data):
            self._take(decode_reply(body), now_s)

    def tick(self, now_s: float) -> bool:
        """Beat if it is time.

        Returns:
            Whether the connection is dead: abort it, and say so with `lost`.
        """
        if self.phase not in {Phase.GREETING, Phase.ATTACHED}:
            return False
        if self._asked_since_s is not None and now_s - self._asked_since_s >= self._interval_s:
            return True
        if now_s - self._spoke_s >= self._interval_s / 2:
            self._ping(now_s)
        return False

    def end(self, error: RendezvousError) -> None:
        """End the session: everything that is unanswered, and every later request, fails."""
        self.phase = Phase.ENDED
        self.error = error
        for request_id in list(self._requests):
            self._outcomes.append(Outcome(request_id, None, error))
        self._requests.clear()

    def everything_unanswered(self) -> bytes:
        """Return the hello and all that is asked and not answered, as it stands now.

        For connections that carry what holds at present in place of a stream of bytes.
        """
        assert self._hello is not None, "nothing was connected yet"
        return b"".join([frame(encode(self._hello)), *self._requests.values()])

    def take_output(self) -> bytes:
        """Return the bytes to write on the present connection."""
        output = b"".join(self._output)
        self._output.clear()
        return output

    def take_outcomes(self) -> list[Outcome]:
        """Return the requests that are settled since the last call."""
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def _take(self, reply: Reply, now_s: float) -> None:
        if self.phase is Phase.ENDED or isinstance(reply, Pong):
            return
        if isinstance(reply, Probe):
            self._ping(now_s)
        elif isinstance(reply, Welcome):
            self._welcome(reply)
        elif isinstance(reply, Refused):
            self.end(error_of(reply))
        elif isinstance(reply, Changed):
            self.waiting, self.changed_reason = reply.waiting, reply.reason
            self.closed, self.closed_reason = reply.closed, reply.closed_reason
            self.broken = reply.broken
        elif isinstance(reply, Waiting):
            self.explanation = reply
        elif isinstance(reply, Redirect):
            self.redirected_to = reply.endpoint
        elif self._requests.pop(reply.id, None) is not None:
            self._settle(reply)
        elif isinstance(reply, Joined):
            self._miss(reply)

    def _settle(self, reply: Answer) -> None:
        if isinstance(reply, Failed):
            self._outcomes.append(Outcome(reply.id, None, error_of(reply)))
            return
        if isinstance(reply, Joined):
            # A later hello names this world; what was pushed about the last one is over.
            assert self._hello is not None
            self._hello.holding = reply.place.world
            self.waiting, self.changed_reason, self.explanation = 0, "", None
            self.broken = False
        self._outcomes.append(Outcome(reply.id, reply, None))

    def _miss(self, joined: Joined) -> None:
        """Note a world that nobody here waits for any more, though others count on this node."""
        if self._hello is not None and self._hello.holding != joined.place.world:
            self.waiting, self.changed_reason = 1, "a round was joined after its caller gave up"

    def _welcome(self, welcome: Welcome) -> None:
        self.phase = Phase.ATTACHED
        self.welcomed = True
        self.coordinator = welcome.coordinator
        self.detached_since_s = None
        self._tries = 0

    def _ping(self, now_s: float) -> None:
        self._pings += 1
        self._say(frame(encode(Ping(self._pings))), now_s)
        if self._asked_since_s is None:
            self._asked_since_s = now_s

    def _say(self, data: bytes, now_s: float) -> None:
        self._output.append(data)
        self._spoke_s = now_s

    def _detach(self, error: str, now_s: float) -> None:
        if self.detached_since_s is None:
            self.detached_since_s = now_s
        was_attached = self.phase is Phase.ATTACHED
        self.phase = Phase.DETACHED
        self.last_error = error
        self._asked_since_s = None
        self._output.clear()
        pause_s = min(REDIAL_FIRST_S * 2**self._tries, REDIAL_MAX_S)
        # Who was named is dialled at once; but two that name each other, or one that is gone, must
        # not make thousands of agents dial without a pause.
        if self.redirected_to and not self._was_redirected:
            pause_s = 0.0
        self._was_redirected = bool(self.redirected_to)
        self._tries = 0 if was_attached else min(self._tries + 1, 16)
        self.dial_at_s = now_s + pause_s * (0.5 + self._draw() / 2)


def unreachable(endpoint: str, attachment: Attachment, for_s: float) -> RendezvousConnectionError:
    """Return the error for a coordinator that could not be reached for some time."""
    why = attachment.last_error.rstrip(".")
    return RendezvousConnectionError(
        f"The coordinator at {endpoint} could not be reached for {round(for_s, 1):g} s: {why}. "
        f"Check the endpoint, and whether the machine that it names is up and its port open."
    )
