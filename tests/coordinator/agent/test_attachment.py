"""One session over many connections: when it beats, dials, asks again, and when it is over."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from quorate.coordinator.agent.attachment import (
    GARBLED_MAX,
    REDIAL_FIRST_S,
    REDIAL_MAX_S,
    Attachment,
    Outcome,
    Phase,
    unreachable,
)
from quorate.coordinator.entrance.door import Door, Keys
from quorate.core.node import NodeProfile
from quorate.core.state import Place
from quorate.credentials import Secrets, Token
from quorate.errors import (
    RendezvousAuthenticationError,
    RendezvousConnectionError,
    RendezvousProtocolError,
    RendezvousReplacedError,
    RendezvousTimeoutError,
)
from quorate.wire.frames import FRAME_BYTES_MAX, FrameReader, frame
from quorate.wire.messages import (
    ROLE_AGENT,
    Challenge,
    Changed,
    Failed,
    Flag,
    Hello,
    Join,
    Joined,
    Leave,
    Ping,
    Pong,
    Probe,
    Proof,
    Proven,
    Redirect,
    Refused,
    Reply,
    Request,
    SetValue,
    Waiting,
    Welcome,
    Word,
    decode_word,
    encode,
)
from quorate.wire.proof import NONCE_BYTES

INTERVAL_S = 4.0
ADDR = "192.0.2.1"
GARBAGE = [b"HTTP/1.1 400 Bad Request\r\n", frame(encode(Leave(1, "")))]
PLACE = Place("e", 3, 0, 1, "d", ADDR, 1, 0, 1)


def make_hello(local_addr: str) -> Hello:
    return Hello(1, ROLE_AGENT, "run", local_addr)


def make(draw: Callable[[], float] = lambda: 1.0) -> Attachment:
    return Attachment(make_hello, INTERVAL_S, draw)


def attached(now_s: float = 0.0) -> Attachment:
    attachment = make()
    attachment.connected(ADDR, now_s)
    tell(attachment, Welcome(1, "here", False), now_s=now_s)
    said(attachment)
    return attachment


def said(attachment: Attachment) -> list[Word]:
    bodies = FrameReader(FRAME_BYTES_MAX).feed(attachment.take_output())
    return [decode_word(body) for body in bodies]


def tell(attachment: Attachment, *replies: Reply, now_s: float = 0.0) -> None:
    attachment.received(b"".join(frame(encode(reply)) for reply in replies), now_s)


def ask(attachment: Attachment, message: Callable[[int], Request], now_s: float = 0.0) -> int:
    request_id = attachment.next_id()
    attachment.request(request_id, message(request_id), now_s)
    return request_id


def join(request_id: int) -> Join:
    return Join(request_id, None, 600.0, NodeProfile())


def leave(request_id: int) -> Leave:
    return Leave(request_id, "")


def redirect(attachment: Attachment, now_s: float, endpoint: str) -> float:
    """Let a coordinator send the agent on; return how long it pauses before it dials."""
    attachment.dialing()
    attachment.connected(ADDR, now_s)
    tell(attachment, Redirect(endpoint), now_s=now_s)
    attachment.lost("it ended the connection", now_s)
    # What the client does when it dials.
    attachment.redirected_to = ""
    return attachment.dial_at_s - now_s


def test_it_counts_for_how_long_nobody_has_answered() -> None:
    attachment = attached(now_s=10.0)
    assert attachment.detached_for_s(20.0) == 0.0
    attachment.lost("it went away", 20.0)
    assert attachment.detached_for_s(23.0) == 3.0
    # Another thread has read its clock a moment ago.
    assert attachment.detached_for_s(19.9) == 0.0


class TestRedirects:
    def test_who_is_named_is_dialled_at_once(self) -> None:
        attachment = make()
        assert redirect(attachment, 0.0, "b:1") == 0.0
        assert attachment.phase is Phase.DETACHED
        assert not attachment.is_served
        assert attachment.is_answered, "it may decide next"

    def test_where_nobody_is_known_the_pause_grows(self) -> None:
        attachment = make()
        pauses = [redirect(attachment, 0.0, "") for _ in range(8)]
        assert pauses == sorted(pauses)
        assert pauses[0] == REDIAL_FIRST_S
        assert pauses[-1] == REDIAL_MAX_S

    def test_two_that_name_each_other_are_dialled_with_growing_pauses(self) -> None:
        attachment = make()
        pauses = [redirect(attachment, 0.0, "b:1") for _ in range(16)]
        assert pauses[0] == 0.0
        assert pauses[1] > 0.0
        assert pauses == sorted(pauses)
        assert pauses[-1] == REDIAL_MAX_S

    def test_one_that_is_named_and_gone_is_dialled_with_growing_pauses(self) -> None:
        """A standby names the holder until its lease has lapsed; thousands of agents ask."""
        attachment = make()
        pauses = []
        for _ in range(8):
            assert redirect(attachment, 0.0, "b:1") == 0.0
            attachment.refused("nobody listens there", 0.0)
            pauses.append(attachment.dial_at_s)
        assert pauses == sorted(pauses)
        assert pauses[-1] == REDIAL_MAX_S


class TestDialing:
    def test_it_starts_detached_and_dials_at_once(self) -> None:
        attachment = make()
        assert attachment.phase is Phase.DETACHED
        assert attachment.dial_at_s <= 0.0
        assert not attachment.attached
        attachment.dialing()
        assert attachment.phase is Phase.DIALING

    def test_it_says_hello_first_and_is_attached_once_welcomed(self) -> None:
        attachment = make()
        ask(attachment, leave)
        attachment.connected(ADDR, 1.0)
        assert said(attachment) == [make_hello(ADDR), Leave(1, "")]
        assert attachment.phase is Phase.GREETING
        tell(attachment, Welcome(1, "there", True))
        assert attachment.attached
        assert attachment.coordinator == "there"

    @pytest.mark.parametrize("draw", [0.0, 0.5, 1.0])
    def test_pauses_double_up_to_a_bound_and_each_draws_its_part(self, draw: float) -> None:
        attachment = make(lambda: draw)
        pauses = []
        for _ in range(9):
            attachment.refused("refused", 100.0)
            pauses.append(attachment.dial_at_s - 100.0)
        part = 0.5 + draw / 2
        assert pauses[0] == pytest.approx(REDIAL_FIRST_S * part)
        assert pauses[1] == pytest.approx(2 * REDIAL_FIRST_S * part)
        assert pauses[-1] == pytest.approx(REDIAL_MAX_S * part)
        assert pauses == sorted(pauses)

    def test_after_a_welcome_the_pauses_begin_anew(self) -> None:
        attachment = make()
        for _ in range(9):
            attachment.refused("refused", 0.0)
        attachment.connected(ADDR, 50.0)
        tell(attachment, Welcome(1, "here", False), now_s=50.0)
        attachment.lost("reset", 60.0)
        assert attachment.dial_at_s == pytest.approx(60.0 + REDIAL_FIRST_S)

    def test_r11_it_dials_again_after_one_interval_without_an_answer(self) -> None:
        attachment = attached()
        assert not attachment.tick(INTERVAL_S / 2)
        assert said(attachment) == [Ping(1)]
        assert not attachment.tick(INTERVAL_S * 1.5 - 0.01)
        assert attachment.is_served
        assert attachment.is_answered
        assert attachment.tick(INTERVAL_S * 1.5)
        # Seed 14092 of the simulator: it was frozen, and took the next connection too.
        assert not attachment.is_served, "others are dialled first"
        assert not attachment.is_answered

    def test_r11_a_coordinator_that_does_not_welcome_is_given_up_on(self) -> None:
        attachment = make()
        attachment.connected(ADDR, 10.0)
        assert not attachment.tick(10.0 + INTERVAL_S - 0.01)
        assert attachment.tick(10.0 + INTERVAL_S)

    def test_r14_a_coordinator_whose_write_stalls_is_waited_for(self) -> None:
        """It does not welcome before it has stored, but it answers pings."""
        attachment = make()
        attachment.connected(ADDR, 0.0)
        for tick in range(1, 100):
            now_s = tick * INTERVAL_S / 4
            assert not attachment.tick(now_s)
            for message in said(attachment):
                if isinstance(message, Ping):
                    tell(attachment, Pong(message.sequence), now_s=now_s)

    def test_it_knows_since_when_it_is_alone_and_why(self) -> None:
        attachment = attached()
        assert attachment.detached_since_s is None
        attachment.lost("reset", 7.0)
        attachment.refused("refused", 9.0)
        assert attachment.detached_since_s == 7.0
        error = unreachable("host:1", attachment, 12.0)
        assert isinstance(error, RendezvousConnectionError)
        assert "host:1" in str(error)
        assert "12 s: refused." in str(error)


class TestBeating:
    def test_r11_it_beats_at_half_the_interval(self) -> None:
        attachment = attached()
        beats = []
        for tick in range(1, 17):
            now_s = tick * INTERVAL_S / 8
            attachment.tick(now_s)
            for message in said(attachment):
                assert isinstance(message, Ping)
                beats.append(now_s)
                tell(attachment, Pong(message.sequence), now_s=now_s)
        assert beats == [2.0, 4.0, 6.0, 8.0]

    def test_it_knows_when_it_has_to_be_looked_at(self) -> None:
        """A beat is due, or the connection is dead, at that very moment and not before."""
        attachment = attached(now_s=10.0)
        beat_s = attachment.tick_at_s(10.0)
        assert beat_s == 10.0 + INTERVAL_S / 2
        assert not attachment.tick(beat_s)
        assert said(attachment) == [Ping(1)]
        assert attachment.tick_at_s(beat_s) == beat_s + INTERVAL_S / 2
        assert not attachment.tick(beat_s + INTERVAL_S / 2)
        dead_s = attachment.tick_at_s(beat_s + INTERVAL_S / 2)
        assert dead_s == beat_s + INTERVAL_S
        assert attachment.tick(dead_s)

    def test_without_a_connection_there_is_little_to_look_at(self) -> None:
        assert make().tick_at_s(7.0) == 7.0 + INTERVAL_S / 2

    def test_a_request_is_a_beat_too(self) -> None:
        attachment = attached()
        ask(attachment, leave, 1.0)
        said(attachment)
        attachment.tick(2.9)
        assert said(attachment) == []
        attachment.tick(3.0)
        assert said(attachment) == [Ping(1)]

    def test_r7_a_probe_is_answered_at_once_with_its_number(self) -> None:
        attachment = attached()
        tell(attachment, Probe(3))
        assert said(attachment) == [Ping(1, 3)]
        tell(attachment, Pong(1))
        attachment.tick(2.0)
        assert said(attachment) == [Ping(2, 3)]

    def test_r7_a_probe_of_a_former_connection_is_forgotten(self) -> None:
        attachment = attached()
        tell(attachment, Probe(3))
        attachment.lost("reset", 1.0)
        attachment.connected("10.0.0.1", 1.0)
        said(attachment)
        attachment.tick(3.0)
        assert said(attachment) == [Ping(2)], "another coordinator may have the number 3 too"

    def test_while_detached_nothing_is_said(self) -> None:
        attachment = make()
        assert not attachment.tick(1000.0)
        assert said(attachment) == []


class TestAsking:
    def test_r14_what_is_unanswered_is_asked_again_under_the_same_id(self) -> None:
        attachment = attached()
        first, second = ask(attachment, leave), ask(attachment, join)
        said(attachment)
        tell(attachment, Flag(first, True))
        attachment.lost("reset", 1.0)
        third = ask(attachment, leave)
        attachment.connected("192.0.2.9", 2.0)
        assert said(attachment) == [make_hello(ADDR), join(second), leave(third)]
        assert attachment.local_addr == "192.0.2.9"
        assert attachment.take_outcomes() == [Outcome(first, Flag(first, True), None)]
        assert attachment.take_outcomes() == []

    def test_what_was_not_written_is_not_written_twice(self) -> None:
        attachment = attached()
        ask(attachment, leave)
        attachment.lost("reset", 1.0)
        attachment.connected(ADDR, 2.0)
        assert said(attachment) == [make_hello(ADDR), leave(1)]

    def test_a_late_answer_to_a_forgotten_request_is_dropped(self) -> None:
        attachment = attached()
        request = ask(attachment, join)
        attachment.forget(request)
        attachment.forget(request)
        tell(attachment, Joined(request, PLACE), Flag(99, True))
        assert attachment.take_outcomes() == []
        attachment.lost("reset", 1.0)
        attachment.connected(ADDR, 2.0)
        said_again = said(attachment)
        assert len(said_again) == 1
        assert isinstance(said_again[0], Hello)
        assert said_again[0].holding is None, "the caller never got that world"

    def test_r8_a_world_that_came_too_late_is_a_reason_to_regroup(self) -> None:
        """The others count on this node in it."""
        attachment = attached()
        request = ask(attachment, join)
        attachment.forget(request)
        tell(attachment, Joined(request, PLACE))
        assert attachment.waiting == 1

    def test_r14_a_world_that_is_told_twice_is_no_reason_to_regroup(self) -> None:
        attachment = attached()
        request = ask(attachment, join)
        tell(attachment, Joined(request, PLACE), Joined(request, PLACE))
        assert attachment.waiting == 0

    def test_an_answer_counts_once(self) -> None:
        attachment = attached()
        request = ask(attachment, leave)
        tell(attachment, Flag(request, True), Flag(request, False))
        assert len(attachment.take_outcomes()) == 1

    def test_a_failure_is_an_error(self) -> None:
        attachment = attached()
        request = ask(attachment, join)
        tell(attachment, Failed(request, "timeout", "too late"))
        ((request_id, answer, error),) = attachment.take_outcomes()
        assert (request_id, answer) == (request, None)
        assert isinstance(error, RendezvousTimeoutError)

    def test_r15_a_request_that_is_too_large_is_the_callers_error(self) -> None:
        attachment = attached()
        with pytest.raises(RendezvousProtocolError):
            ask(attachment, lambda id: SetValue(id, ("e", 0), "k", bytes(FRAME_BYTES_MAX)))
        assert said(attachment) == []

    def test_a_frame_may_come_in_pieces_but_not_from_two_connections(self) -> None:
        attachment = attached()
        data = frame(encode(Changed(1, "came")))
        attachment.received(data[:3], 0.0)
        attachment.lost("reset", 1.0)
        attachment.connected(ADDR, 2.0)
        attachment.received(data[:5], 2.0)
        attachment.received(data[5:], 2.0)
        assert attachment.waiting == 1

    @pytest.mark.parametrize("data", GARBAGE)
    def test_r15_whoever_is_no_coordinator_is_told_at_once(self, data: bytes) -> None:
        attachment = make()
        attachment.connected(ADDR, 0.0)
        with pytest.raises(RendezvousProtocolError):
            attachment.received(data, 0.0)

    @pytest.mark.parametrize("data", GARBAGE)
    def test_r11_garbage_from_a_coordinator_costs_a_connection(self, data: bytes) -> None:
        attachment = attached()
        request_id = ask(attachment, leave)
        said(attachment)
        attachment.received(data, 1.0)
        assert attachment.is_garbled
        assert attachment.tick(1.0)
        tell(attachment, Flag(request_id, False))
        assert attachment.take_outcomes() == []
        attachment.lost("reset", 1.0)
        assert not attachment.is_garbled
        assert attachment.last_error != "reset"
        attachment.connected(ADDR, 2.0)
        assert said(attachment) == [make_hello(ADDR), leave(request_id)]
        tell(attachment, Welcome(1, "here", True), Flag(request_id, True))
        ((_, answer, _),) = attachment.take_outcomes()
        assert answer == Flag(request_id, True)

    def garble(self, attachment: Attachment, times: int) -> None:
        for _ in range(times):
            attachment.received(GARBAGE[0], 1.0)
            attachment.lost("reset", 1.0)
            attachment.connected(ADDR, 2.0)
            tell(attachment, Welcome(1, "here", True))

    def test_garbage_over_and_over_ends_the_session(self) -> None:
        attachment = attached()
        self.garble(attachment, GARBLED_MAX - 1)
        with pytest.raises(RendezvousProtocolError):
            attachment.received(GARBAGE[0], 1.0)

    @pytest.mark.parametrize("word", [Pong(1), Flag(1, True)])
    def test_a_word_in_between_lets_garbage_count_anew(self, word: Reply) -> None:
        attachment = attached()
        ask(attachment, leave)
        for _ in range(2):
            self.garble(attachment, GARBLED_MAX - 1)
            tell(attachment, word)
            ask(attachment, leave)
            word = Pong(1)
        assert attachment.error is None

    def test_between_garbled_connections_it_pauses_ever_longer(self) -> None:
        attachment = attached()
        self.garble(attachment, 8)
        attachment.received(GARBAGE[0], 3.0)
        attachment.lost("reset", 3.0)
        assert attachment.dial_at_s == 3.0 + REDIAL_MAX_S

    def test_a_coordinator_without_room_is_asked_again(self) -> None:
        attachment = make()
        attachment.connected(ADDR, 0.0)
        request_id = ask(attachment, leave)
        tell(attachment, Refused("connection", "no room"))
        attachment.lost("it ended the connection", 1.0)
        assert (attachment.phase, attachment.last_error) == (Phase.DETACHED, "no room")
        attachment.connected(ADDR, 2.0)
        assert said(attachment) == [make_hello(ADDR), leave(request_id)]


class TestPushes:
    def test_r8_a_change_is_remembered(self) -> None:
        attachment = attached()
        tell(attachment, Changed(2, "lost b"))
        assert (attachment.waiting, attachment.changed_reason) == (2, "lost b")
        tell(attachment, Changed(0, "", closed=True, closed_reason="done"))
        assert (attachment.waiting, attachment.closed_reason) == (0, "done")
        assert attachment.closed

    def test_r8_members_that_are_back_change_nobody_unless_something_else_came_first(self) -> None:
        attachment = attached()
        tell(attachment, Changed(2, "they are back", returned=True))
        assert not attachment.members_change
        tell(attachment, Changed(2, "lost b"))
        assert attachment.members_change
        tell(attachment, Changed(2, "they are back", returned=True))
        assert attachment.members_change, "they are back because of it"
        tell(attachment, Changed(0, ""))
        assert not attachment.members_change

    def test_r16_who_is_put_off_knows_why_until_it_is_welcomed_or_dials_again(self) -> None:
        attachment = make()
        attachment.connected(ADDR, 0.0)
        assert not attachment.is_put_off
        tell(attachment, Waiting("stalled", "nothing can be stored", 0.0))
        assert attachment.is_put_off
        attachment.lost("reset", 1.0)
        attachment.connected(ADDR, 2.0)
        assert not attachment.is_put_off
        tell(
            attachment, Waiting("stalled", "nothing can be stored", 0.0), Welcome(1, "here", False)
        )
        assert not attachment.is_put_off

    def test_r8_a_new_world_starts_with_nobody_waiting(self) -> None:
        attachment = attached()
        request = ask(attachment, join)
        tell(attachment, Waiting("min_nodes", "waiting", 1.0), Changed(2, "lost b"))
        assert attachment.explanation is not None
        tell(attachment, Joined(request, PLACE))
        assert (attachment.waiting, attachment.changed_reason) == (0, "")
        assert attachment.explanation is None
        attachment.lost("reset", 1.0)
        attachment.connected(ADDR, 2.0)
        greeting = said(attachment)[0]
        assert isinstance(greeting, Hello)
        assert greeting.holding == ("e", 3)

    def test_r8_a_change_that_follows_the_new_world_in_the_same_bytes_counts(self) -> None:
        attachment = attached()
        request = ask(attachment, join)
        tell(attachment, Changed(5, "old"), Joined(request, PLACE), Changed(1, "lost c"))
        assert (attachment.waiting, attachment.changed_reason) == (1, "lost c")


class TestEnding:
    def test_r12_a_refusal_ends_the_session_and_all_that_is_asked(self) -> None:
        attachment = attached()
        first, second = ask(attachment, join), ask(attachment, leave)
        tell(attachment, Refused("replaced", "a newer one has joined"))
        assert attachment.phase is Phase.ENDED
        later = ask(attachment, leave)
        outcomes = attachment.take_outcomes()
        assert [outcome.request_id for outcome in outcomes] == [first, second, later]
        assert {type(outcome.error) for outcome in outcomes} == {RendezvousReplacedError}

    def test_nothing_that_comes_after_a_refusal_counts(self) -> None:
        attachment = attached()
        refusal = Refused("replaced", "a newer one has joined")
        tell(attachment, refusal, Refused("protocol", "say hello"), Welcome(1, "here", True))
        tell(attachment, Welcome(1, "here", True))
        assert attachment.phase is Phase.ENDED
        assert isinstance(attachment.error, RendezvousReplacedError)

    @pytest.mark.parametrize("event", ["lost", "refused"])
    def test_an_ended_session_does_not_dial(self, event: str) -> None:
        attachment = attached()
        attachment.end(RendezvousConnectionError("over"))
        getattr(attachment, event)("reset", 5.0)
        assert attachment.phase is Phase.ENDED
        assert not attachment.tick(100.0)
        assert said(attachment) == []


OURS, OTHER = b"o" * 16, b"x" * 16
HERE = Welcome(1, "here", False)


class TestToken:
    """R15: with a token it takes a coordinator's word once that has proved that it knows it."""

    def make(self, *secrets: bytes, connected: bool = True) -> Attachment:
        token = Token(Secrets(*(secrets or (OURS,))))
        attachment = Attachment(make_hello, INTERVAL_S, lambda: 1.0, token, lambda n: b"c" * n)
        if connected:
            attachment.connected(ADDR, 0.0)
        return attachment

    def challenge(
        self, attachment: Attachment, secret: bytes = OURS, nonce: bytes = b"s"
    ) -> Proven:
        """Let a coordinator ask for the proof; return what it answers to that."""
        door = Door(Keys(Token(Secrets(secret))), nonce * NONCE_BYTES)
        (hello,) = said(attachment)
        challenge = door.enter(hello, encode(hello)).reply
        assert isinstance(challenge, Challenge)
        tell(attachment, challenge)
        proof, *self.asked = said(attachment)
        assert isinstance(proof, Proof)
        proven = door.enter(proof, encode(proof)).reply
        assert isinstance(proven, Proven)
        return proven

    def attached(self) -> Attachment:
        attachment = self.make()
        tell(attachment, self.challenge(attachment), HERE)
        assert attachment.attached
        return attachment

    def test_what_is_asked_goes_out_once_the_coordinator_has_proved_itself(self) -> None:
        """An impostor that merely asks for a proof must not read what is being stored."""
        attachment = self.make(connected=False)
        first = ask(attachment, join)
        attachment.connected(ADDR, 0.0)
        second = ask(attachment, leave)
        proven = self.challenge(attachment)
        third = ask(attachment, leave)
        assert not attachment.tick(INTERVAL_S / 2)
        assert self.asked + said(attachment) == []
        tell(attachment, proven)
        assert said(attachment) == [join(first), leave(second), leave(third)]
        tell(attachment, HERE)
        assert attachment.attached
        assert said(attachment) == []

    def test_before_the_challenge_it_says_nothing_but_hello(self) -> None:
        attachment = self.make()
        ask(attachment, leave)
        for tick in range(4):
            assert not attachment.tick(tick * INTERVAL_S / 4)
        assert said(attachment) == [make_hello(ADDR)]
        assert attachment.tick(INTERVAL_S)

    def test_the_first_of_two_secrets_is_its_own(self) -> None:
        attachment = self.make(OURS, OTHER)
        tell(attachment, self.challenge(attachment), HERE)
        assert attachment.attached

    def test_r14_once_trusted_a_stalled_coordinator_is_waited_for(self) -> None:
        attachment = self.make()
        tell(attachment, self.challenge(attachment))
        for tick in range(1, 20):
            now_s = tick * INTERVAL_S / 4
            assert not attachment.tick(now_s)
            for message in said(attachment):
                assert isinstance(message, Ping)
                tell(attachment, Pong(message.sequence), now_s=now_s)

    @pytest.mark.parametrize(
        "reply",
        [
            HERE,
            Proven(b""),
            Refused("closed", "it is over"),
            Refused("replaced", "you are another"),
            Redirect("elsewhere:1"),
            Changed(1, "they are gone", True, "closed", True),
            Waiting("k", "reason", 0.0),
            Pong(1),
            Probe(1),
            Flag(1, True),
        ],
        ids=lambda reply: type(reply).__name__,
    )
    @pytest.mark.parametrize("challenged", [False, True])
    def test_nothing_is_believed_before_the_proof(self, reply: Reply, challenged: bool) -> None:
        attachment = self.make()
        if challenged:
            self.challenge(attachment)
        request_id = ask(attachment, leave)
        assert request_id == 1
        with pytest.raises(RendezvousAuthenticationError, match="has not proved"):
            tell(attachment, reply)
        assert not attachment.attached
        assert attachment.take_outcomes() == []
        told = (attachment.redirected_to, attachment.waiting, attachment.closed, attachment.broken)
        assert told == ("", 0, False, False)
        assert attachment.explanation is None

    def test_a_coordinator_with_another_secret_is_none(self) -> None:
        attachment = self.make()
        self.challenge(attachment)
        door = Door(Keys(Token(Secrets(OTHER))), b"s" * NONCE_BYTES)
        own = self.make(OTHER)
        (hello,) = said(own)
        tell(own, Challenge(b"s" * NONCE_BYTES))
        assert door.enter(hello, encode(hello)).reply == Challenge(b"s" * NONCE_BYTES)
        (proof,) = said(own)
        proven = door.enter(proof, encode(proof)).reply
        assert proven is not None
        tell(own, proven)
        with pytest.raises(RendezvousAuthenticationError, match="has not proved"):
            tell(attachment, proven)

    def test_a_recorded_answer_is_of_no_use_on_another_connection(self) -> None:
        attachment = self.make()
        recorded = self.challenge(attachment)
        tell(attachment, recorded, HERE)
        attachment.lost("reset", 1.0)
        attachment._make_nonce = lambda n: b"d" * n
        attachment.connected(ADDR, 2.0)
        tell(attachment, Challenge(b"s" * NONCE_BYTES))
        tell(attachment, recorded, HERE)
        assert not attachment.attached

    def test_what_it_said_itself_proves_nothing(self) -> None:
        attachment = self.make()
        tell(attachment, Challenge(b"s" * NONCE_BYTES))
        proof = said(attachment)[1]
        assert isinstance(proof, Proof)
        with pytest.raises(RendezvousAuthenticationError):
            tell(attachment, Proven(proof.mac))

    def test_only_one_challenge_is_answered(self) -> None:
        attachment = self.make()
        self.challenge(attachment)
        with pytest.raises(RendezvousAuthenticationError):
            tell(attachment, Challenge(b"t" * NONCE_BYTES))
        assert said(attachment) == []

    @pytest.mark.parametrize(
        ("code", "error"),
        [
            ("authentication", RendezvousAuthenticationError),
            ("protocol", RendezvousProtocolError),
        ],
    )
    def test_why_it_is_turned_away_is_told(self, code: str, error: type[Exception]) -> None:
        attachment = self.make()
        with pytest.raises(error, match="the reason"):
            tell(attachment, Refused(code, "the reason"))

    @pytest.mark.parametrize(
        "data",
        [frame(encode(HERE)), frame(encode(Refused("authentication", "no"))), b"HTTP/1.1 400 Bad"],
        ids=["impostor", "refusal", "garbage"],
    )
    def test_r11_a_stranger_does_not_end_a_session_that_stood(self, data: bytes) -> None:
        """Whoever takes the port of a coordinator that has died must not end its agents."""
        attachment = self.attached()
        request_id = ask(attachment, leave)
        attachment.lost("reset", 1.0)
        attachment.connected(ADDR, 2.0)
        attachment.received(data, 2.0)
        tell(attachment, Changed(1, "news"), Flag(request_id, True), now_s=2.5)
        assert attachment.take_outcomes() == []
        assert attachment.waiting == 0
        assert not attachment.tick(2.0 + INTERVAL_S - 0.01)
        assert attachment.tick(2.0 + INTERVAL_S)
        attachment.lost("no answer", 2.0 + INTERVAL_S)
        assert attachment.phase is Phase.DETACHED
        assert attachment.last_error != "no answer"
        attachment.refused("nobody listens", 3.0 + INTERVAL_S)
        assert attachment.last_error == "nobody listens"
        attachment.connected(ADDR, 10.0)
        tell(attachment, self.challenge(attachment), HERE, now_s=10.0)
        assert attachment.attached
        assert said(attachment) == [leave(request_id)]

    def test_a_coordinator_that_goes_on_after_the_challenge_is_given_up_on(self) -> None:
        attachment = self.make()
        tell(attachment, Challenge(b"s" * NONCE_BYTES), now_s=3.0)
        assert not attachment.tick(3.0 + INTERVAL_S - 0.01)
        assert attachment.tick(3.0 + INTERVAL_S)

    def test_without_a_token_it_is_told_that_it_needs_one(self) -> None:
        attachment = make()
        attachment.connected(ADDR, 0.0)
        with pytest.raises(RendezvousAuthenticationError, match="wants a token: give it with"):
            tell(attachment, Challenge(b"s" * NONCE_BYTES))

    def test_a_proof_that_nobody_asked_for(self) -> None:
        for attachment in (attached(), self.attached()):
            tell(attachment, Proven(b"mac"))
            assert attachment.is_garbled

    def test_a_stranger_without_room_is_asked_again(self) -> None:
        attachment = self.make()
        tell(attachment, Refused("connection", "no room"))
        attachment.lost("it ended the connection", 1.0)
        assert (attachment.phase, attachment.last_error) == (Phase.DETACHED, "no room")

    def test_r15_what_a_stranger_says_without_a_proof_is_one_short_line(self) -> None:
        for attachment in (self.make(), attached()):
            tell(attachment, Refused("connection", "no room\n" + "A" * 100_000))
            attachment.lost("it ended the connection", 1.0)
            assert attachment.last_error.startswith("no room\\nA")
            assert len(attachment.last_error) < 5_000

    def test_each_connection_has_secrets_and_a_nonce_of_its_own(self) -> None:
        class Changing(Token):
            def current(self) -> Secrets:
                return Secrets(secrets.pop(0))

        secrets = [OURS, OTHER]
        attachment = Attachment(make_hello, INTERVAL_S, token=Changing(Secrets(OURS)))
        nonces = set()
        for secret in list(secrets):
            attachment.connected(ADDR, 0.0)
            tell(attachment, self.challenge(attachment, secret), HERE)
            assert attachment.attached
            assert attachment._trust is not None
            nonces.add(attachment._trust._nonce)
            attachment.lost("reset", 0.0)
        assert len(nonces) == 2
