"""A worker: worker_program.py ACTION [ARGUMENT]. First it prints its place, as JSON.

report      ends with 0
wait FIFO   ends with 0 once somebody has opened FIFO for writing
fail CODE   ends with CODE, after some last words
once CODE   ends with CODE in its first life, with 0 after a restart
share FIFO  exchanges a number with all other workers through the store of the round, then waits
part FIFO   rank 0 ends with 0, the others wait
"""

from __future__ import annotations

import json
import os
import select
import sys

from quorate import worker_store

PREFIXES = ("QUORATE_", "TORCHELASTIC_", "MASTER_", "GROUP_", "LOCAL_")


def approach(fifo: str) -> select.poll:
    """Return what waits until somebody who wrote to the FIFO from now on has closed it."""
    gate = select.poll()
    gate.register(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK), select.POLLHUP)
    return gate


def share() -> None:
    store = worker_store(timeout_s=20.0)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store.set(f"number/{rank}", str(rank + 1))
    total = sum(int(store.get(f"number/{other}")) for other in range(size))
    print("shared", json.dumps({"total": total, "met": store.add("met", 1)}))
    store.close()


def main(action: str, argument: str = "") -> int:
    told = {
        name: value
        for name, value in os.environ.items()
        if name in ("RANK", "WORLD_SIZE") or (name.startswith(PREFIXES) and name != "QUORATE_TOKEN")
    }
    # Whoever has read the place may open the gate at once.
    gate = approach(argument) if action in ("wait", "share", "part") else None
    print("place", json.dumps({**told, "pid": os.getpid(), "arguments": sys.argv[2:]}))
    if action == "fail":
        print("about to fail", file=sys.stderr)
        return int(argument)
    if action == "once" and told["TORCHELASTIC_RESTART_COUNT"] == "0":
        return int(argument)
    if action == "share":
        share()
    if gate is not None and not (action == "part" and told["RANK"] == "0"):
        gate.poll()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
