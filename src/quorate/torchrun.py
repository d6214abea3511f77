"""The rendezvous of `torchrun --rdzv-backend=quorate`: torch's types outside, ours inside.

What torch's agent (2.5 to 2.13) does with a handler, and what follows from it here:

* It exchanges the roles of its workers through the round's store before it starts them, and waits
  for the other agents in the same store after they have finished. A member that is lost in
  between would hold all others up until a timeout ends them. `TorchStore` notices (R8), and
  answers in the lost one's place, so that they reach the loop in which they regroup.
* `shutdown()` is called after success, after a failure and after errors, without saying which:
  `sys.exc_info()` tells. It must not raise, else it hides the failure of a worker (R7).
* A graceful exit is not understood by the launcher: a spare ends by `SystemExit(0)`.
* An error in `num_nodes_waiting()` ends the agent: it never raises.
"""

from __future__ import annotations

import atexit
import json
import logging
import re
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import api as torch_api

from quorate.api import RendezvousHandler, RendezvousInfo, RendezvousParameters
from quorate.clock import Clock, SystemClock
from quorate.config import check_keys, read_timeout_from, settings_from
from quorate.coordinated import BACKEND, CoordinatedRendezvousHandler
from quorate.credentials import token_from
from quorate.errors import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousError,
    RendezvousGracefulExitError,
    RendezvousSettingsError,
    RendezvousStateError,
    RendezvousTimeoutError,
    RendezvousUnhealthyError,
    StoreTimeoutError,
)
from quorate.launch.agent import SUCCEEDED
from quorate.launch.health import HEALTH_KEYS, HealthCheck, Infirmary, take_health_check
from quorate.launch.own_coordinator import OwnCoordinator, own_endpoint
from quorate.launch.wards import Wards
from quorate.printable import printable
from quorate.registry import get_rendezvous_handler
from quorate.stores.base import Store
from quorate.tls import tls_files_from

__all__ = ["TorchRendezvousHandler", "TorchStore", "create_handler"]

logger = logging.getLogger("quorate.torchrun")

Result = TypeVar("Result")

# How long torch's own stores wait unless they are told otherwise.
STORE_TIMEOUT = timedelta(seconds=300)

# The keys that describe torch's store.
STORE_KEYS = {"store_type", "read_timeout"}

# While it waits for a key, a store looks this often whether the one that should set it is gone.
LOOK_EVERY_S = 0.5

# The private keys of torch's agent, as of 2.5 to 2.13.
ROLE_INFO = re.compile(r"torchelastic/role_info/(\d+)")
ASSIGNED_RANKS = re.compile(r"torchelastic/assigned_ranks/(\d+)")
EXIT_BARRIER = "torchelastic/agent/terminal_state"

_TORCH_ERRORS: dict[type[RendezvousError], type[Exception]] = {
    RendezvousClosedError: torch_api.RendezvousClosedError,
    RendezvousTimeoutError: torch_api.RendezvousTimeoutError,
    RendezvousConnectionError: torch_api.RendezvousConnectionError,
    RendezvousStateError: torch_api.RendezvousStateError,
}


class TorchStore(dist.Store):
    """A round's store as torch wants it, which answers for members that are lost.

    Args:
        store: The round's store.
        size: The number of nodes of the round.
        is_broken: Whether the world has lost a member, or its members have begun to regroup.
        is_closed: Whether the run is closed.
        on_finish: Called when the agent begins to wait for the others after its work is done.
        timeout: How long calls wait that name no timeout of their own.
        clock: Measures waits.
    """

    def __init__(
        self,
        store: Store,
        size: int,
        is_broken: Callable[[], bool],
        is_closed: Callable[[], bool],
        on_finish: Callable[[], None],
        timeout: timedelta = STORE_TIMEOUT,
        clock: Clock | None = None,
    ) -> None:
        super().__init__()
        self._store = store
        self._size = size
        self._is_broken = is_broken
        self._is_closed = is_closed
        self._on_finish = on_finish
        self._clock = clock or SystemClock()
        self._timeout = timeout
        self._own_role: dict[str, Any] = {}

    @property
    def timeout(self) -> timedelta:
        """How long calls wait that name no timeout of their own."""
        return self._timeout

    def set_timeout(self, timeout: timedelta) -> None:
        """Set how long calls wait that name no timeout of their own."""
        self._timeout = timeout

    def set(self, key: str, value: bytes | str) -> None:
        """Give a key a value."""
        if ROLE_INFO.fullmatch(key):
            self._own_role = json.loads(value)
        self._call(lambda: self._store.set(key, value))

    def get(self, key: str) -> bytes:
        """Return a key's value, waiting for it if need be."""
        return self.multi_get([key])[0]

    def multi_get(self, keys: Sequence[str]) -> list[bytes]:
        """Return the values of several keys, waiting for them if need be."""
        all_there = self._wait(keys, self._timeout)
        return [
            self._present(key) if all_there or self.check([key]) else self._stand_in(key)
            for key in keys
        ]

    def multi_set(self, keys: Sequence[str], values: Sequence[bytes | str]) -> None:
        """Give several keys their values."""
        for key, value in zip(keys, values, strict=True):
            self.set(key, value)

    def add(self, key: str, value: int) -> int:
        """Add to a number, 0 if it is absent, and return the sum."""
        if key.startswith(EXIT_BARRIER):
            self._call(self._on_finish)
        return self._call(lambda: self._store.add(key, value))

    def compare_set(self, key: str, expected: bytes | str, desired: bytes | str) -> bytes:
        """Replace a value if it is the expected one, and return the value after the call."""
        return self._call(lambda: self._store.compare_set(key, expected, desired))

    def wait(self, keys: Sequence[str], timeout: timedelta | None = None) -> None:
        """Return once all keys are there."""
        self._wait(keys, self._timeout if timeout is None else timeout)

    def check(self, keys: Sequence[str]) -> bool:
        """Return whether all keys are there now."""
        return self._call(lambda: self._store.check(keys))

    def delete_key(self, key: str) -> bool:
        """Remove a key, and return whether it was there."""
        return self._call(lambda: self._store.delete(key))

    def num_keys(self) -> int:
        """Return the number of keys of the round."""
        return self._call(self._store.num_keys)

    def _wait(self, keys: Sequence[str], timeout: timedelta) -> bool:
        """Wait for keys, but not for those of a member that will never set them.

        Returns:
            Whether all keys are there.
        """
        deadline_s = self._clock.monotonic() + timeout.total_seconds()
        while True:
            remaining_s = deadline_s - self._clock.monotonic()
            try:
                self._store.wait(keys, min(LOOK_EVERY_S, max(remaining_s, 0.0)))
                return True
            except StoreTimeoutError as error:
                if all(self._is_given_up(key) for key in keys):
                    return False
                if remaining_s <= 0:
                    raise dist.DistStoreError(str(error)) from error
            except RendezvousError as error:
                raise dist.DistStoreError(str(error)) from error

    def _present(self, key: str) -> bytes:
        return self._call(lambda: self._store.get(key, LOOK_EVERY_S))

    def _is_given_up(self, key: str) -> bool:
        if key.startswith(EXIT_BARRIER):
            return self._is_broken() or self._is_closed()
        if ROLE_INFO.fullmatch(key) or ASSIGNED_RANKS.fullmatch(key):
            return self._is_broken()
        return False

    def _stand_in(self, key: str) -> bytes:
        """Return what a lost member would have said: enough to start workers that stop at once."""
        workers = int(self._own_role.get("local_world_size", 1))
        if match := ROLE_INFO.fullmatch(key):
            return json.dumps(self._own_role | {"rank": int(match[1])}).encode()
        match = ASSIGNED_RANKS.fullmatch(key)
        assert match is not None, f"nobody stands in for {key}"
        first, total = int(match[1]) * workers, self._size * workers
        return json.dumps([first, total, first, total]).encode()

    def _call(self, function: Callable[[], Result]) -> Result:
        try:
            return function()
        except RendezvousError as error:
            raise dist.DistStoreError(str(error)) from error


class TorchRendezvousHandler(torch_api.RendezvousHandler):
    """A handler of ours, as torch's agent wants it.

    Args:
        handler: Ours.
        store_timeout: How long calls of the round's store wait that name no timeout of their own.
        health_check: What has to succeed before each join; `None` if nothing has to.
        coordinator: Its own, which ends with it, if it has one.
    """

    def __init__(
        self,
        handler: RendezvousHandler,
        store_timeout: timedelta = STORE_TIMEOUT,
        health_check: HealthCheck | None = None,
        coordinator: OwnCoordinator | None = None,
    ) -> None:
        self._handler = handler
        self._coordinator = coordinator
        self._health_check = health_check
        self._store_timeout = store_timeout
        self._was_in_world = False
        self._is_unreachable = False
        self._ended = False
        # A caller that launches a job while it handles an error of another one: not this job's.
        self._handled_before = sys.exc_info()[1]

    @property
    def use_agent_store(self) -> bool:
        """Whether rank 0's agent serves the workers' store; else rank 0's worker does."""
        return self._handler.use_agent_store

    def get_backend(self) -> str:
        """Return the name under which torchrun asked for it."""
        return BACKEND

    def get_run_id(self) -> str:
        """Return the id of the run."""
        return self._handler.get_run_id()

    def next_rendezvous(self) -> torch_api.RendezvousInfo:
        """Join the next round, and wait until it is complete.

        Raises:
            SystemExit: The run has ended, and this node was not needed: exit code 0. Or torchrun
                is to end with one line, as for settings that differ from the run's.
            RendezvousError: torch's error for what went wrong.
        """
        try:
            self._await_health()
            info = self._handler.next_rendezvous()
        except RendezvousGracefulExitError as error:
            self._end_unneeded(str(error))
        except RendezvousError as error:
            if isinstance(error, RendezvousSettingsError | RendezvousUnhealthyError):
                _end_with_one_line(error)
            raise _translated(error) from error
        self._was_in_world = True
        return self._info(info)

    def _await_health(self) -> None:
        if self._health_check is not None:
            with Wards(grace_s=0.0) as wards:
                Infirmary(self._health_check, self._handler, logger.warning).await_health(wards)

    def is_closed(self) -> bool:
        """Return whether the run is closed."""
        return self._translating(self._handler.is_closed)

    def set_closed(self) -> None:
        """Close the run."""
        self._translating(self._handler.set_closed)

    def num_nodes_waiting(self) -> int:
        """Return how many nodes give reason to regroup; while nobody can be asked, none (R11)."""
        try:
            waiting = self._handler.num_nodes_waiting()
        except RendezvousError as error:
            if not self._is_unreachable:
                logger.warning("the workers go on, though nobody tells of changes: %s", error)
            self._is_unreachable = True
            return 0
        self._is_unreachable = False
        return waiting

    def shutdown(self) -> bool:
        """Tell the others how it ended, as the exception under way has it. Never raises."""
        if self._ended:
            return True
        self._ended = True
        error = sys.exc_info()[1]
        if error is self._handled_before:
            error = None
        try:
            self._part(error)
        # Whatever it is: raised here, it would hide the failure that ends this agent.
        except Exception as error:
            logger.warning("the others could not be told how this node ended: %s", error)
            return False
        finally:
            if self._coordinator is not None:
                atexit.unregister(self._coordinator.close)
                self._coordinator.close()
        return True

    def _part(self, error: BaseException | None) -> None:
        if not self._was_in_world:
            self._handler.leave("was in no world")
        elif error is None:
            self._succeed()
        elif isinstance(error, ChildFailedError):
            self._handler.fail(f"failed: {_first_line(error)}")
            self._handler.leave("its workers have failed")
        else:
            self._handler.leave(f"ended by {type(error).__name__}: {_first_line(error)}")

    def _succeed(self) -> None:
        reason = f"{SUCCEEDED}: the workers have finished"
        if isinstance(self._handler, CoordinatedRendezvousHandler):
            if not self._handler.is_closed():
                self._handler.succeed(reason)
            self._handler.leave("its workers have finished")
        else:
            self._handler.shutdown()

    def _end_unneeded(self, why: str) -> None:
        logger.info("not needed: %s", why)
        self._ended = True
        try:
            self._handler.leave("was not needed")
        except RendezvousError as error:
            logger.warning("could not leave in an orderly way: %s", error)
        raise SystemExit(0)

    def _info(self, info: RendezvousInfo) -> torch_api.RendezvousInfo:
        bootstrap = info.bootstrap_store_info
        assert bootstrap is not None
        return torch_api.RendezvousInfo(
            self._store(info),
            info.rank,
            info.world_size,
            torch_api.RendezvousStoreInfo(bootstrap.master_addr, bootstrap.master_port),
        )

    def _store(self, info: RendezvousInfo) -> dist.Store:
        if isinstance(info.store, dist.Store):
            return info.store
        handler = self._handler
        if isinstance(handler, CoordinatedRendezvousHandler):
            return TorchStore(
                info.store,
                info.world_size,
                lambda: handler.is_world_broken,
                handler.is_closed,
                handler.finish,
                self._store_timeout,
            )
        return TorchStore(
            info.store,
            info.world_size,
            lambda: False,
            lambda: False,
            lambda: None,
            self._store_timeout,
        )

    def _translating(self, function: Callable[[], Result]) -> Result:
        try:
            return function()
        except RendezvousError as error:
            raise _translated(error) from error


def create_handler(params: torch_api.RendezvousParameters) -> TorchRendezvousHandler:
    """Return the handler for torchrun's parameters.

    `--rdzv-conf kind=NAME` chooses another kind of rendezvous of ours, see `quorate.registry`.
    The key cannot be `backend`: torch's launcher would pass that argument twice, and fail.

    Raises:
        ValueError: A parameter is wrong.
        SystemExit: The same, where torchrun is the program: it ends with one line.
    """
    try:
        return _create_handler(params)
    except RendezvousSettingsError as error:
        _end_with_one_line(error)
        raise


def _create_handler(params: torch_api.RendezvousParameters) -> TorchRendezvousHandler:
    config = dict(params.config)
    backend = config.pop("kind", BACKEND)
    health = {key: config.pop(key) for key in HEALTH_KEYS if key in config}
    own = RendezvousParameters(
        backend,
        params.endpoint,
        params.run_id,
        params.min_nodes,
        params.max_nodes,
        params.local_addr,
        **config,
    )
    store_timeout = STORE_TIMEOUT
    if backend == BACKEND:
        store_timeout = _take_store_keys(own)
    settings = settings_from(own)
    health_check = None
    if health:
        health_check = take_health_check(health, settings.timeout.join.total_seconds())
    free = own_endpoint(own.endpoint, own.max_nodes) if backend == BACKEND else None
    if free is None:
        return TorchRendezvousHandler(get_rendezvous_handler(own), store_timeout, health_check)
    check_keys(own.config, backend)
    coordinator = OwnCoordinator(free, token_from(own.get("token_file")), tls_files_from(own))
    # torch does not call `shutdown` where a signal ends it.
    atexit.register(coordinator.close)
    own.endpoint = str(coordinator.endpoint)
    own.config = {"state_dir": coordinator.folder, **own.config}
    return TorchRendezvousHandler(
        get_rendezvous_handler(own), store_timeout, health_check, coordinator
    )


def _end_with_one_line(error: RendezvousError) -> None:
    """End torchrun without a traceback, if it is the program; say how the error ends quorate's.

    Raises:
        SystemExit: With the error's exit code.
    """
    if is_torchrun(sys.argv[0]):
        print(printable(f"quorate: {error}"), file=sys.stderr)
        raise SystemExit(error.exit_code)


def is_torchrun(program: str) -> bool:
    """Return whether a program, as `sys.argv[0]` names it, is torchrun or its module."""
    path = Path(program)
    is_module = path.parts[-3:-1] == ("torch", "distributed") and path.stem in {"run", "launch"}
    return path.name == "torchrun" or is_module


def _take_store_keys(params: RendezvousParameters) -> timedelta:
    """Take the keys that describe torch's store out of parameters for our own.

    Returns:
        The timeout of the store: `read_timeout`, in seconds.

    Raises:
        RendezvousSettingsError: They ask for something that the coordinator's store is not.
    """
    store_type = params.get_as_text("store_type", "tcp").lower()
    if store_type != "tcp":
        raise RendezvousSettingsError(
            f"The configuration option 'store_type' is '{store_type}', but the rendezvous backend "
            f"'{BACKEND}' keeps its own store: leave the option out, or add kind=c10d."
        )
    timeout_s = read_timeout_from(params, STORE_TIMEOUT.total_seconds())
    params.config = {key: value for key, value in params.config.items() if key not in STORE_KEYS}
    return timedelta(seconds=timeout_s)


def _translated(error: RendezvousError) -> Exception:
    """Return torch's error for one of ours; its launcher understands no other."""
    for own, torch_error in _TORCH_ERRORS.items():
        if isinstance(error, own):
            return torch_error(str(error))
    unknown: Exception = torch_api.RendezvousError(str(error))
    return unknown


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" =-\n")]
    return lines[0] if lines else type(error).__name__
