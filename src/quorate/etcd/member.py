"""One process of etcd on this machine, and the data that it leaves."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quorate.errors import RendezvousConnectionError, RendezvousSettingsError
from quorate.identity import Endpoint
from quorate.launch.warden import end_groups, process_start, signal_group
from quorate.launch.wards import Wards

__all__ = ["BINARY_VARIABLE", "EtcdMember", "MemberAddress", "etcd_binary"]

BINARY_VARIABLE = "QUORATE_ETCD_BINARY_PATH"

HOST = "127.0.0.1"

# How much of etcd's log an error shows.
LOG_LINES_SHOWN = 5
LOG_BYTES_SHOWN = 4096


@dataclass(frozen=True)
class MemberAddress:
    """What the members of a cluster know of one of them.

    Attributes:
        name: Its name.
        client_port: Where clients find it.
        peer_port: Where the other members find it.
        client_scheme: `http` or `https`.
    """

    name: str
    client_port: int
    peer_port: int
    client_scheme: str = "http"

    @property
    def endpoint(self) -> Endpoint:
        """Where clients find it."""
        return Endpoint(HOST, self.client_port)

    @property
    def client_url(self) -> str:
        """The same as a URL."""
        return f"{self.client_scheme}://{self.endpoint}"

    @property
    def peer_url(self) -> str:
        """Where the other members find it."""
        return f"http://{HOST}:{self.peer_port}"


class EtcdMember:
    """One member of a cluster: started, killed, frozen and started again on the same data.

    Args:
        address: Its name and ports.
        cluster: All members, itself included.
        directory: Where its data and its log are kept.
        wards: Ends it when this process is gone.
        arguments: Further arguments of etcd.

    Raises:
        RendezvousSettingsError: There is no etcd on this machine.
    """

    def __init__(
        self,
        address: MemberAddress,
        cluster: Sequence[MemberAddress],
        directory: Path,
        wards: Wards,
        arguments: Sequence[str] = (),
    ) -> None:
        self.address = address
        self._command = command(etcd_binary(), address, cluster, directory, arguments)
        self._log_path = directory / f"{address.name}.log"
        self._wards = wards
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The id of its process.

        Raises:
            RendezvousConnectionError: It does not run.
        """
        if self._process is None or self._process.poll() is not None:
            raise RendezvousConnectionError(f"etcd {self.address.name} does not run: start it.")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether its process is there, frozen or not."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start its process; it takes a moment until it serves.

        Raises:
            RendezvousSettingsError: etcd cannot be run.
        """
        self.stop()
        try:
            with self._log_path.open("ab") as log:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        except OSError as error:
            raise RendezvousSettingsError(
                f"etcd cannot be run as {self._command[0]} ({error}): correct "
                f"{BINARY_VARIABLE}, or install etcd 3.4 or newer."
            ) from error
        self._wards.add(self._process.pid)

    def stop(self, grace_s: float = 3.0) -> None:
        """End its process: SIGTERM, and SIGKILL after `grace_s` seconds. Its data stay."""
        if self.is_running:
            self.thaw()
            end_groups({self.pid: process_start(self.pid)}, grace_s)
        self._release()

    def kill(self) -> None:
        """End its process with SIGKILL, as a crash would. Its data stay."""
        if self.is_running:
            signal_group(self.pid, signal.SIGKILL)
        self._release()

    def freeze(self) -> None:
        """Stop its process where it is; its connections stay open."""
        os.kill(self.pid, signal.SIGSTOP)
        # The signal takes effect later, on the processors on which its threads run.
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def thaw(self) -> None:
        """Let a frozen process go on."""
        os.kill(self.pid, signal.SIGCONT)

    def last_words(self) -> str:
        """Return the end of its log, for an error."""
        with contextlib.suppress(OSError):
            log = self._log_path.read_bytes()[-LOG_BYTES_SHOWN:].decode(errors="replace")
            return " | ".join(log.splitlines()[-LOG_LINES_SHOWN:])
        return "no log"

    def _release(self) -> None:
        if self._process is not None:
            self._wards.remove(self._process.pid)
            self._process.wait()
            self._process = None


def etcd_binary() -> str:
    """Return the program: what `QUORATE_ETCD_BINARY_PATH` names, or `etcd` of the PATH.

    Raises:
        RendezvousSettingsError: There is none.
    """
    given = os.environ.get(BINARY_VARIABLE)
    found = shutil.which(given or "etcd")
    if found is None:
        raise RendezvousSettingsError(
            f"{BINARY_VARIABLE} names {given}, which is no program: correct it."
            if given
            else "There is no etcd on this machine: install it (on Debian or Ubuntu, as root: "
            f"apt-get install etcd-server), or name its program with {BINARY_VARIABLE}."
        )
    return found


def command(
    binary: str,
    address: MemberAddress,
    cluster: Sequence[MemberAddress],
    directory: Path,
    arguments: Sequence[str],
) -> list[str]:
    """Return the command line of a member; its data are thrown away in the end, and not synced."""
    members = ",".join(f"{member.name}={member.peer_url}" for member in cluster)
    return [
        binary,
        f"--name={address.name}",
        f"--data-dir={directory / address.name}",
        f"--listen-client-urls={address.client_url}",
        f"--advertise-client-urls={address.client_url}",
        f"--listen-peer-urls={address.peer_url}",
        f"--initial-advertise-peer-urls={address.peer_url}",
        f"--initial-cluster={members}",
        "--initial-cluster-state=new",
        "--logger=zap",
        "--log-level=warn",
        "--unsafe-no-fsync",
        *arguments,
    ]
