"""What a benchmark measures: servers, started for it as processes of their own, and ended with it.

A subject is what the user names; a service is one life of its servers, of one measurement.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from quorate.bench.load import FLOOR, FLOOR_UVLOOP, SESSIONS
from quorate.bench.threads import PEERS
from quorate.cli.serve import etcd_backend
from quorate.clock import SystemClock
from quorate.coordinator.host import serve_options
from quorate.errors import RendezvousConnectionError, RendezvousSettingsError
from quorate.etcd.messages import prefix_end
from quorate.launch.wards import Wards
from quorate.program import command_of, with_own_path
from quorate.tls import TlsFiles

if TYPE_CHECKING:
    from quorate.etcd.client import EtcdClient

__all__ = ["BACKENDS", "COORDINATED", "Service", "Subject", "subject", "without_name_service"]

COORDINATED = {
    "quorate": "a coordinator with a journal",
    "memory": "a coordinator without one",
    "etcd": "two coordinators on a local cluster of three",
    "etcd://HOST:PORT,...": "two coordinators on that etcd",
}
OTHERS = {
    FLOOR: "a bare barrier on asyncio",
    FLOOR_UVLOOP: "the same on uvloop",
    "file": "the direct way over a file",
    "c10d": "the direct way over torch's TCPStore",
    "torch-c10d": "torch's own rendezvous over it",
    "lighthouse": "TorchFT's",
}
BACKENDS = "; ".join(f"{name}: {meaning}" for name, meaning in (COORDINATED | OTHERS).items())

# How many coordinators share an etcd.
SHARING = 2

HOST = "127.0.0.1"
START_TIMEOUT_S = 60.0
POLL_S = 0.02
GRACE_S = 5.0

_LISTENING = re.compile(r"listening on ([\w.]+:\d+)")
_READY = re.compile(r"decides now|this one stands by|runs are kept in memory|, journal ")


class _Server:
    """A process that says in its log where it listens.

    Args:
        command: Its command line; `{endpoint}` stands for where it must listen.
        log: The file that its output goes to.
        wards: What ends it, however this process ends.
        environment: Its environment.
        ready: What its log says once it serves.
    """

    def __init__(
        self,
        command: list[str],
        log: Path,
        wards: Wards,
        environment: Mapping[str, str],
        ready: re.Pattern[str] = _LISTENING,
    ) -> None:
        self._command = command
        self._log = log
        self._wards = wards
        self._ready = ready
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self.endpoint = f"{HOST}:0"

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, at the former endpoint if it had one, and return once it serves.

        Raises:
            RendezvousConnectionError: It does not.
        """
        self.spawn()
        self.await_ready()

    def spawn(self) -> None:
        """Start it and return at once."""
        command = [part.format(endpoint=self.endpoint) for part in self._command]
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=with_own_path(self._environment),
            )
        self._wards.add(self._process.pid)

    def await_ready(self) -> None:
        """Return once it serves.

        Raises:
            RendezvousConnectionError: It does not.
        """
        assert self._process is not None
        clock = SystemClock()
        deadline_s = clock.monotonic() + START_TIMEOUT_S
        while clock.monotonic() < deadline_s and self._process.poll() is None:
            told = self._log.read_text(errors="replace")
            listening = _LISTENING.search(told)
            if listening is not None and self._ready.search(told):
                self.endpoint = listening[1]
                return
            clock.sleep(POLL_S)
        last_word = self._log.read_text(errors="replace").rstrip().rpartition("\n")[2]
        raise RendezvousConnectionError(f"What is to be measured did not start: {last_word}")

    def kill(self) -> None:
        """Kill -9 and collect it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._wards.remove(self._process.pid)
            self._process = None


class Service:
    """The servers of one measurement.

    Args:
        servers: The processes; the first one is the one that can be killed and started again.
        endpoints: Where agents meet, if not at the servers.
        written: Returns how much the backend has stored, by the name of the measure.
    """

    def __init__(
        self,
        servers: list[_Server],
        endpoints: list[str] | None = None,
        written: Callable[[], dict[str, float]] = dict,
    ) -> None:
        self._servers = servers
        self._endpoints = endpoints
        self.written = written

    @property
    def endpoints(self) -> list[str]:
        """Where agents meet."""
        return self._endpoints or [server.endpoint for server in self._servers]

    @property
    def pids(self) -> list[int]:
        """The processes that serve."""
        return [server.pid for server in self._servers]

    def restart(self) -> None:
        """Kill -9 the first server, and start it again at once; returns before it serves."""
        self._servers[0].kill()
        self._servers[0].spawn()


class Site(NamedTuple):
    """Where and for whom servers are started.

    Args:
        nodes: How many agents will come at most.
        environment: The environment of the servers.
        wards: What ends them.
        folder: Where they keep their files.
    """

    nodes: int
    environment: Mapping[str, str]
    wards: Wards
    folder: Path


class Subject:
    """What the user named.

    Args:
        name: What it is called in tables; `load` is the kind of its agents, see
            `quorate.bench.load`.
        is_coordinated: Whether agents of a coordinator are what it serves.
        is_durable: Whether its runs outlive its servers.
        serve: Starts its servers.
    """

    def __init__(
        self,
        name: str,
        serve: Callable[[Site], AbstractContextManager[Service]],
        is_coordinated: bool = False,
        is_durable: bool = False,
    ) -> None:
        self.name = name
        self.load = SESSIONS if is_coordinated else name
        self.is_coordinated = is_coordinated
        self.is_durable = is_durable
        self._serve = serve

    @property
    def is_rehearsed(self) -> bool:
        """Whether a few agents may come before those that are measured."""
        return self.is_coordinated or self.name in {FLOOR, FLOOR_UVLOOP}

    @contextlib.contextmanager
    def serving(self, nodes: int, environment: Mapping[str, str]) -> Iterator[Service]:
        """Run its servers for as long as the block lasts.

        Args:
            nodes: How many agents will come at most.
            environment: The environment of the servers; it may name a token and the files of TLS.

        Raises:
            RendezvousConnectionError: They do not start.
        """
        with (
            tempfile.TemporaryDirectory(prefix="quorate-bench-") as folder,
            Wards(GRACE_S) as wards,
            self._serve(Site(nodes, environment, wards, Path(folder))) as service,
        ):
            yield service


def without_name_service(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which the C library asks no name server (resolv.conf(5)).

    Everything that is measured has loopback addresses, and the name service is not the subject:
    torch's TCPStore looks up the names of its peers, and where no name server answers each takes
    5 s.
    """
    return {**environment, "RES_OPTIONS": "attempts:0"}


@contextlib.contextmanager
def subject(name: str, configuration: str = "") -> Iterator[Subject]:
    """Prepare what a name stands for; an etcd that it needs runs as long as the block lasts.

    Args:
        name: See `BACKENDS`.
        configuration: How to reach etcd, as `quorate serve --backend-conf` takes it.

    Raises:
        RendezvousSettingsError: There is no such backend.
        RendezvousConnectionError: Its etcd cannot be reached.
    """
    if name in {"quorate", "memory"}:
        yield _alone(name)
    elif name == "etcd":
        from quorate.testing.etcd import EtcdCluster

        with EtcdCluster() as cluster:
            url = "etcd://" + ",".join(map(str, cluster.endpoints))
            shared = f"etcd ({SHARING} coordinators, {len(cluster.endpoints)} members)"
            yield _sharing(shared, url, "")
    elif name.startswith("etcd://"):
        # One that cannot be reached is told before anything is started.
        client, prefix = etcd_backend(name, configuration)
        with client:
            client.range(prefix.encode(), count_only=True)
        yield _sharing(f"etcd ({SHARING} coordinators)", name, configuration)
    elif name in OTHERS:
        yield _peer(name)
    else:
        raise RendezvousSettingsError(
            f"The backend '{name}' is unknown: use {', '.join(COORDINATED | OTHERS)}."
        )


def _alone(name: str) -> Subject:
    @contextlib.contextmanager
    def serve(site: Site) -> Iterator[Service]:
        kept = ["--memory"] if name == "memory" else ["--state-dir", str(site.folder)]
        server = _coordinator(kept, "coordinator.log", site)

        def written() -> dict[str, float]:
            sizes = [path.stat().st_size for path in site.folder.glob("*.journal")]
            return {"journal_bytes": sum(sizes)} if sizes else {}

        with _running([server]):
            yield Service([server], None, written)

    return Subject(name, serve, True, name != "memory")


def _sharing(name: str, url: str, configuration: str) -> Subject:
    """Coordinators that share an etcd below a prefix of their own, and clean up."""
    members = url.removeprefix("etcd://").partition("/")[0]

    @contextlib.contextmanager
    def serve(site: Site) -> Iterator[Service]:
        own = f"etcd://{members}/quorate-bench-{secrets.token_hex(4)}"
        flags = ["--backend", own, "--backend-conf", configuration]
        servers = [
            _coordinator(flags, f"coordinator-{number}.log", site) for number in range(SHARING)
        ]
        client, prefix = etcd_backend(own, configuration)
        with client, _removing(client, f"{prefix}/".encode()), _running(servers):
            yield Service(servers, None, lambda: _writes(client))

    return Subject(name, serve, True, True)


def _peer(name: str) -> Subject:
    @contextlib.contextmanager
    def serve(site: Site) -> Iterator[Service]:
        if name == "file":
            yield Service([], [str(site.folder / "state")])
            return
        program = command_of("quorate.bench.peer_server", name, str(site.nodes))
        environment = without_name_service(site.environment)
        server = _Server(program, site.folder / "server.log", site.wards, environment)
        with _running([server]):
            yield Service([server])

    assert name in {*PEERS, FLOOR, FLOOR_UVLOOP}
    return Subject(name, serve)


def _coordinator(flags: list[str], log: str, site: Site) -> _Server:
    command = command_of("quorate", "serve", "--endpoint", "{endpoint}", *flags)
    command += serve_options(TlsFiles.from_environment(site.environment))
    return _Server(command, site.folder / log, site.wards, site.environment, _READY)


@contextlib.contextmanager
def _running(servers: list[_Server]) -> Iterator[None]:
    """Start servers one after another, so that the first one decides; end them with the block."""
    try:
        for server in servers:
            server.start()
        yield
    finally:
        for server in servers:
            server.kill()


@contextlib.contextmanager
def _removing(client: EtcdClient, keys: bytes) -> Iterator[None]:
    try:
        yield
    finally:
        client.delete(keys, prefix_end(keys))


def _writes(client: EtcdClient) -> dict[str, float]:
    return {"etcd_writes": client.range(b"\0", count_only=True).header.revision}
