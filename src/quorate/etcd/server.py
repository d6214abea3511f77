"""A local etcd, for tests and for jobs of a single host."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from quorate.api import free_port
from quorate.clock import Clock, SystemClock
from quorate.errors import (
    RendezvousConnectionError,
    RendezvousSettingsError,
    RendezvousTimeoutError,
)
from quorate.etcd.client import EtcdClient
from quorate.etcd.member import HOST, EtcdMember, MemberAddress
from quorate.identity import Endpoint
from quorate.launch.wards import Wards

__all__ = ["EtcdServer", "await_ready", "temporary_directory"]

logger = logging.getLogger(__name__)

# How long etcd has to end by itself.
GRACE_S = 3.0

READY_POLL_S = 0.05


class EtcdServer:
    """An etcd of one member as a child process; nothing of it outlives this process.

    It runs between `start` and `stop`, on free ports of the loopback address. Its data are not
    synced to disk, and removed in the end. If this process is killed, etcd ends all the same.

    Args:
        data_dir: A directory for the data that is empty or not there yet, and is removed too; a
            temporary one if None.
        arguments: Further arguments of etcd.
        clock: Gives the time.
    """

    def __init__(
        self,
        data_dir: str | None = None,
        arguments: Sequence[str] = (),
        clock: Clock | None = None,
    ) -> None:
        self._data_dir = data_dir
        self._arguments = tuple(arguments)
        self._clock = clock or SystemClock()
        self._wards: Wards | None = None
        self._member: EtcdMember | None = None

    def __enter__(self) -> Self:
        """Call `start`, and return the server."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Call `stop`."""
        self.stop()

    @property
    def pid(self) -> int:
        """The id of etcd's process."""
        return self._started().pid

    @property
    def address(self) -> Endpoint:
        """Where it serves."""
        return self._started().address.endpoint

    def start(self, timeout: float = 60, num_retries: int = 3) -> None:
        """Start etcd, and return once it serves.

        Args:
            timeout: How long one attempt may take, in seconds.
            num_retries: How many attempts there are; another program may take a port first.

        Raises:
            RendezvousSettingsError: There is no etcd that can be run, or `data_dir` is not empty.
            RendezvousTimeoutError: It did not serve in time.
            RendezvousConnectionError: It ended.
        """
        self.stop()
        for attempts_left in reversed(range(num_retries)):
            try:
                self._start(timeout)
                return
            except (RendezvousConnectionError, RendezvousTimeoutError) as error:
                self.stop()
                if attempts_left == 0:
                    raise
                logger.warning("%s Trying again on other ports.", error)
            except BaseException:
                self.stop()
                raise

    def stop(self) -> None:
        """End etcd, and remove its data; without effect where it does not run."""
        member, self._member = self._member, None
        wards, self._wards = self._wards, None
        if member is not None:
            member.stop(GRACE_S)
        if wards is not None:
            wards.close()

    def get_host(self) -> str:
        """Return the address on which it serves."""
        return HOST

    def get_port(self) -> int:
        """Return the port on which it serves."""
        return self.address.port

    def get_endpoint(self) -> str:
        """Return where it serves, as in ``127.0.0.1:2379``."""
        return str(self.address)

    def get_client(self, timeout_s: float = 10.0) -> EtcdClient:
        """Return a new client of it.

        Args:
            timeout_s: How long each call may take, in seconds.
        """
        return EtcdClient([self.address], timeout_s=timeout_s)

    def _started(self) -> EtcdMember:
        if self._member is None:
            raise RendezvousConnectionError("The local etcd does not run: call start() first.")
        return self._member

    def _start(self, timeout_s: float) -> None:
        self._wards = Wards(GRACE_S)
        directory = temporary_directory(self._wards, self._data_dir)
        address = MemberAddress("local", free_port(), free_port())
        self._member = EtcdMember(address, [address], directory, self._wards, self._arguments)
        self._member.start()
        await_ready([self._member], timeout_s, self._clock)


def temporary_directory(wards: Wards, given: str | None = None) -> Path:
    """Return a directory that goes with the wards: the one that was given, or a new one.

    Raises:
        RendezvousSettingsError: The one that was given holds something, which would be removed, or
            is no directory.
    """
    directory = Path(given or tempfile.mkdtemp(prefix="quorate-etcd-")).absolute()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        is_empty = not any(directory.iterdir())
    except (FileExistsError, NotADirectoryError):
        is_empty = False
    if not is_empty:
        raise RendezvousSettingsError(
            f"'{directory}' is not an empty directory, and the local etcd would remove it in the "
            f"end: name one that is empty, or not there yet."
        )
    wards.add_directory(directory)
    return directory


def await_ready(members: Sequence[EtcdMember], timeout_s: float, clock: Clock) -> None:
    """Return once every member has elected a leader and serves.

    Args:
        members: Members that were started and speak HTTP.
        timeout_s: How long it may take, in seconds.
        clock: Gives the time.

    Raises:
        RendezvousConnectionError: One has ended.
        RendezvousTimeoutError: One did not serve in time.
    """
    deadline = clock.monotonic() + timeout_s
    for member in members:
        with EtcdClient([member.address.endpoint], clock=clock) as client:
            while not serves(member, client):
                raise_if_late(member, clock.monotonic() - deadline, timeout_s)
                clock.sleep(READY_POLL_S)


def serves(member: EtcdMember, client: EtcdClient) -> bool:
    """Return whether a member serves; another etcd may have taken its port."""
    try:
        known = client.members(READY_POLL_S)
    except RendezvousConnectionError:
        return False
    is_own = any(member.address.peer_url in each.peer_urls for each in known)
    return is_own and client.is_healthy(READY_POLL_S)


def raise_if_late(member: EtcdMember, late_s: float, timeout_s: float) -> None:
    """Raise what is the matter with a member that does not serve, if it is time to say so."""
    what = f"The local etcd {member.address.name}"
    if not member.is_running:
        raise RendezvousConnectionError(
            f"{what} ended before it served: see its last words: {member.last_words()}"
        )
    if late_s > 0:
        raise RendezvousTimeoutError(
            f"{what} did not serve within {timeout_s:g} s: give it more time, or see its last "
            f"words: {member.last_words()}"
        )
