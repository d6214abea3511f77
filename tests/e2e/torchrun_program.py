"""torchrun with one thing that goes wrong in its first round.

    torchrun_program.py die RANK [arguments of torchrun]
    torchrun_program.py port NUMBER [arguments of torchrun]

`die`: the agent of that rank kills itself between the completed round and its workers. `port`: the
agent offers that port for the workers' store, though another program may have it.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from torch.distributed.elastic.agent.server.api import SimpleElasticAgent
from torch.distributed.run import main

from quorate import coordinated


def die_as(rank: int) -> None:
    """Have this process die where torch's agents exchange the roles of their workers."""
    assign = SimpleElasticAgent._assign_worker_ranks
    rounds = 0

    def assign_or_die(agent: Any, store: Any, group_rank: int, *others: Any) -> Any:
        nonlocal rounds
        rounds += 1
        if rounds == 1 and group_rank == rank:
            os.kill(os.getpid(), signal.SIGKILL)
        return assign(agent, store, group_rank, *others)

    SimpleElasticAgent._assign_worker_ranks = assign_or_die  # type: ignore[method-assign]


def offer(port: int) -> None:
    """Have the next search for a free port find this one."""
    free_port = coordinated.free_port

    def first_this() -> int:
        coordinated.free_port = free_port
        return port

    coordinated.free_port = first_this


FAULTS = {"die": die_as, "port": offer}

if __name__ == "__main__":
    fault, number = sys.argv.pop(1), int(sys.argv.pop(1))
    FAULTS[fault](number)
    main()
