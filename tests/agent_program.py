"""An agent as a process, for tests: joins a run, tells each round as a line, and regroups.

    python -m tests.agent_program ENDPOINT RUN_ID MIN MAX STATE_DIR [KEY=VALUE ...]

It ends, without a word of its own, when its standard input ends.
"""

from __future__ import annotations

import json
import sys
import threading
import time

from quorate.api import RendezvousParameters
from quorate.coordinated import create_handler


def main() -> None:
    endpoint, run_id, least, most, state_dir, *rest = sys.argv[1:]
    config = dict(entry.split("=", 1) for entry in rest)
    handler = create_handler(
        RendezvousParameters(
            "quorate", endpoint, run_id, int(least), int(most), state_dir=state_dir, **config
        )
    )
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    while not ended.is_set():
        place = handler.next_rendezvous().place
        assert place is not None
        told = {"epoch": place.epoch, "round": place.round, "rank": place.rank, "size": place.size}
        print(json.dumps(told | {"at_s": time.monotonic()}), flush=True)
        while not ended.wait(0.01) and handler.num_nodes_waiting() == 0:
            pass


if __name__ == "__main__":
    main()
