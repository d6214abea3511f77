"""Agents whose world changes over and over, and a crowd of hostile clients to put beside them."""

from __future__ import annotations

import json
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from quorate.coordinator.host import serve_options
from quorate.core.settings import RendezvousSettings
from quorate.identity import Endpoint
from quorate.tls import TlsFiles, client_contexts
from tests.certificates import Authority
from tests.conftest import wait_until
from tests.e2e.cluster import Cluster, Program
from tests.e2e.load import Guards, Load, load_loop
from tests.served import token

HOSTILE_PROGRAM = Path(__file__).with_name("hostile_program.py")

AGENTS = 200
HOSTILE = 1000
KINDS = 9
TOGETHER_WITHIN_S = 30.0


class Secrets:
    """What opens a coordinator, as its agents and as the hostile clients have it.

    Args:
        folder: Where the files are to lie.
        secured: Whether there is TLS besides the token.
    """

    def __init__(self, folder: Path, secured: bool) -> None:
        self.token = secrets.token_hex(16)
        self._file = folder / "token"
        self._file.write_text(self.token)
        self._file.chmod(0o600)
        self.files = Authority(folder / "certificates").issue("node") if secured else None

    @property
    def guards(self) -> Guards:
        return Guards(
            token(self.token.encode()), client_contexts(self.files) if self.files else None
        )

    def serve(self, cluster: Cluster) -> Program:
        """Start a coordinator that asks for the token, and not for the clients' certificates."""
        shown = TlsFiles("", self.files.cert_file, self.files.key_file) if self.files else None
        return cluster.serve("--token-file", str(self._file), *serve_options(shown))


@contextmanager
def hostile(endpoint: str, known: Secrets, without: Sequence[str] = ()) -> Iterator[dict[str, int]]:
    """Let them at it; at the end the result says how often each kind has attacked.

    Each has attacked, and nothing went wrong with any that was not meant to.

    Args:
        endpoint: Whom they turn to.
        known: What they know: they use it as `hostile_program` says.
        without: Kinds that stay away; others come in their place.
    """
    attacks: dict[str, int] = {}
    options = [f"--without={kind}" for kind in without]
    if known.files is not None:
        options += ["--tls", known.files.ca_file, known.files.cert_file, known.files.key_file]
    with subprocess.Popen(
        [sys.executable, str(HOSTILE_PROGRAM), endpoint, str(HOSTILE), *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"QUORATE_TOKEN": known.token, "PYTHONPATH": ":".join(sys.path)},
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield attacks
            out, _ = process.communicate(timeout=TOGETHER_WITHIN_S)
        finally:
            process.kill()
    outcome = json.loads(out)
    attacks |= outcome["attacks"]
    assert not outcome["errors"], outcome
    assert all(attacks.values()), attacks


class Healthy:
    """The agents of a job, whose world changes when the caller wants it, and at no other time."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self.worlds = 0
        self.change(lambda: load.add(AGENTS))

    def change(self, what: Callable[[], None]) -> float:
        """Do something that makes another world; return how long it took, in seconds."""
        began_s = time.monotonic()
        what()
        wait_until(self._load.are_together, TOGETHER_WITHIN_S, "all agents to be in one world")
        self.worlds += 1
        return self._load.placed_s() - began_s

    def median_s(self, stretch_s: float) -> float:
        """One leaves, another one comes, over and over for so long; return what a change takes."""
        times_s: list[float] = []
        while sum(times_s) < stretch_s:
            times_s.append(self.change(self._load.leave))
            times_s.append(self.change(lambda: self._load.add(1)))
        return statistics.median(times_s)

    def check(self) -> None:
        """All are together, no rule was broken, and no world formed that was not asked for."""
        assert self._load.are_together()
        assert self._load.check_rules() == self.worlds
        assert not self._load.errors()


@contextmanager
def healthy_agents(port: int, known: Secrets) -> Iterator[Healthy]:
    """Yield the agents of a job, all of them together; at the end nothing was wrong with it."""
    settings = RendezvousSettings("healthy", AGENTS - 1, AGENTS)
    endpoints = [Endpoint("127.0.0.1", port)]
    with load_loop() as loop, closing(Load(endpoints, settings, loop, known.guards)) as load:
        healthy = Healthy(load)
        yield healthy
        healthy.check()
