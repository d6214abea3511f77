"""Tools to test quorate with, and whatever is built on it; a name is loaded when it is used.

`ManualClock`: time that the test moves. `FlakyBackend`: a backend with faults to a plan.
`EtcdCluster`: members of etcd, to kill and to freeze. `RendezvousBackendSuite`, `StoreSuite`: the
contracts; subclass them in a test file for pytest. `SimWorld`: a whole run under faults, in one
thread and in virtual time; `quorate.testing.sim` has more.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quorate.testing.backends import (
        BackendTraits,
        Fault,
        FlakyBackend,
        RendezvousBackendSuite,
    )
    from quorate.testing.clock import ManualClock
    from quorate.testing.etcd import EtcdCluster
    from quorate.testing.sim.coordinated import SimWorld
    from quorate.testing.stores import StoreSuite

__all__ = [
    "BackendTraits",
    "EtcdCluster",
    "Fault",
    "FlakyBackend",
    "ManualClock",
    "RendezvousBackendSuite",
    "SimWorld",
    "StoreSuite",
]

HOMES = {
    "BackendTraits": "quorate.testing.backends",
    "EtcdCluster": "quorate.testing.etcd",
    "Fault": "quorate.testing.backends",
    "FlakyBackend": "quorate.testing.backends",
    "ManualClock": "quorate.testing.clock",
    "RendezvousBackendSuite": "quorate.testing.backends",
    "SimWorld": "quorate.testing.sim.coordinated",
    "StoreSuite": "quorate.testing.stores",
}


def __getattr__(name: str) -> Any:
    """Load the module that is the home of `name`."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(HOMES[name]), name)
