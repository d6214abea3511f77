"""Starts a coordinator where an endpoint says that it should be, if that is this machine.

No host name is compared: an address is this machine's if a socket can be bound to it. Whoever
binds the port hands the listening sockets to a process of their own, so that there is no moment
in which a connection would be refused, and no second coordinator. It outlives this process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import subprocess
import threading
from pathlib import Path

from quorate.backends.disk import explaining_disk
from quorate.clock import Clock, SystemClock
from quorate.coordinator.ledgers.base import state_directory
from quorate.credentials import Token, exported
from quorate.errors import RendezvousConnectionError, translating
from quorate.identity import Endpoint, bind_all, listening_addresses, own_addresses
from quorate.program import command_of, with_own_path
from quorate.tls import TlsFiles

__all__ = ["CoordinatorHost", "serve_options"]

logger = logging.getLogger("quorate.host")

# An embedded coordinator ends this long after the last agent has gone.
IDLE_EXIT_S = 60.0

# It belongs to one job after another of its users: who starts a job again under the same id, a
# moment after it has ended, means a new one. Whoever was on the way at its end has come by then.
CLOSED_KEPT_S = 5.0

# A coordinator that could not go on, say for a damaged journal, is started again after this time.
RESTART_PAUSE_S = 10.0

# The log of an embedded coordinator starts anew when it has become longer than this.
LOG_BYTES_MAX = 16 * 1024 * 1024

# Its last line lies in so much of its end.
LOG_TAIL_BYTES = 4096


# What this process has started and still lives: it may outlive its host object, and Python would
# complain of a running child.
_started: list[subprocess.Popen[bytes]] = []


class CoordinatorHost:
    """Starts coordinators for endpoints of this machine.

    Args:
        is_host: `True` to listen whether or not the endpoint looks like this machine, `False`
            never to start one, `None` to find out.
        state_dir: Where the coordinator keeps its journal and its log; the user's state folder
            if `None`.
        memory: Keep no journal: runs die with the coordinator.
        clock: Measures how long ago a coordinator has failed.
        token: What the coordinator asks of everybody; `None` to let everybody in.
        tls: This node's files of TLS, which the coordinator gets: its certificate, and the
            authority that must have signed everybody else's; `None` for plain connections.
    """

    def __init__(
        self,
        is_host: bool | None = None,
        state_dir: str | None = None,
        memory: bool = False,
        clock: Clock | None = None,
        token: Token | None = None,
        tls: TlsFiles | None = None,
    ) -> None:
        self._tls_options = serve_options(tls)
        self._can_speak_tls = tls is None or bool(tls.cert_file)
        self._token = token
        self._is_host = is_host
        self._state_dir = state_dir
        self._memory = memory
        self._lock = threading.Lock()
        self._clock = clock or SystemClock()
        self._children: list[subprocess.Popen[bytes]] = []
        self._failure = ""
        self._failed_s: float | None = None

    @property
    def pids(self) -> list[int]:
        """The coordinators that were started; each leads a process group of its own."""
        return [child.pid for child in self._children]

    def __call__(self, endpoint: Endpoint) -> None:
        """Start a coordinator at the endpoint, if this machine may and nobody else has.

        Raises:
            RendezvousConnectionError: It may, but the system refuses, or the one that was started
                has failed a moment ago; or the endpoint has port 0, which nobody can dial.
        """
        if endpoint.port == 0:
            raise RendezvousConnectionError(
                f"There is no coordinator at port 0 ({endpoint}), and none is started for it: name "
                f"another port."
            )
        with self._lock:
            self._collect_ended(endpoint)
            if self._failed_s is not None:
                if self._clock.monotonic() - self._failed_s < RESTART_PAUSE_S:
                    raise RendezvousConnectionError(self._failure)
                self._failed_s = None
            if self._may_host(endpoint):
                self.start(endpoint)

    def start(self, endpoint: Endpoint) -> Endpoint | None:
        """Start a coordinator at an endpoint of this machine.

        Args:
            endpoint: Where; with port 0 a free one is taken.

        Returns:
            The endpoint with its real port, or `None` if another process has the port.

        Raises:
            RendezvousConnectionError: The system refuses, or there is no certificate for TLS.
        """
        if not self._can_speak_tls:
            raise RendezvousConnectionError(
                "This node has no certificate, which a coordinator of its own would need: give "
                "`tls_cert_file` and `tls_key_file`, or start the coordinator elsewhere."
            )
        listeners = bind_all(listening_addresses(endpoint), endpoint.port)
        if listeners is None:
            return None
        with contextlib.ExitStack() as closing:
            for listener in listeners:
                closing.enter_context(listener)
            port: int = listeners[0].getsockname()[1]
            descriptors = [listener.fileno() for listener in listeners]
            self._children.append(self._spawn(descriptors, port))
        started = Endpoint(endpoint.host, port)
        logger.info(
            "started a coordinator at %s (process %d, its log is %s)",
            started,
            self._children[-1].pid,
            self._log(port),
        )
        return started

    def stop(self) -> None:
        """End the coordinators that this one has started, and wait for their end."""
        with self._lock:
            for child in self._children:
                child.terminate()
            for child in self._children:
                child.wait()
            self._children.clear()

    def _may_host(self, endpoint: Endpoint) -> bool:
        if self._is_host is not None:
            return self._is_host
        try:
            return bool(own_addresses(endpoint))
        except RendezvousConnectionError:
            # Its name stands for nothing now: whoever dials it says so.
            return False

    def _collect_ended(self, endpoint: Endpoint) -> None:
        """Forget children that have ended; note why one failed, whose log nobody looks at.

        One that a signal has ended is not at fault itself.
        """
        for child in self._children:
            if (child.poll() or 0) > 0:
                log = self._log(endpoint.port)
                self._failed_s = self._clock.monotonic()
                self._failure = (
                    f"The coordinator that was started at {endpoint} ended with code "
                    f"{child.returncode}: {_last_line(log).rstrip('.')} (its log is {log})."
                )
        self._children = [child for child in self._children if child.returncode is None]

    def _log(self, port: int) -> Path:
        return state_directory(self._state_dir) / f"coordinator-{port}.log"

    def _spawn(self, descriptors: list[int], port: int) -> subprocess.Popen[bytes]:
        command = command_of("quorate", "serve", "--idle-exit", f"{IDLE_EXIT_S:g}")
        command += ["--closed-kept", f"{CLOSED_KEPT_S:g}", *self._tls_options]
        for descriptor in descriptors:
            command += ["--listen-fd", str(descriptor)]
        log = self._log(port)
        command += ["--memory"] if self._memory else ["--state-dir", str(log.parent)]
        with explaining_disk(f"Opening the log of a coordinator ({log})"):
            log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            output = _open_log(log)
        with translating({OSError: RendezvousConnectionError}, f"starting a coordinator ({log})"):
            try:
                child = subprocess.Popen(
                    command,
                    env=with_own_path(exported(self._token, os.environ)),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=descriptors,
                    start_new_session=True,
                )
            finally:
                os.close(output)
        # What has ended meanwhile is left to those who started it.
        _started[:] = [child, *(each for each in _started if each.poll() is None)]
        return child


def serve_options(tls: TlsFiles | None) -> list[str]:
    """Return the options of `quorate serve` for a node's files of TLS."""
    if tls is None:
        return []
    files = {"--tls-cert": tls.cert_file, "--tls-key": tls.key_file, "--tls-client-ca": tls.ca_file}
    return [word for flag, name in files.items() if name for word in (flag, name)]


def _last_line(log: Path) -> str:
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(log.stat().st_size - LOG_TAIL_BYTES, 0))
        lines = file.read().decode(errors="replace").split("\n")
        line = next((line for line in reversed(lines) if line.strip()), "")
        return line.removeprefix("quorate: ")
    return ""


def _open_log(log: Path) -> int:
    """Return a descriptor of a log to go on with; one that has become long begins anew."""
    # In a directory that others may write to, a link could stand here for any file of ours.
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(log, flags, 0o600)
    try:
        found = os.fstat(descriptor)
        is_own = stat.S_ISREG(found.st_mode) and found.st_nlink == 1
        if is_own and found.st_size > LOG_BYTES_MAX:
            os.ftruncate(descriptor, 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
