"""A node without workers that meets others in etcd, and joins again whenever the world changes.

    node_program.py ENDPOINT RUN_ID MIN:MAX KEY=VALUE,...

Each line of its standard output is one event as JSON: started (with the name of its session),
joined (with its place), told (with the reason), and error (then it ends).
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

from quorate import RendezvousError, RendezvousParameters
from quorate.config import parse_rendezvous_config
from quorate.etcd.rendezvous import create_rdzv_handler

ASK_EVERY_S = 0.02


def say(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


def main(endpoint: str, run_id: str, nodes: str, config: str) -> None:
    least, most = map(int, nodes.split(":"))
    options = parse_rendezvous_config(config)
    params = RendezvousParameters("etcd", endpoint, run_id, least, most, **options)
    handler = create_rdzv_handler(params)
    say("started", session=handler.session_name)
    pause = threading.Event()
    try:
        while True:
            place = handler.next_rendezvous().place
            assert place is not None
            say("joined", round=place.round, rank=place.rank, size=place.size, digest=place.digest)
            while not handler.num_nodes_waiting():
                if handler.is_closed():
                    say("closed", reason=handler.closed_reason)
                    return
                pause.wait(ASK_EVERY_S)
            say("told", reason=handler.reason_to_regroup)
    except RendezvousError as error:
        say("error", type=type(error).__name__, text=str(error))
    finally:
        handler.leave("its program ends")


if __name__ == "__main__":
    main(*sys.argv[1:])
