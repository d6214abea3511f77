"""One peer's connection, driven by hand: a transport that is none, a service that takes notes."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from quorate.coordinator.entrance import connection as connection_module
from quorate.coordinator.entrance.connection import (
    BARREN_BYTES_COUNTED,
    BARREN_BYTES_MAX,
    HANDSHAKE_BYTES_MAX,
    PIECE_BYTES,
    Connection,
    framed,
)
from quorate.coordinator.entrance.door import Door, Keys
from quorate.errors import RendezvousConnectionError
from quorate.testing import ManualClock
from quorate.tls import TlsFiles, client_context, server_context
from quorate.wire import frames
from quorate.wire.frames import FRAME_BYTES_MAX, GREETING_BYTES_MAX, FrameReader, frame
from quorate.wire.messages import (
    Challenge,
    Failed,
    Ping,
    Pong,
    Proof,
    Proven,
    Redirect,
    Refused,
    Report,
    Request,
    SetValue,
    Word,
    decode_reply,
    encode,
)
from quorate.wire.proof import NONCE_BYTES, Side, Transcript, mac_of
from quorate.wire.tls import TlsPipe
from tests.certificates import Authority
from tests.coordinator.wire import Notes, Wire
from tests.served import operator_hello, token

SECRET = b"s" * 16
CLIENT_NONCE = b"\2" * NONCE_BYTES

# A get whose space is a text, and one of a message that there is not.
MALFORMED = b"\x93\x0e\x09\xa0"
UNKNOWN = b"\x93\x63\x09\xa0"


class Peer:
    """A connection and what is on either side of it."""

    def __init__(self, keys: Keys | None = None, pipe: TlsPipe | None = None) -> None:
        self.clock = ManualClock(5.0)
        self.notes = Notes(self.clock)
        self.wire = Wire()
        self.connection = Connection(self.notes, Door(keys or Keys(), bytes(NONCE_BYTES)), pipe)
        self.connection.connection_made(self.wire)
        self.notes.told.clear()

    def say(self, *words: Word) -> None:
        self.connection.data_received(b"".join(frame(encode(word)) for word in words))

    @property
    def heard(self) -> list[Request]:
        return [told[1] for told in self.notes.told if told[0] == "received"]


@pytest.fixture
def peer() -> Peer:
    return Peer()


HELLO = operator_hello()


def test_what_is_said_is_handed_on_whole_and_in_order(peer: Peer) -> None:
    data = b"".join(frame(encode(word)) for word in (HELLO, Ping(1), Ping(2)))
    for byte in data:
        peer.connection.data_received(bytes([byte]))
    assert peer.heard == [HELLO, Ping(1), Ping(2)]
    assert peer.notes.tally.received_bytes == len(data)


def test_r15_what_is_kept_of_an_unfinished_message_is_told(peer: Peer) -> None:
    data = frame(encode(HELLO))
    for end, held in ((3, 3), (len(data) - 1, len(data) - 1), (len(data), 0)):
        start = peer.notes.held_bytes
        peer.connection.data_received(data[start:end])
        assert peer.notes.held_bytes == held


def test_what_a_pause_has_left_is_not_unfinished(peer: Peer) -> None:
    peer.notes.pauses = True
    data = frame(encode(Ping(1)))
    peer.connection.data_received(frame(encode(HELLO)) + data + data[:-1])
    assert (peer.wire.paused, peer.notes.held_bytes) == (True, 0)
    peer.notes.pauses = False
    peer.connection.resume()
    assert peer.notes.held_bytes == len(data) - 1


def test_who_is_refused_is_kept_nothing_of(peer: Peer) -> None:
    peer.connection.data_received(frame(encode(HELLO))[:-1])
    peer.connection.refuse(RendezvousConnectionError("no room"))
    assert peer.connection._reader.buffered == 0


def test_what_is_written_is_counted(peer: Peer) -> None:
    peer.connection.write(framed(Pong(3)))
    assert peer.wire.replies == [Pong(3)]
    assert peer.notes.tally.sent_bytes == len(peer.wire.sent)


def test_only_whole_words_are_signs_of_life(peer: Peer) -> None:
    peer.clock.advance(2.0)
    peer.connection.data_received(frame(encode(HELLO))[:-1])
    assert (peer.connection.heard_s, peer.connection.greeted) == (0.0, False)
    peer.connection.data_received(frame(encode(HELLO))[-1:])
    assert (peer.connection.heard_s, peer.connection.greeted) == (7.0, True)


def test_r15_what_is_said_before_the_hello_is_no_sign_of_life(peer: Peer) -> None:
    peer.clock.advance(2.0)
    peer.say(Ping(1))
    assert (peer.heard, peer.connection.heard_s) == ([Ping(1)], 0.0)
    peer.say(HELLO)
    peer.clock.advance(2.0)
    peer.say(Ping(2))
    assert peer.connection.heard_s == 9.0


def test_while_it_is_paused_nothing_is_read_and_nothing_is_lost(peer: Peer) -> None:
    peer.notes.pauses = True
    peer.say(HELLO, Ping(1), Ping(2))
    assert peer.heard == [HELLO]
    assert peer.wire.paused
    peer.connection.resume()
    assert peer.heard == [HELLO, Ping(1)]
    peer.notes.pauses = False
    peer.connection.resume()
    assert peer.heard == [HELLO, Ping(1), Ping(2)]
    assert not peer.wire.paused


def test_who_has_ended_meanwhile_is_not_read_on(peer: Peer) -> None:
    peer.notes.pauses = True
    peer.say(HELLO, Ping(1))
    peer.connection.close()
    peer.connection.resume()
    assert peer.heard == [HELLO]
    assert peer.wire.paused


def test_r15_a_malformed_request_fails_alone_after_the_hello(peer: Peer) -> None:
    peer.say(HELLO)
    peer.connection.data_received(frame(MALFORMED) + frame(encode(Ping(1))))
    (failed,) = peer.wire.replies
    assert isinstance(failed, Failed)
    assert failed.id == 9
    assert peer.heard == [HELLO, Ping(1)]


def test_r15_malformed_requests_are_counted_and_may_be_paused(peer: Peer) -> None:
    peer.say(HELLO)
    peer.notes.pauses = True
    peer.connection.data_received(frame(MALFORMED) * 3)
    assert peer.notes.told[1:] == [("failed", len(MALFORMED))]
    assert len(peer.wire.replies) == 1
    peer.notes.pauses = False
    peer.connection.resume()
    assert len(peer.wire.replies) == 3


def test_r15_who_is_sent_away_is_not_read_on(peer: Peer) -> None:
    peer.notes.redirects = True
    peer.say(HELLO, Ping(1), Ping(2))
    assert peer.heard == [HELLO]
    assert peer.wire.replies == [Redirect("holder:1")]


@pytest.mark.parametrize("greeted", [True, False])
def test_r15_what_cannot_be_told_apart_ends_the_connection(peer: Peer, greeted: bool) -> None:
    if greeted:
        peer.say(HELLO)
    peer.connection.data_received(frame(UNKNOWN if greeted else MALFORMED))
    assert isinstance(peer.wire.replies[-1], Refused)
    assert ("refused", "10.0.0.1:4711") in peer.notes.told
    assert not peer.connection.is_open


def test_r15_before_the_proof_nothing_is_handed_on() -> None:
    peer = Peer(Keys(token(SECRET)))
    peer.say(HELLO)
    assert peer.wire.replies == [Challenge(bytes(NONCE_BYTES))]
    assert not peer.notes.told
    assert not peer.connection.greeted
    transcript = Transcript(bytes(NONCE_BYTES), CLIENT_NONCE, encode(HELLO))
    peer.say(Proof(CLIENT_NONCE, mac_of(SECRET, Side.CLIENT, transcript)))
    assert isinstance(peer.wire.replies[-1], Proven)
    assert peer.notes.told == [("admitted", True), ("received", HELLO)]


def test_r15_who_does_not_read_is_given_up(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "UNSENT_BYTES_MAX", 100)
    peer.wire.unsent = 100
    peer.connection.write(b"x")
    assert not peer.wire.aborted
    peer.wire.unsent = 101
    peer.connection.write(b"x")
    assert peer.wire.aborted
    assert peer.notes.told == [("refused", "10.0.0.1:4711")]
    peer.connection.write(b"x")
    assert len(peer.wire.sent) == 2


@pytest.mark.parametrize(
    ("eof", "error", "finished"),
    [
        (True, None, True),
        (True, ConnectionResetError(), False),
        (False, None, False),
        (False, ConnectionResetError(), False),
        (False, BrokenPipeError(), True),
    ],
)
def test_r8_an_end_in_order_is_told_from_a_reset(
    peer: Peer, eof: bool, error: Exception | None, finished: bool
) -> None:
    if eof:
        peer.connection.eof_received()
    peer.connection.connection_lost(error)
    assert peer.notes.told == [("closed", finished)]
    peer.connection.write(b"x")
    peer.connection.refuse(RendezvousConnectionError("too late"))
    assert not peer.wire.sent


def test_who_is_redirected_is_told_where_to_go(peer: Peer) -> None:
    peer.connection.redirect("holder:1")
    assert peer.wire.replies == [Redirect("holder:1")]
    assert peer.wire.closing


def test_r15_an_answer_that_is_too_large_becomes_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(frames, "FRAME_BYTES_MAX", 400)
    (body,) = FrameReader(1 << 20).feed(framed(Report(3, b"x" * 500)))
    failed = decode_reply(body)
    assert isinstance(failed, Failed)
    assert failed.id == 3


def test_what_belongs_to_a_handshake_is_read_when_it_has_its_turn() -> None:
    peer = Peer(pipe=TlsPipe(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), server_side=True))
    for data in (b"GET", b" / HTTP"):
        peer.connection.data_received(data)
    assert peer.notes.told == [("knocked", 3), ("knocked", 7)]
    assert (peer.connection.unread, peer.wire.sent) == (b"GET / HTTP", b"")
    peer.connection.take_turn()
    (refused,) = peer.wire.replies
    assert "does not speak TLS" in refused.message
    assert peer.connection.has_begun
    assert not peer.connection.unread


def test_who_was_turned_away_has_no_turn() -> None:
    peer = Peer(pipe=TlsPipe(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), server_side=True))
    peer.connection.data_received(b"GET / HTTP")
    peer.connection.refuse(RendezvousConnectionError("no room"))
    peer.connection.take_turn()
    assert peer.wire.sent == b""
    assert not peer.connection.unread


class Sealed(Peer):
    """A peer that speaks TLS, and has shaken hands."""

    def __init__(self, files: TlsFiles) -> None:
        context = server_context(TlsFiles("", files.cert_file, files.key_file))
        super().__init__(pipe=TlsPipe(context, server_side=True))
        self.pipe = TlsPipe(client_context(TlsFiles(files.ca_file)), False, "localhost")
        for _ in range(2):
            self.connection.data_received(self.pipe.take_output())
            self.connection.take_turn()
            answer, self.wire.sent = self.wire.sent, b""
            self.pipe.feed(answer)
        self.notes.told.clear()

    def seal(self, *pieces: bytes) -> bytes:
        """Return each piece in a record of its own."""
        for piece in pieces:
            self.pipe.send(piece)
        return self.pipe.take_output()

    def say(self, *words: Word) -> None:
        self.connection.data_received(self.seal(*(frame(encode(word)) for word in words)))
        while self.connection.unread:
            self.connection.take_turn()

    def count(self, kind: str) -> int:
        return sum(told[0] == kind for told in self.notes.told)


class TestSealed:
    @pytest.fixture
    def peer(self, tmp_path: Path) -> Sealed:
        return Sealed(Authority(tmp_path / "certificates").issue("node"))

    def test_r15_what_comes_before_the_hello_waits_for_turns(self, peer: Sealed) -> None:
        data = peer.seal(frame(bytes(3 * PIECE_BYTES)), frame(encode(HELLO)))
        peer.connection.data_received(data)
        assert peer.notes.told == [("knocked", len(data))]
        for left in range(1, 4):
            peer.connection.take_turn()
            assert len(peer.connection.unread) == max(len(data) - left * PIECE_BYTES, 0)

    def test_what_follows_the_hello_waits_for_no_turn(self, peer: Sealed) -> None:
        pings = [Ping(number) for number in range(1000)]
        peer.connection.data_received(peer.seal(*(frame(encode(w)) for w in (HELLO, *pings))))
        peer.connection.take_turn()
        assert peer.heard == [HELLO, *pings]
        peer.connection.data_received(peer.seal(frame(encode(Ping(1)))))
        assert peer.heard[-1] == Ping(1)
        assert peer.count("knocked") == 1
        assert peer.count("failed") == 0

    def test_r15_who_sends_much_and_no_hello_is_refused(self, peer: Sealed) -> None:
        announced = GREETING_BYTES_MAX.to_bytes(4, "big")
        peer.connection.data_received(peer.seal(announced, *[b"x"] * (HANDSHAKE_BYTES_MAX // 20)))
        turns = 0
        while peer.connection.is_open:
            peer.connection.take_turn()
            turns += 1
        assert turns <= HANDSHAKE_BYTES_MAX // PIECE_BYTES
        assert ("refused", "10.0.0.1:4711") in peer.notes.told
        assert not peer.connection.unread

    def test_r15_what_costs_much_and_says_little_counts(self, peer: Sealed) -> None:
        peer.say(HELLO)
        data = peer.seal((1 << 20).to_bytes(4, "big"), *[b"x"] * 4000)
        peer.connection.data_received(data)
        counted = (len(data) - 4000 * 5 // 4 - BARREN_BYTES_MAX) // BARREN_BYTES_COUNTED
        assert counted - 1 <= peer.count("failed") <= counted + PIECE_BYTES // BARREN_BYTES_COUNTED

    def test_r15_what_has_come_with_it_is_read_when_it_may_go_on(self, peer: Sealed) -> None:
        peer.say(HELLO)
        peer.notes.pauses = True
        word = frame(encode(SetValue(1, ("e", 0), "k", b"v" * 4000)))
        data = peer.seal(*(word[at : at + 1] for at in range(len(word))))
        peer.connection.data_received(data)
        assert peer.wire.paused
        assert peer.heard == [HELLO]
        goes = 0
        while peer.wire.paused:
            peer.connection.resume()
            goes += 1
        assert goes > 100
        assert len(peer.heard) == 2

    def test_r8_the_end_of_tls_is_an_end_in_order(self, peer: Sealed) -> None:
        """What has come before it is heard; nobody would hear what comes after it."""
        peer.say(HELLO)
        last = peer.seal(frame(encode(Ping(1))))
        peer.pipe.close()
        peer.connection.data_received(last + peer.pipe.take_output() + b"garbage")
        assert peer.heard == [HELLO, Ping(1)]
        assert peer.wire.closing
        peer.connection.connection_lost(None)
        assert peer.notes.told[-1] == ("closed", True)

    def test_the_end_of_tls_waits_for_what_a_pause_has_left(self, peer: Sealed) -> None:
        peer.say(HELLO)
        peer.connection.pause()
        last = peer.seal(frame(encode(Ping(1))))
        peer.pipe.close()
        peer.connection.data_received(last + peer.pipe.take_output())
        assert not peer.wire.closing
        peer.connection.resume()
        assert peer.heard == [HELLO, Ping(1)]
        assert peer.wire.closing

    def test_r15_who_ends_tls_before_its_hello_does_not_stay(self, peer: Sealed) -> None:
        peer.pipe.close()
        peer.connection.data_received(peer.pipe.take_output() + bytes(2 * PIECE_BYTES))
        peer.connection.take_turn()
        assert peer.wire.closing
        assert not peer.connection.unread

    def test_what_agents_say_costs_nothing_beside(self, peer: Sealed) -> None:
        peer.say(HELLO)
        for number in range(3000):
            peer.connection.data_received(peer.seal(frame(encode(Ping(number)))))
        large = SetValue(1, ("e", 0), "k", bytes(FRAME_BYTES_MAX - 100))
        data = peer.seal(frame(encode(large)))
        for start in range(0, len(data), 1000):
            peer.connection.data_received(data[start : start + 1000])
        assert peer.heard[-1] == large
        assert peer.count("failed") == 0
