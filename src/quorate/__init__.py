"""quorate: an elastic rendezvous for distributed training.

    from quorate import RendezvousParameters, get_rendezvous_handler

    handler = get_rendezvous_handler(RendezvousParameters("quorate", "host:29400", "job", 2, 8))
    info = handler.next_rendezvous()

A worker that was started by `quorate run` gets its round's store from `worker_store()`. Names are
imported when they are first used: importing the package alone costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quorate.api import RendezvousHandler as RendezvousHandler
    from quorate.api import RendezvousInfo as RendezvousInfo
    from quorate.api import RendezvousParameters as RendezvousParameters
    from quorate.api import RendezvousStoreInfo as RendezvousStoreInfo
    from quorate.core.settings import RendezvousSettings as RendezvousSettings
    from quorate.core.settings import RendezvousTimeout as RendezvousTimeout
    from quorate.core.state import World as World
    from quorate.errors import RendezvousAuthenticationError as RendezvousAuthenticationError
    from quorate.errors import RendezvousClosedError as RendezvousClosedError
    from quorate.errors import RendezvousConnectionError as RendezvousConnectionError
    from quorate.errors import RendezvousError as RendezvousError
    from quorate.errors import RendezvousEvictedError as RendezvousEvictedError
    from quorate.errors import RendezvousGracefulExitError as RendezvousGracefulExitError
    from quorate.errors import RendezvousLimitError as RendezvousLimitError
    from quorate.errors import RendezvousProtocolError as RendezvousProtocolError
    from quorate.errors import RendezvousReplacedError as RendezvousReplacedError
    from quorate.errors import RendezvousSettingsError as RendezvousSettingsError
    from quorate.errors import RendezvousStateError as RendezvousStateError
    from quorate.errors import RendezvousTimeoutError as RendezvousTimeoutError
    from quorate.errors import StoreTimeoutError as StoreTimeoutError
    from quorate.registry import get_rendezvous_handler as get_rendezvous_handler
    from quorate.registry import rendezvous_handler_registry as rendezvous_handler_registry
    from quorate.stores.base import Store as Store
    from quorate.worker import worker_store as worker_store

_HOMES = {
    "quorate.api": (
        "RendezvousHandler",
        "RendezvousInfo",
        "RendezvousParameters",
        "RendezvousStoreInfo",
    ),
    "quorate.core.settings": ("RendezvousSettings", "RendezvousTimeout"),
    "quorate.core.state": ("World",),
    "quorate.errors": (
        "RendezvousAuthenticationError",
        "RendezvousClosedError",
        "RendezvousConnectionError",
        "RendezvousError",
        "RendezvousEvictedError",
        "RendezvousGracefulExitError",
        "RendezvousLimitError",
        "RendezvousProtocolError",
        "RendezvousReplacedError",
        "RendezvousSettingsError",
        "RendezvousStateError",
        "RendezvousTimeoutError",
        "StoreTimeoutError",
    ),
    "quorate.registry": ("get_rendezvous_handler", "rendezvous_handler_registry"),
    "quorate.stores.base": ("Store",),
    "quorate.worker": ("worker_store",),
}

_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)  # noqa: PLE0605 - the names stand above, once


def __getattr__(name: str) -> Any:
    """Import a public name from its home."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'quorate' has no attribute '{name}'")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return list(__all__)
