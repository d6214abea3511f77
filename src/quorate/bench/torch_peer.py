"""torch's own c10d rendezvous, through its public classes: a peer to be compared with.

Apart from the edge where quorate uses torch (`backends.tcpstore`, `torchrun`), since nothing of
quorate runs here.
"""

from __future__ import annotations

from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousParameters,
    dynamic_rendezvous,
)
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

__all__ = ["torch_handler"]

# Without this each node looks its own machine's name up, and the name service is not the subject.
HOST = "127.0.0.1"


def torch_handler(endpoint: str, run_id: str, nodes: int, timeout_s: float) -> RendezvousHandler:
    """Return torch's handler for one node; it connects to the TCPStore at once.

    Args:
        endpoint: Where the TCPStore is; another process serves it.
        run_id: The run.
        nodes: The least and the greatest number of nodes, so that there is no last call.
        timeout_s: How long the handler may try to join; all else is the default.
    """
    # For each event, though nobody records any, torch inspects its call stack twice. Every node
    # has cores of its own for that; here all would do it on the same few, and keep each other from
    # writing in time.
    dynamic_rendezvous.get_method_name = _unknown
    parameters = RendezvousParameters(
        backend="c10d",
        endpoint=endpoint,
        run_id=run_id,
        min_nodes=nodes,
        max_nodes=nodes,
        local_addr=HOST,
        join_timeout=int(timeout_s),
        is_host=False,
    )
    return get_rendezvous_handler(parameters)


def _unknown(depth: int = 2) -> str:
    return "unknown"
