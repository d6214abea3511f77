"""What has happened in a run, written down: for the log, and for its history. Pure."""

from __future__ import annotations

from quorate.coordinator.runs.history import Event, History
from quorate.core.node import NodeDesc
from quorate.core.observer import Observer
from quorate.core.state import RendezvousState

__all__ = ["Minutes"]


class Minutes:
    """The minutes of one run.

    Args:
        run_id: The run.
        state: Its state.
        observer: Gives each event its moment.

    Attributes:
        events: What has happened, for the log; whoever has read it clears it.
        history: The rounds and the last events.
        because: Why the last round to complete was complete.
    """

    def __init__(self, run_id: str, state: RendezvousState, observer: Observer) -> None:
        self.events: list[Event] = []
        self.history = History(run_id, state)
        self.because = ""
        self._state = state
        self._observer = observer

    def note(self, text: str) -> None:
        """Write something down for the log alone."""
        self.events.append(Event(self._observer.stamp(), "", "", self._state.round, text))

    def record(self, kind: str, text: str, node: NodeDesc | None = None) -> None:
        """Write something down for the log and for the history.

        Args:
            kind: One of `quorate.coordinator.runs.history.EVENT_KINDS`.
            text: What has happened, for people.
            node: To whom, if to one.
        """
        state = self._state
        rank = state.participants.get(node) if state.complete and node is not None else None
        name = "" if node is None else str(node)
        event = Event(self._observer.stamp(), kind, name, state.round, text, rank)
        self.events.append(event)
        self.history.note(event)

    def observe(self) -> None:
        """Look at the state after a change of it: a round may have begun, be complete, or over."""
        self.history.observe(self._state, self._observer.stamp(), self.because)

    def why_ended(self) -> str:
        """Return why the last round has ended, for people; empty if there was none."""
        rounds = self.history.rounds
        return rounds[-1].ended_because if rounds else ""
