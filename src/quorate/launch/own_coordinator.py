"""A coordinator for a job of one node, which ends with that node's agent, however it ends."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

from quorate.coordinated import DEFAULT_PORT
from quorate.coordinator.host import CoordinatorHost
from quorate.credentials import Token
from quorate.errors import RendezvousConnectionError
from quorate.identity import Endpoint, parse_rendezvous_endpoints
from quorate.launch.wards import Wards
from quorate.tls import TlsFiles

__all__ = ["OwnCoordinator", "own_endpoint"]

# It keeps nothing that would be missed.
GRACE_S = 2.0


class OwnCoordinator:
    """A coordinator at a free port, which keeps no journal. Call `close` at the end.

    If this process ends without doing so, a warden sees to it, see `quorate.launch.wards`.

    Args:
        endpoint: Where it is to serve, with port 0.
        token: What it asks of everybody; `None` to let everybody in.
        tls: This node's files of TLS; `None` for plain connections.

    Attributes:
        endpoint: Where it serves.
        folder: What it writes, which goes with it.

    Raises:
        RendezvousConnectionError: The system refuses, or there is no certificate for TLS.
    """

    def __init__(self, endpoint: Endpoint, token: Token | None, tls: TlsFiles | None) -> None:
        self._wards = Wards(GRACE_S)
        self.folder = Path(tempfile.mkdtemp(prefix="quorate-run-"))
        self._wards.add_directory(self.folder)
        self._host = CoordinatorHost(state_dir=str(self.folder), memory=True, token=token, tls=tls)
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self.endpoint = self._start(endpoint)
            undo.pop_all()

    def close(self) -> None:
        """End it and remove its folder; nothing happens the second time."""
        self._wards.close()
        self._host.stop()

    def _start(self, endpoint: Endpoint) -> Endpoint:
        started = self._host.start(endpoint)
        if started is None:
            raise RendezvousConnectionError("No free port was found for a coordinator: try again.")
        for pid in self._host.pids:
            self._wards.add(pid)
        return started


def own_endpoint(text: str, max_nodes: int) -> Endpoint | None:
    """Return the endpoint if it asks for a coordinator of the node's own, else `None`.

    It does with port 0: any that is free. That is of use to one node alone, for no other one
    would find it.

    Raises:
        RendezvousSettingsError: The text is not an endpoint.
    """
    endpoints = parse_rendezvous_endpoints(text, DEFAULT_PORT)
    if max_nodes == 1 and len(endpoints) == 1 and endpoints[0].port == 0:
        return endpoints[0]
    return None
