"""Many who mean no good to a coordinator, in one process, until its standard input ends.

    python hostile_program.py HOST:PORT NUMBER [--tls CA_FILE CERT_FILE KEY_FILE] [--without KIND]

QUORATE_TOKEN is the coordinator's token: recordings of others are made with it, and a few clients
come in with it, and flood the store of a run of their own. Prints `ready` once all have begun, and
at the end how often each kind has done what it is named after, and what went wrong with them that
nobody meant to.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import secrets
import ssl
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.settings import PROTOCOL_VERSION, RendezvousSettings
from quorate.errors import RendezvousAuthenticationError, RendezvousLimitError
from quorate.identity import Endpoint, parse_rendezvous_endpoint
from quorate.tls import TlsFiles, client_context
from quorate.wire.frames import FRAME_BYTES_MAX, FrameReader, frame
from quorate.wire.messages import (
    ROLE_AGENT,
    Challenge,
    Failed,
    GetValue,
    Hello,
    Join,
    Joined,
    Proof,
    Refused,
    Reply,
    SetValue,
    Word,
    decode_reply,
    encode,
    error_of,
)
from quorate.wire.proof import NONCE_BYTES, Side, Transcript, mac_of

FLOODERS = 4
FLOOD_REQUESTS = 1000
FLOOD_PAUSE_S = 0.1
VALUE = bytes(1000)

# Whoever was thrown out comes again; who is let stay does so for so long.
PAUSE_S = 3.0
STAY_S = 15.0

# An attack, which says when it has done what it is named after.
Attack = Callable[[Callable[[], None]], Awaitable[None]]

TLS_RECORD = b"\x16\x03\x01\x02\x00"


class Stream:
    """A connection; what comes back is read and thrown away, unless it is asked for."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer
        self._frames = FrameReader(FRAME_BYTES_MAX)
        self._bodies: list[bytes] = []

    async def reply(self) -> Reply:
        """Return the next answer; raise the error that it stands for."""
        async with asyncio.timeout(STAY_S):
            while not self._bodies:
                data = await self._reader.read(1 << 16)
                if not data:
                    raise ConnectionResetError
                self._bodies += self._frames.feed(data)
        reply = decode_reply(self._bodies.pop(0))
        if isinstance(reply, Refused | Failed):
            raise error_of(reply)
        return reply

    def say(self, message: Word) -> None:
        self.writer.write(frame(encode(message)))

    async def until_thrown_out(self, stay_s: float = STAY_S) -> None:
        async with asyncio.timeout(stay_s):
            while await self._reader.read(1 << 16):
                pass


def hello_of(run_id: str) -> Hello:
    session = secrets.token_hex(8)
    node = NodeDesc("hostile", 1, 0, session)
    settings = RendezvousSettings(run_id, 1, 1).agreed
    return Hello(PROTOCOL_VERSION, ROLE_AGENT, run_id, session, node, NodeProfile(), settings, None)


class Crowd:
    """All of them.

    Attributes:
        attacks: How often each kind has done what it is named after.
        errors: What else has happened than that the coordinator threw somebody out, and how often.
    """

    def __init__(self, endpoint: Endpoint, number: int, tls: ssl.SSLContext | None) -> None:
        self._endpoint = endpoint
        self._number = number
        self._tls = tls
        self._token = os.environ["QUORATE_TOKEN"].encode()
        self._connections = 0
        self._all_here = asyncio.Event()
        self.attacks: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()

    async def run(self, without: list[str]) -> None:
        attacks = self._attacks(without)
        self.attacks.update({attack.__name__: 0 for attack in attacks})
        tasks = [asyncio.create_task(self._go_on(attack)) for attack in attacks]
        await self._all_here.wait()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        print(json.dumps({"attacks": self.attacks, "errors": self.errors}), flush=True)

    async def strike(self, attack: Attack) -> None:
        """Attack once. To be thrown out, let stay, or without a place is what is expected."""
        name = attack.__name__
        try:
            await attack(lambda: self.attacks.update([name]))
        except (OSError, TimeoutError, RendezvousLimitError):
            return
        except Exception as error:
            self.errors[f"{name}: {error!r}"] += 1

    def _attacks(self, without: list[str]) -> list[Attack]:
        """Return what each of them does: a few flood, the others take turns."""
        kinds = [
            self.garbage,
            self.silent,
            self.slow,
            self.oversized,
            self.wrong_token,
            self.replayed,
            self.half_tls,
            self.http,
        ]
        kept = itertools.cycle([kind for kind in kinds if kind.__name__ not in without])
        floods = [self.flood] * FLOODERS if self.flood.__name__ not in without else []
        return floods + list(itertools.islice(kept, self._number - len(floods)))

    async def _go_on(self, attack: Attack) -> None:
        # The machine cannot start them all in one instant.
        await pause(random.uniform(0, PAUSE_S))
        while True:
            await self.strike(attack)
            await pause(random.uniform(0.5, 1) * PAUSE_S)

    @contextlib.asynccontextmanager
    async def _connected(self, secured: bool = True) -> AsyncIterator[Stream]:
        tls = self._tls if secured else None
        reader, writer = await asyncio.open_connection(*self._endpoint, ssl=tls)
        self._connections += 1
        if self._connections >= self._number:
            self._all_here.set()
        try:
            yield Stream(reader, writer)
        finally:
            writer.transport.abort()

    async def _say(self, done: Callable[[], None], data: bytes, secured: bool = False) -> None:
        async with self._connected(secured) as stream:
            stream.writer.write(data)
            await stream.writer.drain()
            done()
            await stream.until_thrown_out()

    async def garbage(self, done: Callable[[], None]) -> None:
        await self._say(done, random.randbytes(random.randrange(1, 5000)))

    async def http(self, done: Callable[[], None]) -> None:
        await self._say(done, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")

    async def silent(self, done: Callable[[], None]) -> None:
        await self._say(done, b"")

    async def half_tls(self, done: Callable[[], None]) -> None:
        await self._say(done, TLS_RECORD + random.randbytes(200))

    async def oversized(self, done: Callable[[], None]) -> None:
        await self._say(done, (1 << 31).to_bytes(4, "big") + bytes(5000), secured=True)

    async def slow(self, done: Callable[[], None]) -> None:
        """A byte a second, of something that might become a hello."""
        said = TLS_RECORD if self._tls else frame(encode(hello_of("slow")))
        async with self._connected(secured=False) as stream:
            for number, byte in enumerate(said + bytes(100)):
                stream.writer.write(bytes([byte]))
                await stream.writer.drain()
                if number == 1:
                    done()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        await stream.until_thrown_out()
                        return

    async def wrong_token(self, done: Callable[[], None]) -> None:
        await self._knock(done, secrets.token_hex(16).encode())

    async def replayed(self, done: Callable[[], None]) -> None:
        """A proof that is right, of another handshake."""
        await self._knock(done, self._token, recorded=True)

    async def flood(self, done: Callable[[], None]) -> None:
        """Come in with the token, and ask for more than can be carried out."""
        run_id = f"flood {secrets.token_hex(4)}"
        async with self._connected() as stream:
            await self._prove(stream, self._token, hello_of(run_id))
            stream.say(Join(1, None, 60.0, NodeProfile()))
            while not isinstance(joined := await stream.reply(), Joined):
                pass
            numbers = itertools.count(2)
            reading = asyncio.create_task(stream.until_thrown_out(STAY_S))
            # Nobody else waits for it, where what it ends with is an error.
            reading.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
            while not reading.done():
                for number in itertools.islice(numbers, FLOOD_REQUESTS):
                    key = f"key {number % 100}"
                    stream.say(SetValue(number, joined.place.world, key, VALUE))
                    stream.say(GetValue(next(numbers), joined.place.world, "never", 60.0))
                await stream.writer.drain()
                done()
                await pause(FLOOD_PAUSE_S)

    async def _knock(self, done: Callable[[], None], secret: bytes, recorded: bool = False) -> None:
        async with self._connected() as stream:
            await self._prove(stream, secret, hello_of("knock"), recorded)
            try:
                answer = await stream.reply()
            except RendezvousAuthenticationError:
                done()
            else:
                raise AssertionError(f"was not refused: {answer}")
            await stream.until_thrown_out()

    async def _prove(
        self, stream: Stream, secret: bytes, hello: Hello, recorded: bool = False
    ) -> None:
        stream.say(hello)
        challenge = await stream.reply()
        assert isinstance(challenge, Challenge), challenge
        nonce = random.randbytes(NONCE_BYTES) if recorded else challenge.nonce
        said = Transcript(nonce, bytes(NONCE_BYTES), encode(hello))
        stream.say(Proof(said.client_nonce, mac_of(secret, Side.CLIENT, said)))


def main() -> None:
    # They would have machines of their own.
    os.nice(10)
    parser = argparse.ArgumentParser()
    parser.add_argument("endpoint")
    parser.add_argument("number", type=int)
    parser.add_argument("--tls", nargs=3, metavar="FILE")
    parser.add_argument("--without", action="append", default=[])
    options = parser.parse_args()
    endpoint = parse_rendezvous_endpoint(options.endpoint, 0)
    tls = client_context(TlsFiles(*options.tls)) if options.tls else None
    asyncio.run(Crowd(endpoint, options.number, tls).run(options.without))


async def pause(seconds: float) -> None:
    """Leave the coordinator and the machine alone for a while."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.Event().wait()


if __name__ == "__main__":
    main()
