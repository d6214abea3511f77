"""Coordinators that share a ledger: one decides, while its lease lasts (R17)."""

from __future__ import annotations

from math import inf

from quorate.coordinator.ledgers.vigil import Vigil
from quorate.testing.sim.coordinator import SimCoordinator, Surroundings
from quorate.testing.sim.ledger import SimLedger
from quorate.testing.sim.network import Ending
from quorate.testing.sim.process import Machine
from quorate.testing.sim.schedule import Schedule

__all__ = ["SeatedCoordinator", "SimSeat"]

LEASE_S = 3.0
PATIENCE_S = 2 * LEASE_S
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
        term: Counts the leaders that etcd has had.
    """

    def __init__(self, schedule: Schedule, ledger: SimLedger) -> None:
        self.holder: SimCoordinator | None = None
        self.cut_off: set[str] = set()
        self.term = 1
        self._schedule = schedule
        self._ledger = ledger
        self._until_s = 0.0
        self._elections = 0

    def is_free(self) -> bool:
        """Return whether the lease has lapsed."""
        return self._schedule.now_s >= self._until_s

    @property
    def is_electing(self) -> bool:
        """Whether etcd is without a leader."""
        return self._elections > 0

    def left_s(self) -> float:
        """Return how much is left of the lease, in whole seconds as etcd tells it."""
        return float(int(max(self._until_s - self._schedule.now_s, 0.0)))

    def reaches(self, coordinator: SimCoordinator) -> bool:
        """Return whether a coordinator reaches what keeps the seat and the ledger."""
        return not self.is_electing and coordinator.machine.name not in self.cut_off

    def take(self, coordinator: SimCoordinator) -> int:
        """Give the seat to a coordinator; what the last holder still writes is refused."""
        self.holder = coordinator
        self._ledger.fence += 1
        self.keep()
        return self._ledger.fence

    def keep(self) -> None:
        """Keep the lease alive."""
        self._until_s = self._schedule.now_s + LEASE_S * KEPT_LONGER

    def give_up(self) -> None:
        """Let the lease end at once."""
        self._until_s = self._schedule.now_s

    def elect(self, seconds: float) -> None:
        """Let etcd be without a leader for so long; a lease has its whole time again then."""
        self._elections += 1
        if not self.is_free():
            self._until_s = inf
        self._schedule.after(seconds, self._elected)

    def _elected(self) -> None:
        self._elections -= 1
        self.term += 1
        if self._elections == 0 and self._until_s == inf:
            self.keep()


class SeatedCoordinator(SimCoordinator):
    """A coordinator that decides while it holds the seat, and else stands by.

    Args:
        around: What it shares with others, and with its other lives.
        machine: Where it runs.
        name: What it is called.
        seat: What it competes for.
    """

    shares_ledger = True

    def __init__(self, around: Surroundings, machine: Machine, name: str, seat: SimSeat) -> None:
        super().__init__(around, machine, name)
        self._seat = seat
        self._held_until_s = 0.0
        self._finding_out = False
        self._stands_by = False
        self._vigil = Vigil(PATIENCE_S, machine.monotonic())
        self._watched = 0

    def is_certain(self) -> bool:
        """See `SimCoordinator`."""
        return self.machine.monotonic() < self._held_until_s

    def holder(self) -> str:
        """See `SimCoordinator`."""
        known = self._seat.holder
        if known is None or known is self or not self._seat.reaches(self):
            return ""
        return known.machine.name

    def reaches_ledger(self) -> bool:
        """See `SimCoordinator`."""
        return self._seat.reaches(self)

    def deposed(self) -> None:
        """Stand by, and let agents go to whoever decides."""
        if self._stands_by:
            return
        self.engine = None
        self._held_until_s = 0.0
        self._begin_anew()
        self._stand_by(LOOK_S)

    def begin(self) -> None:
        """Stand by for the seat."""
        self._stand_by(self.schedule.between(*TAKE_S))

    def resign(self) -> None:
        """Give the seat up, as one does that ends in order."""
        if self._seat.holder is self and self._seat.reaches(self):
            self._seat.give_up()

    def tick(self) -> None:
        """See `SimCoordinator`: where it is not certain, an empty write will tell."""
        super().tick()
        doubts = self.engine is not None and not self.is_certain()
        if doubts and not self._finding_out and self.reaches_ledger():
            self._finding_out = True
            self.ledger.commit(self, self.fence, {}, self._found_out)

    def _found_out(self, outcome: str) -> None:
        self._finding_out = False
        if outcome == "deposed" and self.engine is not None:
            self.deposed()

    def _stand_by(self, look_s: float) -> None:
        self._stands_by = True
        self.later(look_s, self._look)

    def _look(self) -> None:
        """Take the seat if it is free, or if nobody keeps it alive."""
        seat, now_s = self._seat, self.machine.monotonic()
        if not seat.reaches(self):
            self.later(LOOK_S, self._look)
            return
        if self._watched != self.ledger.fence:
            self._watched, self._vigil = self.ledger.fence, Vigil(PATIENCE_S, now_s)
        self._vigil.look(seat.left_s(), seat.term, now_s)
        is_free = seat.is_free()
        if not is_free and not self._vigil.is_over(now_s):
            self.later(LOOK_S, self._look)
            return
        self._stands_by = False
        self.fence = seat.take(self)
        self._held_until_s = now_s + LEASE_S
        self.later(LEASE_S / 3, self._keep, self.fence)
        # One that does not keep its seat alive may still be certain of it for a lease's time.
        self.later(0.0 if is_free else LEASE_S, self._decide, self.fence)

    def _decide(self, fence: int) -> None:
        if self.fence == fence and not self._stands_by:
            self._begin_anew()
            self.decide()

    def _keep(self, fence: int) -> None:
        if self.fence != fence or self._stands_by:
            return
        if self._seat.reaches(self):
            if self._seat.holder is not self or self._seat.is_free():
                self.deposed()
                return
            asked_s = self.machine.monotonic()
            self._seat.keep()
            self._held_until_s = asked_s + LEASE_S
        self.later(LEASE_S / 3, self._keep, fence)

    def _begin_anew(self) -> None:
        """Drop all connections: whoever stays says hello again, to the one that decides."""
        self.network.disturb(self.machine.name)
        self.withheld.clear()
        for connection in list(self.connections.values()):
            connection.end(self, Ending.RESET)
        self.readers.clear()
        self.doors.clear()
