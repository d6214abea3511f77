"""From the name of a kind of rendezvous to a handler of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from quorate.api import RendezvousHandler, RendezvousParameters
from quorate.errors import RendezvousSettingsError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = [
    "ENTRY_POINT_GROUP",
    "RendezvousHandlerCreator",
    "RendezvousHandlerRegistry",
    "get_rendezvous_handler",
    "rendezvous_handler_registry",
]

logger = logging.getLogger(__name__)

ENTRY_POINT_GROUP = "quorate.handlers"

RendezvousHandlerCreator = Callable[[RendezvousParameters], RendezvousHandler]


class RendezvousHandlerRegistry:
    """Knows how to create a handler for each name."""

    def __init__(self) -> None:
        self._creators: dict[str, RendezvousHandlerCreator] = {}

    def register(self, backend: str, creator: RendezvousHandlerCreator) -> None:
        """Give a name to a way of creating handlers.

        Args:
            backend: The name, as users write it after `--rdzv-backend`.
            creator: Returns a handler for parameters; the handler's `get_backend` is the name.

        Raises:
            ValueError: The name is empty, or stands for another creator already.
        """
        if not backend:
            raise RendezvousSettingsError("A rendezvous backend must be registered under a name.")
        if self._creators.setdefault(backend, creator) is not creator:
            raise RendezvousSettingsError(
                f"The rendezvous backend '{backend}' is registered already, with "
                f"{self._creators[backend]}: choose another name than that for {creator}."
            )

    def create_handler(self, params: RendezvousParameters) -> RendezvousHandler:
        """Return a handler for the backend that the parameters name.

        Raises:
            ValueError: The backend is unknown, or the parameters make no sense to it.
            RuntimeError: The handler says that it is of another backend.
        """
        creator = self._creators.get(params.backend)
        if creator is None:
            raise RendezvousSettingsError(
                f"The rendezvous backend '{params.backend}' is unknown: use one of "
                f"{', '.join(sorted(self._creators))}, or install the package that brings it."
            )
        handler = creator(params)
        if handler.get_backend() != params.backend:
            raise RuntimeError(
                f"The handler that was created for the rendezvous backend '{params.backend}' says "
                f"that it is of '{handler.get_backend()}': its creator {creator} is at fault."
            )
        return handler


rendezvous_handler_registry = RendezvousHandlerRegistry()


def get_rendezvous_handler(params: RendezvousParameters) -> RendezvousHandler:
    """Return a handler for the backend that the parameters name.

    Built in are `quorate` (through a coordinator), `c10d` (through a torch store), `file` (the
    endpoint is a path that all nodes share), `memory` (threads of one process), `static` (fixed
    ranks), `etcd` (on leases and watches of etcd) and `etcd-v2` (over one key of it). A package
    adds one by an entry point of the group `quorate.handlers`: its name is the backend's, and it
    is a function without arguments that returns the creator.

    Raises:
        ValueError: The backend is unknown, or the parameters make no sense to it.
        RendezvousConnectionError: What the endpoint names cannot be reached.
    """
    _register_plugins_once()
    return rendezvous_handler_registry.create_handler(params)


def register_plugins(registry: RendezvousHandlerRegistry) -> None:
    """Register what installed packages bring; one that is broken costs a warning, no more."""
    # Reading what is installed takes longer than importing all of quorate.
    from importlib.metadata import entry_points

    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            registry.register(entry_point.name, _creator_of(entry_point))
        except Exception as error:
            logger.warning(
                "The rendezvous plug-in '%s' (%s) is broken and left out: %r. It must name a "
                "function without arguments that returns the creator of handlers.",
                entry_point.name,
                entry_point.value,
                error,
            )


@cache
def _register_plugins_once() -> None:
    register_plugins(rendezvous_handler_registry)


def _creator_of(entry_point: EntryPoint) -> RendezvousHandlerCreator:
    creator: RendezvousHandlerCreator = entry_point.load()()
    return creator


def _create_coordinated(params: RendezvousParameters) -> RendezvousHandler:
    # By name, because only those who ask for a coordinator need what it brings.
    create = import_module("quorate.coordinated").create_handler
    handler: RendezvousHandler = create(params)
    return handler


def _create_c10d(params: RendezvousParameters) -> RendezvousHandler:
    from quorate.backends.tcpstore import create_backend
    from quorate.config import check_keys
    from quorate.handler import create_handler

    check_keys(params.config, params.backend)
    backend, store = create_backend(params)
    return create_handler(store, backend, params)


def _create_file(params: RendezvousParameters) -> RendezvousHandler:
    from quorate.backends.file import FileRendezvousBackend
    from quorate.handler import create_handler
    from quorate.stores.backed import BackedStore

    if not params.endpoint.strip():
        raise RendezvousSettingsError(
            "The file rendezvous needs a path that all nodes share: give it as the endpoint. The "
            "files get the run id as their ending."
        )
    path = Path(params.endpoint.strip())
    if path.name in ("", ".."):
        raise RendezvousSettingsError(
            f"The endpoint '{params.endpoint}' of the file rendezvous ends without a name: give "
            f"the path of a file, as in {path / 'rendezvous'}."
        )
    name = f"{path.name}.{_quoted(params.run_id)}"
    store = BackedStore(FileRendezvousBackend(path.with_name(f"{name}.store")))
    return create_handler(store, FileRendezvousBackend(path.with_name(name)), params)


def _quoted(run_id: str) -> str:
    """Return a run id without dots and slashes, which part it from what is kept beside a state."""
    return quote(run_id, safe="").replace(".", "%2E")


def _create_memory(params: RendezvousParameters) -> RendezvousHandler:
    from quorate.backends.memory import MemoryRendezvousBackend
    from quorate.handler import create_handler
    from quorate.stores.backed import BackedStore

    name = _quoted(params.run_id)
    store = BackedStore(MemoryRendezvousBackend.shared(f"{name}/store"))
    return create_handler(store, MemoryRendezvousBackend.shared(name), params)


def _create_etcd_v2(params: RendezvousParameters) -> RendezvousHandler:
    from quorate.backends.etcd import create_backend
    from quorate.config import check_keys
    from quorate.handler import create_handler

    check_keys(params.config, params.backend)
    backend, store = create_backend(params)
    return create_handler(store, backend, params)


def _create_etcd(params: RendezvousParameters) -> RendezvousHandler:
    from quorate.etcd.rendezvous import create_rdzv_handler

    return create_rdzv_handler(params)


def _create_static(params: RendezvousParameters) -> RendezvousHandler:
    from quorate.static import create_handler

    return create_handler(params)


for _name, _creator in {
    "quorate": _create_coordinated,
    "c10d": _create_c10d,
    "file": _create_file,
    "memory": _create_memory,
    "static": _create_static,
    "etcd": _create_etcd,
    "etcd-v2": _create_etcd_v2,
}.items():
    rendezvous_handler_registry.register(_name, _creator)
