"""Status reports that are made once for all who ask at about the same time. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from quorate.coordinator.run import Run
from quorate.wire.messages import Report, Status, report_of

__all__ = ["FRESH_S", "Reports"]

# What is in a report and changes without a revision: when nodes were heard, sizes of stores.
FRESH_S = 0.5


class _Kept(NamedTuple):
    run_id: str
    revisions: dict[str, int]
    made_s: float
    report: Report


class Reports:
    """Keeps the last large report: one of 10,000 nodes takes 25 ms, in which nobody joins."""

    def __init__(self) -> None:
        self._kept: _Kept | None = None

    def answer(
        self, request: Status, runs: Mapping[str, Run], now_s: float, make: Callable[[], bytes]
    ) -> Report:
        """Return the answer to a request, made anew if a run has changed or the last one is old.

        Args:
            request: What is asked.
            runs: The runs that are to be in it, by their ids.
            now_s: The present moment, in seconds.
            make: Returns the report as JSON.
        """
        revisions = {run_id: run.revision for run_id, run in runs.items()}
        kept = self._kept
        if (
            kept is not None
            and (kept.run_id, kept.revisions) == (request.run_id, revisions)
            and now_s - kept.made_s < FRESH_S
        ):
            return msgspec.structs.replace(kept.report, id=request.id)
        report = report_of(request.id, make())
        if report.compressed:
            self._kept = _Kept(request.run_id, revisions, now_s, report)
        return report
