"""The store of a worker's own round, for programs that `quorate run` started."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping

from quorate.coordinator.agent.client import Client
from quorate.coordinator.agent.remote_store import TIMEOUT_S, RemoteStore
from quorate.core.settings import PROTOCOL_VERSION
from quorate.credentials import token_from
from quorate.errors import RendezvousSettingsError
from quorate.identity import Endpoint, parse_rendezvous_endpoints
from quorate.tls import TlsFiles, client_contexts
from quorate.wire.messages import ROLE_STORE, Hello

__all__ = ["worker_store"]

_NEEDED = ("QUORATE_ENDPOINT", "QUORATE_RUN_ID", "QUORATE_EPOCH", "QUORATE_ROUND")

# A worker's store beats at this interval, and redials when it passes without an answer.
INTERVAL_S = 5.0


def worker_store(
    environment: Mapping[str, str] = os.environ, timeout_s: float = TIMEOUT_S
) -> RemoteStore:
    """Return the store that the workers of this round share.

    Keys of other rounds are not in it: a restarted worker meets nothing of its former life.
    A process that a worker forks, as a DataLoader does, cannot use the worker's: it makes its own.

    Args:
        environment: What `quorate run` has told the worker.
        timeout_s: How long calls wait that name no timeout of their own.

    Raises:
        RendezvousSettingsError: The program was not started by `quorate run`, or the job has
            another kind of rendezvous than the coordinator.
    """
    if "QUORATE_RUN_ID" in environment and "QUORATE_ENDPOINT" not in environment:
        raise RendezvousSettingsError(
            "This job was started with another --rdzv-backend than 'quorate', and it is the "
            "coordinator of that one that keeps the workers' store: leave the option out."
        )
    missing = [name for name in _NEEDED if name not in environment]
    if missing:
        raise RendezvousSettingsError(
            f"{', '.join(missing)} is not set: only a worker that `quorate run` started has a "
            f"store. Start this program with `quorate run`."
        )
    endpoint, run_id, epoch, number = (environment[name] for name in _NEEDED)
    session = secrets.token_hex(8)

    def hello(endpoint: Endpoint, local_addr: str) -> Hello:
        del endpoint, local_addr
        return Hello(PROTOCOL_VERSION, ROLE_STORE, run_id, session)

    client = Client(
        parse_rendezvous_endpoints(endpoint, 0),
        hello,
        INTERVAL_S,
        token=token_from(environment=environment),
        tls=client_contexts(TlsFiles.from_environment(environment)),
    )
    client.start()
    return RemoteStore(client, (epoch, int(number)), timeout_s, owns_client=True)
