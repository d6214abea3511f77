"""A job with a token, as its users run it: the secret arrives everywhere, and is seen nowhere."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from tests.e2e.cluster import WORKER_PROGRAM, Cluster, Program

pytestmark = pytest.mark.timeout(60)

SECRET, WRONG = "this-is-the-secret-of-the-job", "this-is-the-secret-of-others"
AUTHENTICATION = 79

SHARED = r"^\[\d\]:shared "


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"# of the job\n{SECRET}\n")
    path.chmod(0o600)
    return path


def command_lines(cluster: Cluster) -> list[str]:
    found = []
    for pid in cluster.processes():
        with contextlib.suppress(OSError):
            found.append(Path(f"/proc/{pid}/cmdline").read_text())
    return found


def assert_turned_away(program: Program, words: str) -> None:
    assert program.exit_code() == AUTHENTICATION, program.report()
    (line,) = program.stderr
    assert line.startswith("quorate: At 127.0.0.1:")
    assert words in line
    assert not program.stdout


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """Workers end when it is opened."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    return path


def test_r15_a_job_with_a_token(cluster: Cluster, token_file: Path, gate: Path) -> None:
    """Its first agent starts the coordinator; its workers share the store; strangers stay out."""
    worker = (str(WORKER_PROGRAM), "share", str(gate))
    # By its name in the folder that the agent works in, as people give it.
    job = [cluster.run("2", "--token-file", os.path.relpath(token_file, cluster.folder), *worker)]
    job.append(cluster.run("2", *worker, name="other", QUORATE_TOKEN=SECRET))
    for node in job:
        node.line(SHARED)
    assert len(command_lines(cluster)) >= 5
    assert not any(SECRET in line for line in command_lines(cluster))
    assert_turned_away(cluster.run("2", *worker, QUORATE_TOKEN=WRONG), "does not accept")
    assert_turned_away(cluster.run("2", *worker, conf="is_host=no"), "wants a token")
    where = ("--endpoint", cluster.endpoint, "--json")
    assert_turned_away(cluster.quorate("status", *where), "wants a token")
    status = cluster.quorate("status", *where, QUORATE_TOKEN_FILE=str(token_file))
    assert status.exit_code() == 0, status.report()
    with gate.open("wb"):
        pass
    assert [node.exit_code() for node in job] == [0, 0], cluster.report()
    for secret in (SECRET, WRONG):
        assert secret not in cluster.report()


def test_a_job_of_one_machine_with_a_token(cluster: Cluster, token_file: Path, gate: Path) -> None:
    node = cluster.quorate(
        *("run", "--standalone", "--token-file", str(token_file), "--log-level", "warning"),
        *("--nproc-per-node", "2", str(WORKER_PROGRAM), "share", str(gate)),
    )
    node.lines(SHARED, 2)
    with gate.open("wb"):
        pass
    assert node.exit_code() == 0, node.report()
