"""One session's attachment to a coordinator, from the agent's side. Pure: no socket, no clock.

The shell (`client`, or the simulator) dials when `dial_at_s` has come, hands in what happens, and
takes out bytes to write and answers to deliver. A session survives its connections: whatever was
asked and not answered is asked again on the next one, under the same id (R11, R14).
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from quorate.credentials import Token
from quorate.errors import (
    RendezvousAuthenticationError,
    RendezvousConnectionError,
    RendezvousError,
    RendezvousProtocolError,
)
from quorate.wire.frames import FRAME_BYTES_MAX, FrameReader, frame
from quorate.wire.messages import (
    AUTHENTICATION,
    CONNECTION,
    PROTOCOL,
    Answer,
    Challenge,
    Changed,
    Failed,
    Hello,
    Joined,
    Ping,
    Pong,
    Probe,
    Proof,
    Proven,
    Push,
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
from quorate.wire.proof import NONCE_BYTES, Side, Transcript, mac_of, secret_behind

__all__ = ["Attachment", "Outcome", "Phase", "unreachable"]

# A coordinator that was restarted must not be met by all agents in the same instant, again and
# again: the pause between two tries doubles up to this, and each agent draws its own part of it.
REDIAL_FIRST_S = 0.05
REDIAL_MAX_S = 1.0

# So often in a row, without an answer in between, a coordinator that is known may say what is not
# of our protocol, before its session ends: it takes some 8 s with the pauses.
GARBLED_MAX = 12


class Phase(Enum):
    """How far the attachment is."""

    DETACHED = "detached"
    DIALING = "dialing"
    GREETING = "greeting"
    ATTACHED = "attached"
    ENDED = "ended"


_CONNECTED = (Phase.GREETING, Phase.ATTACHED)


class Outcome(NamedTuple):
    """The answer to a request, or the error that it ended in."""

    request_id: int
    answer: Answer | None
    error: RendezvousError | None


class _Trust:
    """Whether the coordinator at the other end of one connection knows our secret.

    Args:
        secret: Ours.
        hello: The body of our hello.
        nonce: New random bytes.

    Attributes:
        established: Whether it has given its own.
    """

    def __init__(self, secret: bytes, hello: bytes, nonce: bytes) -> None:
        self._secret = secret
        self._hello = hello
        self._nonce = nonce
        self._transcript: Transcript | None = None
        self.established = False

    @property
    def challenged(self) -> bool:
        """Whether it has asked for our proof, and was given it."""
        return self._transcript is not None

    def proof(self, challenge: Challenge) -> Proof:
        """Return our proof."""
        self._transcript = Transcript(challenge.nonce, self._nonce, self._hello)
        return Proof(self._nonce, mac_of(self._secret, Side.CLIENT, self._transcript))

    def check(self, reply: Reply) -> None:
        """Take what was said after our proof: nothing counts but the coordinator's own.

        Raises:
            RendezvousAuthenticationError: It is not that.
        """
        said = reply.mac if isinstance(reply, Proven) else b""
        transcript = self._transcript
        if transcript is None or not secret_behind(
            said, [self._secret], Side.COORDINATOR, transcript
        ):
            raise RendezvousAuthenticationError(
                "The coordinator has not proved that it knows this node's token: give both the "
                "same one, or neither of them any."
            )
        self.established = True


class Attachment:
    """The state of one session.

    With a token, a coordinator is believed only once it has proved that it knows it too: before
    that it is told nothing but the hello and, when it asks, our own proof.

    Args:
        make_hello: Returns the hello, given the local address of the first connection.
        interval_s: The keep-alive interval: half of it passes between two beats, and a whole one
            without an answer makes the connection dead (R11).
        draw: Returns a random number from 0 to 1.
        token: What both sides must know; `None` to believe everybody.
        make_nonce: Returns so many new random bytes.

    Attributes:
        is_served: Whether whoever was dialled last has accepted the session, and did not fall
            silent since: if not, others are to be dialled first.
        is_answered: Whether it has said anything, and did not fall silent since.
    """

    def __init__(
        self,
        make_hello: Callable[[str], Hello],
        interval_s: float,
        draw: Callable[[], float] = random.random,
        token: Token | None = None,
        make_nonce: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self.phase = Phase.DETACHED
        self.dial_at_s = 0.0
        self.detached_since_s: float | None = None
        self.last_error = "no connection was tried yet"
        self.coordinator = ""
        self.local_addr = ""
        self.error: RendezvousError | None = None
        self.waiting = 0
        self.changed_reason = ""
        self.broken = False
        self.members_change = False
        self.closed = False
        self.closed_reason = ""
        self.explanation: Waiting | None = None
        self._is_explained = False
        self.redirected_to = ""
        self._was_redirected = False
        self.is_served = self.is_answered = False
        self._make_hello = make_hello
        self._interval_s = interval_s
        self._draw = draw
        self._token = token
        self._make_nonce = make_nonce
        self._trust: _Trust | None = None
        self._doubt = ""
        self._garbled = 0
        self._hello: Hello | None = None
        self._reader = FrameReader(FRAME_BYTES_MAX)
        self._requests: dict[int, bytes] = {}
        self._last_id = 0
        self._pings = 0
        self._probe = 0
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
    def is_put_off(self) -> bool:
        """Whether a coordinator is there that cannot accept the hello yet, and has said why."""
        return self.phase is Phase.GREETING and self._is_explained

    @property
    def is_known(self) -> bool:
        """Whether a coordinator has accepted this session once, and it has not ended since."""
        return bool(self.coordinator) and self.phase is not Phase.ENDED

    @property
    def is_garbled(self) -> bool:
        """Whether the coordinator, which is trusted, cannot be understood any more.

        Reset the connection then, and say so with `lost`: the session goes on with another one.
        """
        return bool(self._doubt and self._garbled) and self._is_trusted()

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
        if self._may_speak():
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
        """Note that a connection was made: say hello, and ask again what is unanswered.

        With a token that has to wait: an impostor must not read the values that are being stored.
        """
        self.phase = Phase.GREETING
        self.local_addr = local_addr
        self.is_served = self.is_answered = self._is_explained = False
        self.last_error = "it takes connections, but does not answer"
        self._reader = FrameReader(FRAME_BYTES_MAX)
        self._asked_since_s = now_s
        # Whoever decides now counts its own probes.
        self._probe = 0
        if self._hello is None:
            self._hello = self._make_hello(local_addr)
        self._output.clear()
        hello = encode(self._hello)
        self._say(frame(hello), now_s)
        if self._token is None:
            self._ask_again(now_s)
        else:
            # Asked for each connection: a secret may have been changed meanwhile.
            own = self._token.current().own
            self._trust = _Trust(own, hello, self._make_nonce(NONCE_BYTES))

    def lost(self, error: str, now_s: float) -> None:
        """Note that the connection is gone."""
        if self.phase is not Phase.ENDED:
            self._detach(error, now_s)

    def received(self, data: bytes, now_s: float) -> None:
        """Take bytes from the coordinator.

        Raises:
            RendezvousProtocolError: They are not of our protocol.
            RendezvousAuthenticationError: One side does not know the token of the other one. In
                both cases: end the session.
        """
        if self._doubt:
            return
        if self._is_trusted():
            self._asked_since_s = None
        try:
            for body in self._reader.feed(data):
                self._take(decode_reply(body), now_s)
                self.is_answered = True
        except (RendezvousProtocolError, RendezvousAuthenticationError) as error:
            if not self.is_known or (self._is_trusted() and self._is_hopeless(error)):
                raise
            # A stranger, or a fault on the way, must not end a session that stood: nothing of this
            # connection counts any more, and it is given up.
            self._doubt = str(error)

    def tick(self, now_s: float) -> bool:
        """Beat if it is time.

        Returns:
            Whether the connection is dead: abort it, and say so with `lost`.
        """
        if self.phase not in _CONNECTED:
            return False
        if self.is_garbled:
            return True
        if self._asked_since_s is not None and now_s - self._asked_since_s >= self._interval_s:
            # It may be frozen, and would take the next connection too: others are asked first.
            self.is_served = self.is_answered = False
            return True
        if self._may_speak() and now_s - self._spoke_s >= self._interval_s / 2:
            self._ping(now_s)
        return False

    def tick_at_s(self, now_s: float) -> float:
        """Return when `tick` has something to do, unless something else happens before."""
        if self.phase not in _CONNECTED:
            return now_s + self._interval_s / 2
        beat_s = self._spoke_s + self._interval_s / 2
        asked_s = self._asked_since_s
        return beat_s if asked_s is None else min(beat_s, asked_s + self._interval_s)

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

    def detached_for_s(self, now_s: float) -> float:
        """Return for how long, in seconds, nobody has answered; 0 while somebody does.

        Other threads may ask: they may have read their clock before the connection was lost.
        """
        since_s = self.detached_since_s
        return 0.0 if since_s is None else max(0.0, now_s - since_s)

    def take_outcomes(self) -> list[Outcome]:
        """Return the requests that are settled since the last call."""
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def _is_trusted(self) -> bool:
        """Return whether the coordinator is believed: it has proved itself, or need not."""
        return self._trust is None or self._trust.established

    def _is_hopeless(self, error: RendezvousError) -> bool:
        """Return whether to end, counting what could not be understood."""
        self._garbled += 1
        is_garbage = isinstance(error, RendezvousProtocolError)
        return not is_garbage or self._garbled >= GARBLED_MAX

    def _may_speak(self) -> bool:
        """Return whether more than the hello may be said on the present connection."""
        return self.phase in _CONNECTED and self._is_trusted()

    def _ask_again(self, now_s: float) -> None:
        for data in self._requests.values():
            self._say(data, now_s)

    def _take_from_stranger(self, trust: _Trust, reply: Reply, now_s: float) -> None:
        """Take what a coordinator says that has not proved yet that it knows the token."""
        if isinstance(reply, Refused) and reply.code == CONNECTION:
            self._doubt = str(error_of(reply))
            return
        if isinstance(reply, Refused) and reply.code in {AUTHENTICATION, PROTOCOL}:
            raise error_of(reply)
        if isinstance(reply, Challenge) and not trust.challenged:
            self._say(frame(encode(trust.proof(reply))), now_s)
            self._asked_since_s = now_s
            return
        trust.check(reply)
        self._asked_since_s = None
        self._ask_again(now_s)

    def _take(self, reply: Reply, now_s: float) -> None:
        if self.phase is Phase.ENDED:
            return
        if self._trust is not None and not self._trust.established:
            self._take_from_stranger(self._trust, reply, now_s)
        elif isinstance(reply, Challenge):
            raise RendezvousAuthenticationError(
                "The coordinator wants a token: give it with --token-file, --rdzv-conf "
                "token_file=FILE or QUORATE_TOKEN."
            )
        elif isinstance(reply, Proven):
            raise RendezvousProtocolError("The coordinator sent a proof that nobody asked for.")
        elif isinstance(reply, Pong):
            self._garbled = 0
        else:
            self._take_word(reply, now_s)

    def _take_word(self, reply: Welcome | Refused | Answer | Push, now_s: float) -> None:
        if isinstance(reply, Probe):
            self._probe = reply.number
            self._ping(now_s)
        elif isinstance(reply, Welcome):
            self._welcome(reply)
        elif isinstance(reply, Refused) and reply.code == CONNECTION:
            # It has no room at present: others go, and this one comes again.
            self._doubt = str(error_of(reply))
        elif isinstance(reply, Refused):
            self.end(error_of(reply))
        elif isinstance(reply, Changed):
            self.waiting, self.changed_reason = reply.waiting, reply.reason
            self.closed, self.closed_reason = reply.closed, reply.closed_reason
            self.broken = reply.broken
            # Members that come back because of a newcomer must not hide it.
            self.members_change = reply.waiting > 0 and (self.members_change or not reply.returned)
        elif isinstance(reply, Waiting):
            self.explanation, self._is_explained = reply, True
        elif isinstance(reply, Redirect):
            self.redirected_to = reply.endpoint
        elif self._requests.pop(reply.id, None) is not None:
            self._settle(reply)
        elif isinstance(reply, Joined):
            self._miss(reply)

    def _settle(self, reply: Answer) -> None:
        self._garbled = 0
        if isinstance(reply, Failed):
            self._outcomes.append(Outcome(reply.id, None, error_of(reply)))
            return
        if isinstance(reply, Joined):
            # A later hello names this world; what was pushed about the last one is over.
            assert self._hello is not None
            self._hello.holding = reply.place.world
            self.waiting, self.changed_reason, self.explanation = 0, "", None
            self.broken = self.members_change = False
        self._outcomes.append(Outcome(reply.id, reply, None))

    def _miss(self, joined: Joined) -> None:
        """Note a world that nobody here waits for any more, though others count on this node."""
        if self._hello is not None and self._hello.holding != joined.place.world:
            self.waiting, self.changed_reason = 1, "a round was joined after its caller gave up"
            self.members_change = True

    def _welcome(self, welcome: Welcome) -> None:
        self.phase = Phase.ATTACHED
        self.is_served = True
        self.coordinator = welcome.coordinator
        self.detached_since_s = None
        if not self._garbled:
            self._tries = 0

    def _ping(self, now_s: float) -> None:
        self._pings += 1
        self._say(frame(encode(Ping(self._pings, self._probe))), now_s)
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
        self.last_error = self._doubt or error
        self._doubt = ""
        self._asked_since_s = None
        self._output.clear()
        pause_s = min(REDIAL_FIRST_S * 2**self._tries, REDIAL_MAX_S)
        # Who was named is dialled at once; but two that name each other, or one that is gone, must
        # not make thousands of agents dial without a pause.
        if self.redirected_to and not self._was_redirected:
            pause_s = 0.0
        self._was_redirected = bool(self.redirected_to)
        self._tries = 0 if was_attached and not self._garbled else min(self._tries + 1, 16)
        self.dial_at_s = now_s + pause_s * (0.5 + self._draw() / 2)


def unreachable(endpoint: str, attachment: Attachment, for_s: float) -> RendezvousConnectionError:
    """Return the error for a coordinator that could not be reached for some time."""
    why = attachment.last_error.rstrip(".")
    return RendezvousConnectionError(
        f"The coordinator at {endpoint} could not be reached for {round(for_s, 1):g} s: {why}. "
        f"Check the endpoint, and whether the machine that it names is up and its port open."
    )
