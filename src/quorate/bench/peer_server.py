"""The server of what is not a coordinator, as a process of its own.

    python -m quorate.bench.peer_server KIND NODES

It prints `listening on HOST:PORT`, and ends when its standard input is closed.
"""

from __future__ import annotations

import asyncio
import sys

from quorate.bench.floor import serve_floor
from quorate.bench.load import FLOOR, FLOOR_UVLOOP, event_loop
from quorate.coordinator.process import collect_seldom
from quorate.identity import Endpoint

__all__ = ["main"]

HOST = "127.0.0.1"
TIMEOUT_S = 60.0

# TorchFT's lighthouse waits so long for replicas that it knows of and that have not asked yet, and
# looks so often whether its quorum is complete; the latter is its own default.
LIGHTHOUSE_JOIN_MS = 60_000
LIGHTHOUSE_TICK_MS = 100


def main(kind: str, nodes: int) -> None:
    """Serve until nobody needs it any more.

    Args:
        kind: As the command's `--backend` has it.
        nodes: How many agents will come, for those that have to know.
    """
    # As the coordinator does with which it is compared.
    collect_seldom()
    if kind in {FLOOR, FLOOR_UVLOOP}:
        with asyncio.Runner(loop_factory=lambda: event_loop(kind)) as runner:
            runner.run(_serve_floor())
    elif kind == "lighthouse":
        _serve_lighthouse(nodes)
    else:
        _serve_store()


async def _serve_floor() -> None:
    server, port = await serve_floor(HOST)
    async with server:
        _say(port)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def _serve_store() -> None:
    from quorate.backends.tcpstore import create_tcp_store

    store = create_tcp_store(Endpoint(HOST, 0), True, TIMEOUT_S)
    _say(store.port)
    sys.stdin.read()


def _serve_lighthouse(nodes: int) -> None:
    from torchft.coordination import LighthouseServer

    server = LighthouseServer(f"{HOST}:0", nodes, LIGHTHOUSE_JOIN_MS, LIGHTHOUSE_TICK_MS)
    _say(int(server.address().rpartition(":")[2]))
    sys.stdin.read()
    server.shutdown()


def _say(port: int) -> None:
    print(f"listening on {HOST}:{port}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
