"""Coordinators for tests, in a thread or a process; a harmful proxy; a peer that speaks bytes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from quorate.api import RendezvousParameters
from quorate.clock import Clock
from quorate.coordinated import CoordinatedRendezvousHandler, create_handler
from quorate.coordinator.agent.client import Client
from quorate.coordinator.entrance.door import Keys
from quorate.coordinator.ledgers.base import Ledger, Seat
from quorate.coordinator.process import Companion
from quorate.coordinator.server import CoordinatorServer
from quorate.core.settings import PROTOCOL_VERSION
from quorate.credentials import Secrets, Token
from quorate.identity import Endpoint
from quorate.tls import TlsContexts
from quorate.wire.frames import FRAME_BYTES_MAX, FrameReader, frame
from quorate.wire.messages import (
    ROLE_OPERATOR,
    ROLE_STORE,
    Challenge,
    Hello,
    Proof,
    Reply,
    Word,
    decode_reply,
    encode,
)
from quorate.wire.proof import NONCE_BYTES, Side, Transcript, mac_of

LOOPBACK = "127.0.0.1"
PATIENCE_S = 10.0

# Quick enough for tests: silence counts as a loss after 1.2 s.
QUICK = {
    "keep_alive_interval": "0.4",
    "keep_alive_max_attempt": "3",
    "last_call_timeout": "0.2",
    "join_timeout": "10",
    "close_timeout": "2",
    "is_host": "0",
}

Kind = TypeVar("Kind")


class ThreadedCoordinator:
    """A coordinator in a thread of this process."""

    def __init__(
        self,
        ledger: Ledger | None = None,
        port: int = 0,
        idle_exit_s: float | None = None,
        seat: Seat | None = None,
        keys: Keys | None = None,
        tls: TlsContexts | None = None,
        run: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run,
        companion: Companion | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._run = run
        listener = socket.create_server((LOOPBACK, port), backlog=100)
        self.endpoint = Endpoint(LOOPBACK, listener.getsockname()[1])
        self.server = CoordinatorServer(
            [listener], ledger, idle_exit_s, clock, seat, keys=keys, tls=tls
        )
        self._companion = companion
        self.error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="test-coordinator", daemon=True)
        self._thread.start()
        assert self._running.wait(PATIENCE_S)

    def _serve(self) -> None:
        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            self._loop.call_soon(self._running.set)
            if self._companion is None:
                await self.server.run()
                return
            async with self._companion(self.server):
                await self.server.run()

        try:
            self._run(main())
        except Exception as error:
            self.error = error

    def do(self, action: Callable[[], Any]) -> None:
        """Do something in the coordinator's thread."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(action)

    def begin(self, work: Coroutine[Any, Any, Kind]) -> Future[Kind]:
        """Begin a piece of work in the coordinator's thread; return what will be its result."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def ended(self, timeout_s: float = PATIENCE_S) -> bool:
        """Return whether it ends by itself within some time."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def stop(self) -> None:
        """End it as a signal does: sessions last, connections do not."""
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):
                self.do(self.server.stop)
        assert self.ended()


class ServeProcess:
    """`quorate serve` as a process."""

    def __init__(self, endpoint: str, state_dir: Path, *flags: str) -> None:
        self.log = state_dir / "serve.log"
        command = [sys.executable, "-m", "quorate", "serve", "--endpoint", endpoint]
        is_kept_elsewhere = "--memory" in flags or "--backend" in flags
        command += [*([] if is_kept_elsewhere else ["--state-dir", str(state_dir)]), *flags]
        with self.log.open("ab") as output:
            self._from = output.tell()
            self.process = subprocess.Popen(command, stdout=output, stderr=output)

    @property
    def output(self) -> str:
        """What this process has written."""
        return self.log.read_bytes()[self._from :].decode()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it without a word, and collect it."""
        self.process.kill()
        self.process.wait()


class RawPeer:
    """A socket to a coordinator, and what comes back on it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.socket = socket.create_connection(endpoint, timeout=PATIENCE_S)
        self._reader = FrameReader(FRAME_BYTES_MAX)
        self._bodies: list[bytes] = []

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def say(self, *messages: Word) -> None:
        """Send messages in one piece."""
        self.socket.sendall(b"".join(frame(encode(message)) for message in messages))

    def read(self) -> Reply | None:
        """Return the next message; `None` once the coordinator has ended the connection."""
        while not self._bodies:
            try:
                data = self.socket.recv(1 << 16)
            except ConnectionError:
                return None
            if not data:
                return None
            self._bodies += self._reader.feed(data)
        return decode_reply(self._bodies.pop(0))

    def knock(self, secret: bytes, hello: Hello) -> Proof:
        """Say hello and prove that it knows a secret; return the proof."""
        self.say(hello)
        said = Transcript(self.read_until(Challenge).nonce, bytes(NONCE_BYTES), encode(hello))
        proof = Proof(said.client_nonce, mac_of(secret, Side.CLIENT, said))
        self.say(proof)
        return proof

    def read_until(self, kind: type[Kind]) -> Kind:
        """Return the next message of a kind."""
        while (message := self.read()) is not None:
            if isinstance(message, kind):
                return message
        raise AssertionError(f"the connection ended before {kind.__name__} came")


class Proxy:
    """Stands between agents and a coordinator, and harms their connections."""

    def __init__(self, target: Endpoint) -> None:
        self.target = target
        self.endpoint = Endpoint(LOOPBACK, 0)
        self.connections = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="test-proxy", daemon=True)
        self._ready = threading.Event()
        self._thread.start()
        assert self._ready.wait(PATIENCE_S)

    def stall(self, forth: bool = True, back: bool = True) -> None:
        """Carry nothing to the coordinator (`forth`) or to the agents (`back`) from now on."""
        self._do(lambda: [gate.clear() for gate, do in self._gates(forth, back) if do])

    def resume(self) -> None:
        """Carry everything again, what was stalled included."""
        self._do(lambda: [gate.set() for gate, _ in self._gates(True, True)])

    def finish(self) -> None:
        """End all connections in order, as a process that ends does."""
        self._do(lambda: [writer.close() for writer in list(self._writers)])

    def reset(self) -> None:
        """Reset all connections; what is stalled is lost."""
        self._do(lambda: [_reset(writer) for writer in list(self._writers)])

    def close(self) -> None:
        """End everything."""
        self.reset()
        self._do(self._loop.stop)
        self._thread.join(PATIENCE_S)

    def _do(self, action: Callable[[], object]) -> None:
        done = threading.Event()

        def act() -> None:
            action()
            done.set()

        self._loop.call_soon_threadsafe(act)
        assert done.wait(PATIENCE_S)

    def _gates(self, forth: bool, back: bool) -> list[tuple[asyncio.Event, bool]]:
        return [(self._forth, forth), (self._back, back)]

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._forth, self._back = asyncio.Event(), asyncio.Event()
        self._forth.set()
        self._back.set()
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, LOOPBACK, 0))
        self.endpoint = Endpoint(LOOPBACK, server.sockets[0].getsockname()[1])
        self._ready.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            far_reader, far_writer = await asyncio.open_connection(*self.target)
        except OSError:
            _reset(writer)
            return
        self._writers |= {writer, far_writer}
        await asyncio.gather(
            self._carry(reader, far_writer, self._forth),
            self._carry(far_reader, writer, self._back),
        )
        self._writers -= {writer, far_writer}

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                await gate.wait()
                writer.write(data)
        writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def token(*secrets: bytes) -> Token:
    """Return a token that stands in no file."""
    return Token(Secrets(*secrets))


def operator_hello(endpoint: Endpoint | None = None, local_addr: str = "") -> Hello:
    """Return what an operator says first."""
    return Hello(PROTOCOL_VERSION, ROLE_OPERATOR, "", secrets.token_hex(8))


def store_client(endpoint: Endpoint, run_id: str, interval_s: float = 0.4) -> Client:
    """Return a started session of a worker that uses a run's stores."""
    session = secrets.token_hex(8)
    client = Client(
        [endpoint],
        lambda endpoint, local_addr: Hello(PROTOCOL_VERSION, ROLE_STORE, run_id, session),
        interval_s,
    )
    client.start()
    return client


def make_handler(
    endpoint: object, run_id: str = "job", nodes: tuple[int, int] = (1, 1), **config: str
) -> CoordinatedRendezvousHandler:
    """Return a handler with quick settings that starts no coordinator unless it is told to."""
    settings: Mapping[str, str] = {**QUICK, **config}
    return create_handler(
        RendezvousParameters("quorate", str(endpoint), run_id, *nodes, **settings)
    )


def end_process(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to a process that a test has started."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
