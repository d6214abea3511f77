"""Joins a round of two as torchrun does, and sums over gloo by means of the round's store."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from torch.distributed.elastic.rendezvous.api import RendezvousParameters

from quorate.torchrun import create_handler


def main(endpoint: str) -> None:
    """Print what the sum is."""
    handler = create_handler(RendezvousParameters("quorate", endpoint, "gloo", 2, 2, is_host="0"))
    info = handler.next_rendezvous()
    dist.init_process_group("gloo", store=info.store, rank=info.rank, world_size=info.world_size)
    value = torch.tensor(info.rank + 1)
    dist.all_reduce(value)
    print(f"rank {info.rank}: sum {value.item()}", flush=True)
    dist.barrier()
    dist.destroy_process_group()
    handler.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
