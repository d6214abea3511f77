"""Two coordinators that share a ledger: one decides, while its lease lasts (R17)."""

from __future__ import annotations

from quorate.coordinator.door import Keys
from quorate.testing.sim.coordinator import SimCoordinator, Watcher
from quorate.testing.sim.ledger import SimLedger
from quorate.testing.sim.network import Ending, Network
from quorate.testing.sim.process import Machine
from quorate.testing.sim.schedule import Schedule

__all__ = ["SeatedCoordinator", "SimSeat"]

LEASE_S = 3.0
LOOK_S = 0.3
TAKE_S = (0.01, 0.1)

# The lease's keeper may be slower than the holder's clock, never quicker.
KEPT_LONGER = 1.01


class SimSeat:
    """A key under a lease, as etcd keeps it.

    Args:
        schedule: The true time.
        ledger: Refuses writes of whoever does not hold the seat.

    Attributes:
        holder: Who decides.
        cut_off: The machines that do not reach it.
    """

    def __init__(self, schedule: Schedule, ledger: SimLedger) -> None:
        self.holder: SimCoordinator | None = None
        self.cut_off: set[str] = set()
        self._schedule = schedule
        self._ledger = ledger
        self._until_s = 0.0

    def is_free(self) -> bool:
        """Return whether the lease has lapsed."""
        return self._schedule.now_s >= self._until_s

    def reaches(self, coordinator: SimCoordinator) -> bool:
        """Return whether a coordinator reaches what keeps the seat and the ledger."""
        return coordinator.machine.name not in self.cut_off

    def take(self, coordinator: SimCoordinator) -> int:
        """Give the seat to a coordinator; what the last holder still writes is refused."""
        self.holder = coordinator
        self._ledger.fence += 1
        self.keep()
        return self._ledger.fence

    def keep(self) -> None:
        """Keep the lease alive."""
        self._until_s = self._schedule.now_s + LEASE_S * KEPT_LONGER


class SeatedCoordinator(SimCoordinator):
    """A coordinator that decides while it holds the seat, and sends agents on otherwise.

    Args:
        schedule: The true time.
        machine: Where it runs.
        network: What carries its connections.
        ledger: What it keeps its runs in.
        watcher: Sees everything.
        name: What it is called.
        keys: Who may come in.
        seat: What it competes for.
    """

    def __init__(
        self,
        schedule: Schedule,
        machine: Machine,
        network: Network,
        ledger: SimLedger,
        watcher: Watcher,
        name: str,
        keys: Keys,
        seat: SimSeat,
    ) -> None:
        super().__init__(schedule, machine, network, ledger, watcher, name, keys)
        self._seat = seat
        self._held_until_s = 0.0
        self._finding_out = False

    def is_certain(self) -> bool:
        """See `SimCoordinator`."""
        return self.machine.monotonic() < self._held_until_s

    def holder(self) -> str:
        """See `SimCoordinator`."""
        known = self._seat.holder
        return known.machine.name if known is not None and self._seat.reaches(self) else ""

    def reaches_ledger(self) -> bool:
        """See `SimCoordinator`."""
        return self._seat.reaches(self)

    def deposed(self) -> None:
        """Stand by, and let agents go to whoever decides."""
        self.engine = None
        self._held_until_s = 0.0
        self._begin_anew()
        self.later(LOOK_S, self._look)

    def begin(self) -> None:
        """Stand by for the seat."""
        self.later(self.schedule.between(*TAKE_S), self._look)

    def tick(self) -> None:
        """See `SimCoordinator`: where it is not certain, an empty write will tell."""
        super().tick()
        if self.engine is not None and not self.is_certain() and not self._finding_out:
            self._finding_out = True
            self.ledger.commit(self, self.fence, {}, self._found_out)

    def _found_out(self, outcome: str) -> None:
        self._finding_out = False
        if outcome == "deposed" and self.engine is not None:
            self.deposed()

    def _look(self) -> None:
        if not (self._seat.reaches(self) and self._seat.is_free()):
            self.later(LOOK_S, self._look)
            return
        asked_s = self.machine.monotonic()
        self.fence = self._seat.take(self)
        self._held_until_s = asked_s + LEASE_S
        self._begin_anew()
        self.decide()
        self.later(LEASE_S / 3, self._keep, self.fence)

    def _keep(self, fence: int) -> None:
        if self.fence != fence or self.engine is None:
            return
        if self._seat.reaches(self):
            if self._seat.holder is not self or self._seat.is_free():
                return
            self._seat.keep()
            self._held_until_s = self.machine.monotonic() + LEASE_S
        self.later(LEASE_S / 3, self._keep, fence)

    def _begin_anew(self) -> None:
        """Drop all connections: whoever stays says hello again, to the one that decides."""
        self.network.disturb(self.machine.name)
        self.withheld.clear()
        for connection in list(self.connections.values()):
            connection.end(self, Ending.RESET)
        self.readers.clear()
        self.doors.clear()
