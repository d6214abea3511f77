"""The `etcd` rendezvous: nodes that need nothing but an etcd, on leases and watches.

The rules are the coordinated way's, and so is the engine that applies them; it runs in one of the
nodes, over keys in place of sockets (`chair`, `mailroom`). A node that joins puts its key, of a
few hundred bytes, and reads another one. When the node that decides is lost, another one takes
over once the lease of the seat has lapsed: worlds and places stand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from quorate.api import RendezvousParameters
from quorate.config import (
    check_keys,
    local_addr_from,
    profile_from,
    read_timeout_from,
    settings_from,
)
from quorate.coordinated import CoordinatedRendezvousHandler, Session
from quorate.coordinator.ledgers.etcd_seat import LEASE_TTL_S
from quorate.core.node import NodeProfile
from quorate.core.settings import RendezvousSettings
from quorate.core.state import WorldName
from quorate.etcd.chair import Chair
from quorate.etcd.client import EtcdClient
from quorate.etcd.letters import Keys
from quorate.etcd.parameters import CLIENT_PORT, client_from, prefix_from
from quorate.etcd.session import EtcdSession
from quorate.identity import Endpoint, parse_rendezvous_endpoints
from quorate.stores.etcd import EtcdStore

__all__ = ["DEFAULT_PREFIX", "EtcdRendezvousHandler", "create_rdzv_handler"]

BACKEND = "etcd"

# PyTorch's.
DEFAULT_PREFIX = "/torchelastic/p2p"

# One try of a call by who decides; it is repeated for as long as it takes, but not after the end.
DECIDING_TIMEOUT_S = 3.0


class EtcdRendezvousHandler(CoordinatedRendezvousHandler):
    """One node's part in a run whose nodes meet in etcd; see `CoordinatedRendezvousHandler`.

    Args:
        settings: The settings of the run. A node's lease lives for `silence_s` less the reconnect
            grace: within the latter a node that lives can come back whose lease has ended, as all
            do while an etcd of a single member is frozen.
        client: The way to etcd for the node's session and its stores; closed with the handler.
        deciding: The way to etcd while this node decides, likewise; its timeout bounds one try.
        endpoints: The members of etcd, for people and to find this machine's address.
        etcd_prefix: Below what runs are kept, without a slash at the end.
        profile: What the node says about itself.
        local_addr: The address to advertise; the one that it speaks to etcd from if `None`.
    """

    def __init__(
        self,
        settings: RendezvousSettings,
        client: EtcdClient,
        deciding: EtcdClient,
        endpoints: Sequence[Endpoint],
        etcd_prefix: str = DEFAULT_PREFIX,
        profile: NodeProfile | None = None,
        local_addr: str | None = None,
    ) -> None:
        self._keys = Keys.of_run(etcd_prefix, settings.run_id)
        self._etcd = client
        super().__init__(settings, endpoints, profile, local_addr)
        self._chair = Chair(
            deciding,
            self._keys,
            settings.run_id,
            self._session,
            self._etcd_session.end,
            min(LEASE_TTL_S, max(1, round(settings.silence_s))),
        )

    @property
    def decides(self) -> bool:
        """Whether this node decides for the run at present, as far as it knows."""
        return self._chair.decides

    @property
    def session_name(self) -> str:
        """The name under which this node's keys lie, and which the seat has while it decides."""
        return self._session

    def get_backend(self) -> str:
        """See base class."""
        return BACKEND

    def _new_session(
        self, endpoints: Sequence[Endpoint], host: Callable[[Endpoint], None] | None
    ) -> Session:
        del host
        self._etcd_session = EtcdSession(
            self._etcd,
            endpoints,
            self._keys,
            self._session,
            self._hello,
            self._settings.silence_s - self._settings.reconnect_grace.total_seconds(),
        )
        return self._etcd_session

    def _store(self, world: WorldName) -> EtcdStore:
        return EtcdStore(self._etcd, self._keys.store(world))

    def _start(self) -> None:
        if not self._started:
            self._chair.start()
        super()._start()

    def _release(self) -> None:
        # The seat first: who takes it next sees the end of this node's key.
        self._chair.close()
        super()._release()
        self._etcd.close()


def create_rdzv_handler(params: RendezvousParameters) -> EtcdRendezvousHandler:
    """Return the handler for a node's parameters, `backend` being `etcd`.

    The endpoint names one member of etcd or several, as in ``h1:2379,h2:2379``. Keys as in
    PyTorch: ``timeout`` (here also ``join_timeout``) and ``last_call_timeout`` in seconds,
    ``etcd_prefix``, ``protocol``, ``cacert``, ``cert``, ``key``; all are in
    `docs/configuration.md`.

    Raises:
        RendezvousSettingsError: A parameter is wrong.
    """
    check_keys(params.config, BACKEND)
    timeout_s = min(DECIDING_TIMEOUT_S, read_timeout_from(params, DECIDING_TIMEOUT_S))
    deciding = _changed(params, read_timeout=timeout_s)
    return EtcdRendezvousHandler(
        _settings(params),
        client_from(params),
        client_from(deciding),
        parse_rendezvous_endpoints(params.endpoint, CLIENT_PORT),
        prefix_from(params, DEFAULT_PREFIX),
        profile_from(params),
        local_addr_from(params),
    )


def _settings(params: RendezvousParameters) -> RendezvousSettings:
    """Return the run's settings; `timeout` is PyTorch's name of `join_timeout`."""
    timeout_s = params.get_as_float("timeout")
    if timeout_s is not None and params.get("join_timeout") is None:
        params = _changed(params, join_timeout=timeout_s)
    return settings_from(params)


def _changed(params: RendezvousParameters, **config: float) -> RendezvousParameters:
    """Return the same parameters with some keys of the configuration changed."""
    return RendezvousParameters(
        params.backend,
        params.endpoint,
        params.run_id,
        params.min_nodes,
        params.max_nodes,
        params.local_addr,
        **{**params.config, **config},
    )
