"""Nodes of the direct way, for tests: a backend that is polled, so that a manual clock moves."""

from __future__ import annotations

from collections.abc import Callable

from quorate.backends.base import RendezvousBackend
from quorate.backends.memory import MemoryRendezvousBackend
from quorate.codec import decode_state, encode_state
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.settings import RendezvousSettings
from quorate.core.state import RendezvousState
from quorate.executor import DistributedRendezvousOpExecutor
from quorate.holder import BackendRendezvousStateHolder
from quorate.testing import FlakyBackend, ManualClock


class PolledBackend(MemoryRendezvousBackend):
    """A memory backend that cannot watch: whoever waits for it sleeps on its own clock."""

    @property
    def can_watch(self) -> bool:
        return False


def stored(backend: RendezvousBackend) -> RendezvousState:
    """Return the state that a backend holds."""
    answer = backend.get_state()
    assert answer is not None, "the backend holds no state"
    return decode_state(answer[0])


def change(backend: RendezvousBackend, edit: Callable[[RendezvousState], object]) -> None:
    """Change the stored state as another node would."""
    answer = backend.get_state()
    state, token = (decode_state(answer[0]), answer[1]) if answer else (RendezvousState("e"), None)
    edit(state)
    written = backend.set_state(encode_state(state), token)
    assert written is not None
    assert written[2], "another has written meanwhile"


class Member:
    """One node: its backend (with faults to a plan), holder, executor and clock."""

    def __init__(
        self,
        node: NodeDesc,
        settings: RendezvousSettings,
        backend: RendezvousBackend,
        clock: ManualClock,
        profile: NodeProfile | None = None,
    ) -> None:
        self.node = node
        self.settings = settings
        self.clock = clock
        self.backend = FlakyBackend(backend, clock)
        self.holder = BackendRendezvousStateHolder(self.backend, settings, clock=clock)
        self.executor = DistributedRendezvousOpExecutor(node, self.holder, settings, clock, profile)

    def deadline(self, seconds: float = 600.0) -> float:
        """Return the moment in so many seconds."""
        return self.clock.monotonic() + seconds
