"""Status reports: made in slices, and once for all who ask at about the same time. Pure.

A report of 10,000 nodes takes some 30 ms. Whoever joins must not wait for that: a look at the runs
(`Look`) is carried on a slice at a time, and between two slices everybody else is served. Each run
is shown as it is at one moment (`glimpse`), at or after the one at which the report was asked for.

Nothing is told before it is stored (R14): a report goes into the outbox once it is complete, like
every answer. What the outbox holds goes with the next batch, which carries every change that is
not on its way yet, and is taken only when the one before is stored. So all that was to be seen at
any moment before is stored by then.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sized
from typing import NamedTuple, TypeAlias

import msgspec

from quorate.clock import Clock
from quorate.coordinator.engine.parts import PART_NODES
from quorate.coordinator.engine.status import status_parts
from quorate.coordinator.runs.outbox import Outbox
from quorate.coordinator.runs.run import Run
from quorate.coordinator.runs.store import RunStore
from quorate.errors import RendezvousLimitError
from quorate.wire.messages import Report, Status, report_of

__all__ = ["FRESH_S", "REPORTS_BY_CONNECTION_MAX", "Look", "Reports", "View"]

# What is in a report and changes without a revision: when nodes were heard, sizes of stores.
FRESH_S = 0.5

# One who looks waits for the answer, and then looks again.
REPORTS_BY_CONNECTION_MAX = 16

# The connections that wait for a report, each with the ids of its requests.
Askers: TypeAlias = dict[int, list[int]]


class View(NamedTuple):
    """What may be looked at: the coordinator's own, which changes while it is looked at.

    Args:
        name: The name of the coordinator.
        clock: Its wall clock.
        runs: Its runs, by their ids.
        stores: Their stores.
        peers: Its connections.
    """

    name: str
    clock: Clock
    runs: Mapping[str, Run]
    stores: Mapping[str, RunStore]
    peers: Sized

    def asked_for(self, run_id: str) -> dict[str, Run]:
        """Return the runs that a report shows, in its order.

        Args:
            run_id: The run that is asked for; empty for all.
        """
        keys = sorted(self.runs) if not run_id else self.runs.keys() & {run_id}
        return {key: self.runs[key] for key in keys}


class Look:
    """One report in the making.

    Args:
        view: What is looked at.
        run_id: The run that is asked for; empty for all.
        now_s: The present moment, on the engine's clock.

    Attributes:
        run_id: As above.
        report: The report once it is complete; its id is nobody's.
    """

    def __init__(self, view: View, run_id: str, now_s: float) -> None:
        self.run_id = run_id
        self.report: Report | None = None
        self._view = view
        self._begun_s = now_s
        # As they are shown; `None` until their turn has come.
        self._revisions: dict[str, int | None] = dict.fromkeys(view.asked_for(run_id))
        self._parts = status_parts(view.name, view.clock.now(), len(view.peers), self._turns())
        self._compressor = zlib.compressobj(level=1)
        self._compressed: list[bytes] = []

    def carry_on(self) -> None:
        """Do a slice: describe `PART_NODES` nodes or what takes as long, but less than twice."""
        weight, text = 0, b""
        for part_weight, part in self._parts:
            text += part
            weight += part_weight
            if weight >= PART_NODES:
                self._compressed.append(self._compressor.compress(text))
                return
        if not self._compressed:
            self.report = report_of(0, text)
            return
        self._compressed += [self._compressor.compress(text), self._compressor.flush()]
        self.report = Report(0, b"".join(self._compressed), compressed=True)

    def suits(self, run_id: str, now_s: float) -> bool:
        """Return whether who asks now may have it: nothing has happened that it does not show.

        Args:
            run_id: The run that is asked for; empty for all.
            now_s: The present moment, on the engine's clock.
        """
        if run_id != self.run_id or now_s - self._begun_s >= FRESH_S:
            return False
        runs = self._view.asked_for(run_id)
        return runs.keys() == self._revisions.keys() and all(
            self._revisions[key] is None or (self._revisions[key] == run.revision and not run.dirty)
            for key, run in runs.items()
        )

    def _turns(self) -> Iterator[tuple[Run, RunStore]]:
        """Yield the runs, each when its turn comes; those that are forgotten by then have none."""
        for run_id in list(self._revisions):
            run = self._view.runs.get(run_id)
            if run is not None:
                self._revisions[run_id] = run.revision
                yield run, self._view.stores[run_id]


class Reports:
    """Answers those who ask for a report. One at a time is made, in slices.

    Who asks while it is made shares it, or, where something has happened since that it does not
    show, the next one; a large one is kept for those who ask soon after.

    Args:
        view: What is looked at.
        outbox: Where the answers go.
    """

    def __init__(self, view: View, outbox: Outbox) -> None:
        self._view = view
        self._outbox = outbox
        self._look: Look | None = None
        self._askers: Askers = {}
        self._next: dict[str, Askers] = {}
        self._asked: Counter[int] = Counter()

    @property
    def under_way(self) -> bool:
        """Whether somebody waits for a report: `carry_on` makes it."""
        return bool(self._asked)

    def ask(self, connection: int, request: Status, now_s: float) -> None:
        """Take a request, and do a first slice if nothing else is being made.

        Args:
            connection: Who asks.
            request: What is asked.
            now_s: The present moment, on the engine's clock.

        Raises:
            RendezvousLimitError: This connection waits for too many reports.
        """
        if self._asked[connection] >= REPORTS_BY_CONNECTION_MAX:
            raise RendezvousLimitError(
                f"This connection waits for {REPORTS_BY_CONNECTION_MAX} reports already, and may "
                f"not for more: ask again once they have come."
            )
        is_first = not self.under_way
        self._asked[connection] += 1
        if self._look is not None and self._look.suits(request.run_id, now_s):
            askers = self._askers
        else:
            askers = self._next.setdefault(request.run_id, {})
        askers.setdefault(connection, []).append(request.id)
        if is_first:
            self.carry_on(now_s)

    def carry_on(self, now_s: float) -> None:
        """Do a slice of what somebody waits for, if anybody does.

        Args:
            now_s: The present moment, on the engine's clock.
        """
        if not self._askers and self._next:
            run_id = next(iter(self._next))
            self._askers = self._next.pop(run_id)
            self._look = Look(self._view, run_id, now_s)
        look = self._look
        if look is None or not self._askers:
            return
        if look.report is None:
            look.carry_on()
        if look.report is not None:
            self._answer(look.report)

    def closed(self, connection: int) -> None:
        """Note that a connection is gone: what nobody else waits for is not made."""
        if not self._asked.pop(connection, 0):
            return
        self._askers.pop(connection, None)
        for run_id, askers in list(self._next.items()):
            askers.pop(connection, None)
            if not askers:
                del self._next[run_id]
        if not self._askers and self._look is not None and self._look.report is None:
            self._look = None

    def _answer(self, report: Report) -> None:
        askers, self._askers = self._askers, {}
        for connection, request_ids in askers.items():
            self._asked[connection] -= len(request_ids)
            if not self._asked[connection]:
                del self._asked[connection]
            for request_id in request_ids:
                answer = msgspec.structs.replace(report, id=request_id)
                self._outbox.send(connection, answer)
        if not report.compressed:
            self._look = None
