"""An agent in a process of its own: agent_program.py STOP_GRACE_S PROGRAM ARGUMENTS...

`-` as the program makes it wait for a round that never comes. It prints what was asked of the
rendezvous.
"""

from __future__ import annotations

import os
import sys
import threading

from quorate.api import RendezvousInfo
from quorate.launch.agent import Agent
from quorate.launch.spec import WorkerSpec
from tests.launch.scripted import ScriptedHandler, a_round


class PrintingHandler(ScriptedHandler):
    def next_rendezvous(self) -> RendezvousInfo:
        if not self._rounds:
            print("joining", flush=True)
            threading.Event().wait()
        return super().next_rendezvous()

    def leave(self, reason: str = "") -> None:
        print("leave", reason, flush=True)


def main(stop_grace_s: str, *command: str) -> int:
    handler = PrintingHandler([] if command == ("-",) else [a_round(0)])
    spec = WorkerSpec(
        command=("sh",) if command == ("-",) else command,
        workers=1,
        run_id="run",
        environment=dict(os.environ),
        stop_grace_s=float(stop_grace_s),
    )
    return Agent(handler, spec).run()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
