"""All runs of a coordinator, and what may be asked about them. Pure."""

from quorate.coordinator.engine.clock import GAP_MAX_S
from quorate.coordinator.engine.engine import NODES_MAX, Batch, Engine
from quorate.coordinator.engine.holdings import CLOSED_KEPT_S

__all__ = ["CLOSED_KEPT_S", "GAP_MAX_S", "NODES_MAX", "Batch", "Engine"]
