"""Who is attached to a run, and the state and settings that all who decide about it look at. Pure.

Every node of the state has a session here, and every session here a node in the state.
"""

from __future__ import annotations

from collections.abc import Callable

from quorate.coordinator.runs.session import Session
from quorate.coordinator.runs.tally import RunTally
from quorate.core.action import RendezvousContext
from quorate.core.exclusion import require_admissible
from quorate.core.node import NodeDesc
from quorate.core.observer import Observer
from quorate.core.settings import AgreedSettings, RendezvousSettings
from quorate.core.state import RendezvousState
from quorate.core.transitions import admit, withdraw
from quorate.errors import RendezvousReplacedError

__all__ = ["Roll"]


class Roll:
    """The roll of one run.

    Args:
        run_id: The run.
        state: Its state, new or loaded: every node of it is given a full window to come (R9).
        observer: Reads the engine's clock.
        tally: Where those who come and go are counted.
        touch: Notes that the state has to be stored, which nodes something has happened to, and
            whether others have changed places (`rearranged`).

    Attributes:
        sessions: The attached agents.
        strays: Those who are no part of the run any more, and may be connected all the same.
        moved: Whether somebody has come, gone, or changed places since this was last set to false.
    """

    def __init__(
        self,
        run_id: str,
        state: RendezvousState,
        observer: Observer,
        tally: RunTally,
        touch: Callable[..., None],
    ) -> None:
        self.run_id = run_id
        self.state = state
        self.observer = observer
        self.touch = touch
        self.sessions = {
            node: Session(node, profile, observer.now_s) for node, profile in state.profiles.items()
        }
        self.strays: dict[NodeDesc, Session] = {}
        self.moved = False
        self._tally = tally
        self._settings = state.agreed.to_settings(run_id) if state.agreed is not None else None

    @property
    def now_s(self) -> float:
        """The engine's time of the last reading, in seconds."""
        return self.observer.now_s

    @property
    def has_settings(self) -> bool:
        """Whether a first node has come."""
        return self._settings is not None

    @property
    def settings(self) -> RendezvousSettings:
        """The settings that the nodes agreed on; there is no run without a first node."""
        assert self._settings is not None
        return self._settings

    def context(self, session: Session | None) -> RendezvousContext:
        """Return what an operation of a session's node may look at; of nobody's for `None`."""
        if session is None:
            return self.anyone()
        return RendezvousContext(
            session.node, self.state, self.settings, self.observer, session.profile
        )

    def anyone(self) -> RendezvousContext:
        """Return a context for questions that do not depend on who asks."""
        return RendezvousContext(NodeDesc("", 0, 0), self.state, self.settings, self.observer)

    def is_attached(self, session: Session) -> bool:
        """Return whether a session is the present one of its node."""
        return self.sessions.get(session.node) is session

    def has_had_place(self, node: NodeDesc) -> bool:
        """Return whether a node has a place, has one kept, or came back too late for it.

        One that has left, and says so again since the answer was lost, is attached without one.
        """
        state = self.state
        return any(node in each for each in (state.participants, state.survivors, state.stragglers))

    def admit(self, session: Session) -> NodeDesc | None:
        """Let a node in.

        Returns:
            The former incarnation of which it takes the place, if one is attached (R12): see `end`.

        Raises:
            RendezvousEvictedError: The node is kept out of the run.
            RendezvousSettingsError: Its settings differ from the run's (R13).
        """
        require_admissible(self.state, self.run_id, session.node, session.profile)
        assert session.settings is not None
        self._agree(session.settings)
        node_id = session.profile.node_id
        former = self.state.identities.get(node_id) if node_id else None
        self.sessions[session.node] = session
        self.strays.pop(session.node, None)
        rearranged = admit(self.context(session))
        self.touch(session.node, rearranged=rearranged)
        self._tally.joins += 1
        self.moved = True
        if former is None or former == session.node:
            return None
        self.touch(former)
        return former if former in self.sessions else None

    def replaced_error(self, node_id: str, former: NodeDesc, newer: str) -> RendezvousReplacedError:
        """Return what a former incarnation of a node is told (R12)."""
        return RendezvousReplacedError(
            f"The node '{node_id}' has joined the run '{self.run_id}' again as {newer}: this "
            f"incarnation ({former}) must end."
        )

    def end(self, node: NodeDesc, cause: str) -> Session | None:
        """Strike off a node that the state does not have any more.

        Args:
            node: The node.
            cause: What it is counted under.

        Returns:
            Its session, if it was attached.
        """
        self._tally.losses[cause] += 1
        return self.sessions.pop(node, None)

    def withdraw(self, session: Session, reason: str, cause: str) -> None:
        """Take a node out of the run, and out of the state.

        Args:
            session: Its session; it stays known as a stray while it has a connection.
            reason: Why, for people.
            cause: What it is counted under.
        """
        self.sessions.pop(session.node, None)
        if session.connection is None:
            session.join = None
        else:
            self.strays[session.node] = session
        if session.node in self.state.last_heartbeats:
            state, settings = self.state, self.settings
            rearranged = withdraw(state, settings, session.node, reason, self.observer)
            self._tally.losses[cause] += 1
            self.touch(session.node, rearranged=rearranged)
            self.moved = True

    def _agree(self, settings: AgreedSettings) -> None:
        """Compare the settings of a node with the run's; while nobody is there, they become these.

        Raises:
            RendezvousSettingsError: They differ (R13).
        """
        if self.state.agreed is not None and self.state.last_heartbeats:
            self.state.agreed.require_same(self.run_id, settings)
        else:
            self._settings = settings.to_settings(self.run_id)
