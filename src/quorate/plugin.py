"""The door through which torchrun comes in.

torch loads the entry points of the group `torchrun.handlers` whenever its rendezvous package is
imported, in every training process: this module must cost nothing, and does not need torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["torchrun_handler"]


def torchrun_handler() -> Callable[[Any], Any]:
    """Return the function that creates a handler for torch's parameters."""
    return _create


def _create(params: Any) -> Any:
    from quorate.torchrun import create_handler

    return create_handler(params)
