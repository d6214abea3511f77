"""An etcd cluster on this machine, whose members can be killed, frozen and started again."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from quorate.api import free_port
from quorate.clock import Clock, SystemClock
from quorate.errors import RendezvousConnectionError
from quorate.etcd.client import EtcdClient
from quorate.etcd.member import EtcdMember, MemberAddress
from quorate.etcd.server import await_ready, temporary_directory
from quorate.identity import Endpoint
from quorate.launch.wards import Wards

__all__ = ["EtcdCluster"]

GRACE_S = 0.5
READY_S = 60.0


class EtcdCluster:
    """Several members of etcd as child processes; nothing of them outlives this process.

    Args:
        members: How many there are.
        arguments: Further arguments of each etcd.
        clock: Gives the time.
    """

    def __init__(
        self, members: int = 3, arguments: Sequence[str] = (), clock: Clock | None = None
    ) -> None:
        self._count = members
        self._arguments = tuple(arguments)
        self._clock = clock or SystemClock()
        self._wards: Wards | None = None
        self._members: list[EtcdMember] = []

    def __enter__(self) -> Self:
        """Call `start`, and return the cluster."""
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
    def members(self) -> Sequence[EtcdMember]:
        """The members: `kill`, `freeze`, `thaw` and `start` them; their order never changes."""
        return self._members

    @property
    def endpoints(self) -> list[Endpoint]:
        """Where clients find the members."""
        return [member.address.endpoint for member in self._members]

    def start(self, timeout_s: float = READY_S) -> None:
        """Start all members, and return once all of them serve.

        Raises:
            RendezvousError: One does not.
        """
        self.stop()
        self._wards = Wards(GRACE_S)
        directory = temporary_directory(self._wards)
        addresses = [
            MemberAddress(f"m{number}", free_port(), free_port()) for number in range(self._count)
        ]
        self._members = [
            EtcdMember(address, addresses, directory, self._wards, self._arguments)
            for address in addresses
        ]
        try:
            for member in self._members:
                member.start()
            self.await_ready(timeout_s)
        except BaseException:
            self.stop()
            raise

    def await_ready(self, timeout_s: float = READY_S) -> None:
        """Return once every member that runs serves.

        Raises:
            RendezvousTimeoutError: One did not in time.
        """
        running = [member for member in self._members if member.is_running]
        await_ready(running, timeout_s, self._clock)

    def stop(self) -> None:
        """End all members, and remove their data."""
        wards, self._wards = self._wards, None
        for member in self._members:
            member.kill()
        if wards is not None:
            wards.close()

    def client(self, timeout_s: float = 10.0) -> EtcdClient:
        """Return a new client that knows all members."""
        return EtcdClient(self.endpoints, timeout_s=timeout_s, clock=self._clock)

    def leader(self) -> EtcdMember:
        """Return the member that leads, as the members see it.

        Raises:
            RendezvousConnectionError: None of those that answer leads.
        """
        for member in self._members:
            if member.is_running and leads(member):
                return member
        raise RendezvousConnectionError("No member of the local etcd leads: wait for an election.")


def leads(member: EtcdMember) -> bool:
    """Return whether a member answers and says that it leads itself."""
    with EtcdClient([member.address.endpoint], timeout_s=1.0) as client:
        try:
            status = client.status()
        except RendezvousConnectionError:
            return False
    return status.leader == status.header.member_id != 0
