"""All runs of a coordinator, and what may be asked about them. Pure."""

from quorate.coordinator.engine.engine import CLOSED_KEPT_S, Batch, Engine

__all__ = ["CLOSED_KEPT_S", "Batch", "Engine"]
