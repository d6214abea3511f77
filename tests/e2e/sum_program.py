"""A worker that sums over gloo: sum_program.py FOLDER. Rank 1's first life ends before the end."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

FAILED = 5


def main(folder: Path) -> int:
    """Print the sum of all ranks, and where the workers have met; return the exit code."""
    dist.init_process_group("gloo")
    rank, failed = dist.get_rank(), folder / "failed"
    total = torch.tensor(rank)
    dist.all_reduce(total)
    port, shares = os.environ["MASTER_PORT"], os.environ["TORCHELASTIC_USE_AGENT_STORE"]
    print(f"rank {rank}: sum {total.item()}, port {port}, agent's {shares}", flush=True)
    if rank == 1 and not failed.exists():
        failed.touch()
        return FAILED
    # Whoever goes on alone fails here.
    dist.barrier()
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
