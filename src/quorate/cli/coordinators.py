"""The coordinators that a benchmark measures: started for it, and ended with it."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from quorate.api import free_port
from quorate.cli.serve import etcd_backend
from quorate.clock import SystemClock
from quorate.coordinator.host import CoordinatorHost
from quorate.credentials import Token, exported
from quorate.errors import RendezvousConnectionError, RendezvousSettingsError
from quorate.etcd.messages import prefix_end
from quorate.identity import Endpoint
from quorate.launch.wards import Wards

__all__ = ["BACKENDS", "Coordinators", "running"]

BACKENDS = "quorate (a journal), memory, etcd (a local cluster of three), or etcd://HOST:PORT,..."

# How many coordinators share an etcd.
SHARING = 2

START_TIMEOUT_S = 30.0
POLL_S = 0.05
GRACE_S = 5.0


class Coordinators(NamedTuple):
    """What agents are given, and what is known of the backend.

    Args:
        endpoints: Where the coordinators are.
        revision: Returns how many writes the backend has seen; `None` where nobody counts them.
        token: What they ask of agents, if they do.
    """

    endpoints: list[Endpoint]
    revision: Callable[[], int] | None = None
    token: Token | None = None


@contextlib.contextmanager
def running(
    backend: str, configuration: str = "", token: Token | None = None
) -> Iterator[Coordinators]:
    """Run coordinators for as long as the block lasts.

    Args:
        backend: See `BACKENDS`.
        configuration: How to reach etcd, as `quorate serve --backend-conf` takes it.
        token: What they ask of everybody; `None` to let everybody in.

    Raises:
        RendezvousSettingsError: There is no such backend.
        RendezvousConnectionError: A coordinator did not start.
    """
    if backend in {"quorate", "memory"}:
        with _alone(backend == "memory", token) as coordinators:
            yield coordinators
    elif backend == "etcd":
        from quorate.testing.etcd import EtcdCluster

        with EtcdCluster() as cluster:
            url = "etcd://" + ",".join(map(str, cluster.endpoints))
            with _sharing(url, "", token) as coordinators:
                yield coordinators
    elif backend.startswith("etcd://"):
        with _sharing(backend, configuration, token) as coordinators:
            yield coordinators
    else:
        raise RendezvousSettingsError(f"The backend '{backend}' is unknown: use {BACKENDS}.")


@contextlib.contextmanager
def _alone(memory: bool, token: Token | None) -> Iterator[Coordinators]:
    with tempfile.TemporaryDirectory(prefix="quorate-bench-") as folder:
        host = CoordinatorHost(state_dir=folder, memory=memory, token=token)
        endpoint = host.start(Endpoint("127.0.0.1", 0))
        if endpoint is None:
            raise RendezvousConnectionError("No free port was found: try again.")
        try:
            yield Coordinators([endpoint], token=token)
        finally:
            host.stop()


@contextlib.contextmanager
def _sharing(url: str, configuration: str, token: Token | None) -> Iterator[Coordinators]:
    """Run coordinators that share an etcd below a prefix of their own, and clean up."""
    members = url.removeprefix("etcd://").partition("/")[0]
    client, prefix = etcd_backend(
        f"etcd://{members}/quorate-bench-{secrets.token_hex(4)}", configuration
    )
    keys = f"{prefix}/".encode()
    with client, tempfile.TemporaryDirectory(prefix="quorate-bench-") as folder:
        # One that cannot be reached is told before anything is started.
        client.range(keys, count_only=True)
        try:
            with Wards(GRACE_S) as wards:
                backend = ("--backend", f"etcd://{members}{prefix}")
                flags = (*backend, "--backend-conf", configuration)
                endpoints = [
                    _serve(wards, Path(folder) / f"{number}.log", flags, token)
                    for number in range(SHARING)
                ]
                yield Coordinators(
                    endpoints, lambda: client.range(b"\0", count_only=True).header.revision, token
                )
        finally:
            client.delete(keys, prefix_end(keys))


def _serve(wards: Wards, log: Path, flags: tuple[str, ...], token: Token | None) -> Endpoint:
    """Start one coordinator, and return its endpoint once it decides or stands by."""
    endpoint = Endpoint("127.0.0.1", free_port())
    command = [sys.executable, "-m", "quorate", "serve", "--endpoint", str(endpoint), *flags]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=exported(token, os.environ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    wards.add(process.pid)
    clock = SystemClock()
    deadline = clock.monotonic() + START_TIMEOUT_S
    while clock.monotonic() < deadline and process.poll() is None:
        told = log.read_text(errors="replace")
        if "decides now" in told or "this one stands by" in told:
            return endpoint
        clock.sleep(POLL_S)
    last_word = log.read_text(errors="replace").rstrip().rpartition("\n")[2]
    raise RendezvousConnectionError(f"A coordinator did not start: {last_word}")
