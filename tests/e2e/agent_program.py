"""An agent without workers: joins, and joins again whenever the world changes.

    agent_program.py ENDPOINT RUN_ID MIN:MAX [KEY=VALUE,... [BACKEND]]

Each line of its standard output is one event as JSON, with `at_s` on the machine's monotonic
clock: connected, joined (with the place), told (with the reason), error (then it ends), and set,
got, left as answers. Commands come as JSON lists: ["set", key, value], ["get", key],
["leave", reason]. SIGTERM ends it as it ends most programs that handle it: by SystemExit.
"""

from __future__ import annotations

import json
import logging
import queue
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

import msgspec

from quorate import RendezvousError, RendezvousInfo, RendezvousParameters
from quorate.config import parse_rendezvous_config
from quorate.coordinated import CoordinatedRendezvousHandler
from quorate.errors import RendezvousConnectionError
from quorate.handler import DynamicRendezvousHandler
from quorate.registry import get_rendezvous_handler

ASK_EVERY_S = 0.01

Handler = CoordinatedRendezvousHandler | DynamicRendezvousHandler

print_lock = threading.Lock()


def say(event: str, **fields: Any) -> None:
    with print_lock:
        print(json.dumps({"event": event, "at_s": time.monotonic(), **fields}), flush=True)


def end(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def read_commands(commands: queue.Queue[list[str]]) -> None:
    for line in sys.stdin:
        commands.put(json.loads(line))


def say_when_connected(handler: Handler) -> None:
    """Say once that there was a connection: then there is a coordinator."""
    asked = threading.Event()
    while handler.node is None:
        asked.wait(ASK_EVERY_S)
    say("connected")


def is_changing(handler: Handler) -> bool:
    """Whether the world is to change; while nobody can be asked, it is not (R11)."""
    try:
        return handler.num_nodes_waiting() > 0
    except RendezvousConnectionError as error:
        print(error, file=sys.stderr, flush=True)
        return False


def stay(handler: Handler, info: RendezvousInfo, commands: queue.Queue[list[str]]) -> bool:
    """Be a member until the world changes; return False if this node has left it."""
    while not is_changing(handler):
        try:
            name, *arguments = commands.get(timeout=ASK_EVERY_S)
        except queue.Empty:
            continue
        if name == "leave":
            handler.leave(*arguments)
            say("left")
            return False
        if name == "set":
            info.store.set(*arguments)
            say("set")
        elif name == "get":
            say("got", value=info.store.get(*arguments).decode())
    say("told", reason=getattr(handler, "reason_to_regroup", ""))
    return True


def main(endpoint: str, run_id: str, nodes: str, config: str = "", backend: str = "quorate") -> int:
    logging.basicConfig(level=logging.INFO)
    signal.signal(signal.SIGTERM, end)
    least, most = map(int, nodes.split(":"))
    commands: queue.Queue[list[str]] = queue.Queue()
    threading.Thread(target=read_commands, args=(commands,), daemon=True).start()
    options = parse_rendezvous_config(config)
    parameters = RendezvousParameters(backend, endpoint, run_id, least, most, **options)
    handler = get_rendezvous_handler(parameters)
    assert isinstance(handler, Handler)
    connected = threading.Thread(target=say_when_connected, args=(handler,), daemon=True)
    connected.start()
    try:
        while True:
            info = handler.next_rendezvous()
            connected.join()
            assert info.place is not None
            say("joined", **msgspec.structs.asdict(info.place))
            if not stay(handler, info, commands):
                return 0
    except RendezvousError as error:
        say("error", type=type(error).__name__, message=str(error))
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
