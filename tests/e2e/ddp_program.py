"""`examples/torch_ddp.py` as tests want it: slow until a file appears, and lingering at its end.

    ddp_program.py [--release FILE] [--linger RANK] [arguments of the example]

Until the file exists the example keeps to `--step-time-ms`; from then on it hurries. The rank that
lingers has trained to the end, but does not exit before it gets SIGUSR1.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).parents[2] / "examples" / "torch_ddp.py"


def load_example() -> Any:
    """Return the example as a module."""
    spec = importlib.util.spec_from_file_location("torch_ddp", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--release", type=Path)
    parser.add_argument("--linger", type=int)
    options, arguments = parser.parse_known_args()
    # Before there are threads that the signal could hit.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    example = load_example()

    class Released(example.Training):  # type: ignore[misc, name-defined]
        def advance(self) -> None:
            if options.release is not None and options.release.exists():
                self.options.step_time_ms = 0
            super().advance()

    example.Training = Released
    sys.argv[1:] = arguments
    example.main()
    rank = int(os.environ["RANK"])
    if rank == options.linger:
        print(f"rank {rank} lingers as process {os.getpid()}", flush=True)
        signal.sigwait({signal.SIGUSR1})


if __name__ == "__main__":
    main()
