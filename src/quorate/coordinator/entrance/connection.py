"""One peer's socket at the coordinator: bytes to messages, and back."""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from quorate.coordinator.entrance.door import Door
from quorate.coordinator.runs.tally import Tally
from quorate.errors import (
    RendezvousAuthenticationError,
    RendezvousConnectionError,
    RendezvousProtocolError,
)
from quorate.identity import Endpoint
from quorate.wire.frames import FRAME_BYTES_MAX, GREETING_BYTES_MAX, FrameReader, frame
from quorate.wire.messages import (
    Hello,
    Proven,
    Redirect,
    Refused,
    Reply,
    Request,
    Word,
    decode_word,
    encode,
    failure,
    request_id_of,
)
from quorate.wire.tls import TlsPipe

__all__ = ["Connection", "Service", "framed"]

# What a peer that does not read may make us keep for it.
UNSENT_BYTES_MAX = 4 * FRAME_BYTES_MAX

# Ciphertext is read in pieces of so many bytes, between which others may have their turn: one that
# holds nothing but changes of keys (27 bytes, RFC 8446, section 4.6.3) costs 2 ms.
PIECE_BYTES = 4096

# What a peer may send until its hello is in: a handshake with its certificates, the hello, a proof.
HANDSHAKE_BYTES_MAX = 4 * GREETING_BYTES_MAX

# Ciphertext that says nothing: of a record nothing can be read before all of it is there, and ours
# have 2 KiB. Beyond it, so many bytes are as a request.
BARREN_BYTES_MAX = 4 * 1024
BARREN_BYTES_COUNTED = 256

# What a message may have beside it in ciphertext; a large one has some 1 % more, and may have 25 %.
RECORD_BYTES = 64


class Service(Protocol):
    """What a connection needs of the coordinator behind it."""

    tally: Tally

    def now_s(self) -> float:
        """Return the machine's monotonic time in seconds."""
        ...

    def opened(self, connection: Connection) -> None:
        """Take a new connection, and number it."""
        ...

    def knocked(self, connection: Connection, data_bytes: int) -> None:
        """Let a connection `take_turn` soon: so many bytes have come before its hello is in."""
        ...

    def admitted(self, connection: Connection, may_act: bool) -> None:
        """Note that a peer has come in; `may_act` if it may change things as an operator."""
        ...

    def received(self, connection: Connection, message: Request, body_bytes: int) -> None:
        """Take a message of so many bytes."""
        ...

    def failed(self, connection: Connection, body_bytes: int) -> None:
        """Note that so many bytes meant nothing: count them as a request."""
        ...

    def holds(self, connection: Connection, unfinished_bytes: int) -> None:
        """Note how much of a message is kept whose rest has not come; it has changed."""
        ...

    def refused(self, connection: Connection, why: Exception | str) -> None:
        """Note that a peer is refused, before its connection ends."""
        ...

    def closed(self, connection: Connection, finished: bool) -> None:
        """Note that a connection is gone; `finished` if it ended in order (R8)."""
        ...


class Connection(asyncio.Protocol):
    """One peer's socket.

    Args:
        service: Gets what the peer says.
        door: What the peer has to come in by.
        pipe: The connection's TLS; `None` if it has none.

    Attributes:
        number: The connection's name, given to it by the service when it is opened.
        heard_s: When the peer was last heard, once its hello is in; since when it is there, before.
        greeted: Whether a hello was let in.
        paused: Whether nothing is read from the peer.
        asked: For `quorate.coordinator.entrance.flow`: what it counts of this connection.
        asked_bytes: The same, in bytes.
        asked_turn: The same: when that was.
        beats: The same: how often it has said that it lives.
        beats_since_s: The same: since when.
        has_begun: Whether it had a turn to shake hands.
        unread: What has come for its next turns, over TLS.
        waits_since_s: Since when it waits for that; `None` if it does not.
        transport: The socket; `None` before it is there, and after its end.
    """

    __slots__ = (
        "_barren_bytes",
        "_door",
        "_finished",
        "_handshake_bytes",
        "_pipe",
        "_reader",
        "_sealed",
        "_service",
        "_unfinished_bytes",
        "asked",
        "asked_bytes",
        "asked_turn",
        "beats",
        "beats_since_s",
        "greeted",
        "has_begun",
        "heard_s",
        "number",
        "paused",
        "transport",
        "unread",
        "waits_since_s",
    )

    def __init__(self, service: Service, door: Door, pipe: TlsPipe | None) -> None:
        self._service = service
        self._pipe = pipe
        self._reader = FrameReader()
        self._door = door
        self._finished = False
        self._handshake_bytes = self._barren_bytes = self._unfinished_bytes = 0
        self._sealed = b""
        self.asked = self.asked_bytes = self.asked_turn = self.beats = 0
        self.beats_since_s = 0.0
        self.paused = False
        self.number = 0
        self.heard_s = 0.0
        self.greeted = False
        self.has_begun = False
        self.unread = b""
        self.waits_since_s: float | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the connection."""
        # uvloop's transports have the interface of asyncio's, but not its class.
        self.transport = cast(asyncio.Transport, transport)
        self._service.opened(self)

    def data_received(self, data: bytes) -> None:
        """Hand on the messages that the bytes complete; what TLS brings before the hello waits."""
        self._service.tally.received_bytes += len(data)
        if self._pipe is not None and not self.greeted:
            self.unread += data
            self._service.knocked(self, len(data))
        else:
            self._read(data)

    def take_turn(self) -> None:
        """Read some of what has come before the hello is in; all that follows it is read at once.

        What is left in `unread` is for another turn.
        """
        self.has_begun = True
        piece, self.unread = self.unread[:PIECE_BYTES], self.unread[PIECE_BYTES:]
        self._handshake_bytes += len(piece)
        if self.is_open:
            self._read(piece)
        if self.greeted:
            rest, self.unread = self.unread, b""
            if rest:
                self._read(rest)
        elif self._handshake_bytes >= HANDSHAKE_BYTES_MAX and self.is_open:
            self.refuse(
                RendezvousProtocolError(
                    f"The peer has sent {HANDSHAKE_BYTES_MAX} bytes and no hello: it is no agent, "
                    f"or its certificates are too long."
                )
            )
        if not self.is_open:
            self.unread = b""

    def pause(self) -> None:
        """Read nothing more until `resume`."""
        self.paused = True
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume(self) -> None:
        """Go on, with what was received before the pause first."""
        self.paused = False
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()
            self._read(b"")

    def _read(self, data: bytes) -> None:
        try:
            if self._pipe is None:
                self._hear(data)
            else:
                self._unseal(self._pipe, data)
        except (RendezvousConnectionError, RendezvousAuthenticationError) as error:
            self.refuse(error)
        self._note_unfinished()

    def _note_unfinished(self) -> None:
        # What a pause has left in the reader waits for us, not for the peer.
        unfinished_bytes = 0 if self.paused else self._reader.buffered
        if unfinished_bytes != self._unfinished_bytes:
            self._unfinished_bytes = unfinished_bytes
            self._service.holds(self, unfinished_bytes)

    def _hear(self, data: bytes) -> None:
        """Take the messages that the bytes complete, and those that are left from before."""
        for body in self._reader.feed(data):
            self._barren_bytes = max(self._barren_bytes - RECORD_BYTES, 0)
            self._take(body)
            # Who was sent away has said enough, however much has come with it.
            if self.paused or not self.is_open:
                return

    def _unseal(self, pipe: TlsPipe, data: bytes) -> None:
        """Read ciphertext in pieces; what costs much, and says little, counts as requests do."""
        sealed, self._sealed = self._sealed + data, b""
        if not data:
            self._hear(b"")
        for start in range(0, len(sealed), PIECE_BYTES):
            self._count_barren()
            if self.paused or not self.is_open:
                self._sealed = sealed[start:]
                return
            piece = sealed[start : start + PIECE_BYTES]
            plaintext = self._plain(pipe, piece)
            self._barren_bytes += len(piece) - len(plaintext) * 5 // 4
            self._hear(plaintext)
        self._count_barren()
        if pipe.finished and not self.paused:
            # TLS has an end of its own, and nothing that comes after it is heard.
            self._finished = True
            self.close()

    def _count_barren(self) -> None:
        """Let ciphertext that says nothing keep its own sender waiting, if there is much of it."""
        self._barren_bytes = max(self._barren_bytes, 0)
        while self.greeted and self._barren_bytes > BARREN_BYTES_MAX and not self.paused:
            self._barren_bytes -= BARREN_BYTES_COUNTED
            self._service.failed(self, BARREN_BYTES_COUNTED)

    def _take(self, body: bytes) -> None:
        word = self._decoded(body)
        if word is None:
            return
        reply, request = self._door.enter(word, body)
        if reply is not None:
            self.write(frame(encode(reply)))
        if isinstance(reply, Proven):
            self._service.admitted(self, self._door.may_act)
        if request is None:
            return
        if isinstance(request, Hello):
            self.greeted = True
            self._barren_bytes = 0
            self._reader.bytes_max = FRAME_BYTES_MAX
        # Bytes alone are no word, and what is said before the hello is in is none: a peer that
        # says something now and then would stay for ever.
        if self.greeted:
            self.heard_s = self._service.now_s()
        self._service.received(self, request, len(body))

    def _decoded(self, body: bytes) -> Word | None:
        """Return what a message says; one that means nothing fails alone, if it can be told so."""
        try:
            return decode_word(body)
        except RendezvousProtocolError as error:
            request_id = request_id_of(body) if self.greeted else None
            if request_id is None:
                raise
            self.write(framed(failure(request_id, error)))
            self._service.failed(self, len(body))
            return None

    def _plain(self, pipe: TlsPipe, data: bytes) -> bytes:
        """Return what the peer says in the bytes that it has sent."""
        try:
            return pipe.feed(data)
        finally:
            self._put(pipe.take_output())
            if not pipe.speaks_tls:
                # It is told in a form that it can read.
                self._pipe = None

    def eof_received(self) -> bool:
        """Note that the peer has finished in order, as a process that ends does (R8)."""
        self._finished = True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the connection is gone."""
        self.transport = None
        # A write may meet the end before a read does: a pipe breaks only after the peer finished.
        finished = isinstance(exc, BrokenPipeError) or (self._finished and exc is None)
        self._service.closed(self, finished)

    def refuse(self, error: RendezvousConnectionError | RendezvousAuthenticationError) -> None:
        """Say why, and end the connection; nobody else is affected (R15)."""
        if self.transport is not None:
            self._service.refused(self, error)
            answer = failure(0, error)
            self.write(frame(encode(Refused(answer.code, answer.message))))
            self.close()
            # The socket stays for as long as the peer does not read; what it has sent need not.
            self._reader = FrameReader()

    def redirect(self, endpoint: str) -> None:
        """Send the peer to the coordinator that decides, and end the connection."""
        self.write(frame(encode(Redirect(endpoint))))
        self.close()

    def close(self) -> None:
        """End the connection once everything is sent."""
        if self._pipe is not None:
            self._pipe.close()
            self._put(self._pipe.take_output())
        if self.transport is not None:
            self.transport.close()

    @property
    def is_open(self) -> bool:
        """Whether what is written may still arrive."""
        return self.transport is not None and not self.transport.is_closing()

    def write(self, data: bytes) -> None:
        """Send bytes; what comes before the end of a handshake is said again after the hello."""
        if self._pipe is None:
            self._put(data)
        elif self._pipe.established:
            self._pipe.send(data)
            self._put(self._pipe.take_output())

    def _put(self, data: bytes) -> None:
        """Write to the socket, unless the peer has stopped reading."""
        if self.transport is None or self.transport.is_closing() or not data:
            return
        self.transport.write(data)
        self._service.tally.sent_bytes += len(data)
        if self.transport.get_write_buffer_size() > UNSENT_BYTES_MAX:
            self._service.refused(self, "it does not read what it is sent")
            self.transport.abort()

    def host(self) -> str:
        """Return the peer's address as a number, without its port; empty once it has gone."""
        name = self.transport.get_extra_info("peername") if self.transport else None
        return str(name[0]) if name else ""

    def peer(self) -> str:
        """Return the peer's address, for the log."""
        name = self.transport.get_extra_info("peername") if self.transport else None
        return str(Endpoint(*name[:2])) if name else "a peer"


def framed(message: Reply) -> bytes:
    """Return the bytes of a message; an answer that is too large becomes a failure."""
    try:
        return frame(encode(message))
    except RendezvousProtocolError as error:
        return frame(encode(failure(getattr(message, "id", 0), error)))
