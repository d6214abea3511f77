"""What each request does, of those who have said hello. Pure: the engine stores, then answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from quorate.coordinator.engine.greeting import require_modest
from quorate.coordinator.engine.holdings import Holdings
from quorate.coordinator.engine.naming import nearest
from quorate.coordinator.engine.operators import act
from quorate.coordinator.engine.peer import Peer, Unmet
from quorate.coordinator.engine.reports import Reports
from quorate.coordinator.runs.outbox import Outbox
from quorate.coordinator.runs.run import Run
from quorate.errors import RendezvousError
from quorate.wire.messages import (
    Close,
    Finish,
    GetWorld,
    Hello,
    History,
    Join,
    Leave,
    OperatorRequest,
    Ping,
    Request,
    Status,
    StoreRequest,
    failure,
    record_of,
)

__all__ = ["Service"]

Met = TypeVar("Met")


class Service:
    """Hands each request to what it is about.

    Args:
        holdings: The runs and their stores.
        reports: Makes reports.
        outbox: Where answers go.
    """

    def __init__(self, holdings: Holdings, reports: Reports, outbox: Outbox) -> None:
        self._holdings = holdings
        self._reports = reports
        self._outbox = outbox

    def serve(self, connection: int, peer: Peer, message: Request, now_s: float) -> int:
        """Do what a peer asks for.

        Returns:
            How many bytes it gives the ledger to store in the stores of rounds, keys included.

        Raises:
            RendezvousError: The peer is refused: its connection is to be ended with this reason.
        """
        assert not isinstance(message, (Hello, Ping))
        try:
            return self._serve(connection, peer, message, now_s)
        except Unmet as unmet:
            self._outbox.send(connection, failure(message.id, unmet.error))
            return 0

    def _serve(self, connection: int, peer: Peer, message: Request, now_s: float) -> int:
        if isinstance(message, Status):
            _met(lambda: self._reports.ask(connection, message, now_s))
        elif isinstance(message, History):
            history = self._run(message.run_id).history
            self._outbox.send(connection, history.report(message.id))
        else:
            assert peer.run_id is not None
            self._run(peer.run_id)
            run = self._holdings.touch(peer.run_id)
            if isinstance(message, StoreRequest):
                return self._serve_store(connection, peer, run, message)
            self._serve_run(connection, peer, run, message)
        return 0

    def _serve_run(self, connection: int, peer: Peer, run: Run, message: Request) -> None:
        if isinstance(message, Join):
            session = peer.require_session(message)
            require_modest(message.profile)
            run.join(session, message)
        elif isinstance(message, Finish):
            run.finish(peer.require_session(message), message)
        elif isinstance(message, Leave):
            run.leave(peer.require_session(message), message)
        elif isinstance(message, OperatorRequest):
            peer.require_operator(message)
            self._outbox.send(connection, _met(lambda: act(run, message)))
        elif isinstance(message, Close):
            if peer.session is None:
                peer.require_operator(message)
            run.close(peer.session, connection, message)
        elif isinstance(message, GetWorld):
            self._outbox.send(connection, _met(lambda: record_of(message, run.state.world)))

    def _serve_store(self, connection: int, peer: Peer, run: Run, message: StoreRequest) -> int:
        store = self._holdings.stores[run.run_id]
        before = store.written_bytes
        held_s = store.handle(connection, peer.session_id, message)
        if held_s is not None:
            self._holdings.hold(run.run_id, connection, message.id, held_s)
        return store.written_bytes - before

    def _run(self, run_id: str) -> Run:
        run = self._holdings.runs.get(run_id)
        if run is None:
            similar = nearest(run_id, self._holdings.runs)
            raise Unmet(
                RendezvousError(
                    f"There is no run '{run_id}' at this coordinator{similar}: check the run id, "
                    f"or start it."
                )
            )
        return run


def _met(command: Callable[[], Met]) -> Met:
    """Carry out a command; what is wrong with it ends nothing but the command."""
    try:
        return command()
    except RendezvousError as error:
        raise Unmet(error) from error
