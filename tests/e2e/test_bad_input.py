"""What users get wrong: one clear line each, the documented exit code, and nobody else disturbed.

The exit codes are those of `quorate.errors` and of `quorate --help`.
"""

from __future__ import annotations

import contextlib
import http.server
import os
import re
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import wait_until
from tests.e2e.cluster import WORKER_PROGRAM, Agent, Cluster, Program

pytestmark = pytest.mark.timeout(150)

WORKER = (str(WORKER_PROGRAM), "report")

USAGE = 2
CLOSED, TIMEOUT, CONNECTION, PROTOCOL, STATE, SETTINGS = 71, 72, 73, 74, 75, 76

QUIET_S = 0.5

# What no line for people has in it.
UGLY = re.compile(r"Traceback|\[Errno|\?\.|(?<!\.)\.\.(?!\.)|\('|object at 0x|\bb'")


def assert_one_line(program: Program, exit_code: int, *parts: str) -> str:
    """The program ends with a code and one line, which has some words in it."""
    assert program.exit_code() == exit_code, program.report()
    assert not program.stdout, program.report()
    (line,) = program.stderr
    assert line.startswith("quorate: ")
    assert not UGLY.search(line), line
    for part in parts:
        assert part in line, line
    return line


@pytest.fixture
def healthy(cluster: Cluster) -> Iterator[list[Agent]]:
    """Three agents in a world; at the end they must be where they were."""
    agents = cluster.agents(3, "2:3")
    for agent in agents:
        agent.next("joined")
    yield agents
    for agent in agents:
        agent.assert_quiet(QUIET_S / len(agents))
    status = cluster.run_status()
    assert (status["round"], status["state"]) == (0, "complete")
    assert len(status["nodes"]) == len(agents)


# Options


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--nnodes", "some"), ("--nnodes 'some'", "N, or MIN:MAX")),
        (("--nnodes", "1:2:3"), ("--nnodes '1:2:3'", "N, or MIN:MAX")),
        (("--nnodes", "4:2"), ("at least 4 and at most 2", "MIN <= MAX")),
        (("--nnodes", "0:2"), ("at least 0 and at most 2", "1 <= MIN")),
        (("--nproc-per-node", "-1"), ("--nproc-per-node '-1'", "from 1, 'gpu' or 'cpu'")),
        (("--rdzv-conf", "jion_timeout=3"), ("'jion_timeout' is unknown", "'join_timeout'")),
        (("--rdzv-conf", "join_timeout"), ("'join_timeout' must have a value",)),
        (("--rdzv-conf", "join_timeout=-1"), ("join timeout", "must be positive")),
        (("--rdzv-conf", "join_timeout=soon"), ("'join_timeout'", "'soon'")),
        (("--rdzv-conf", "rank_policy=best"), ("best", "stable")),
        (("--rdzv-backend", "etdc"), ("backend 'etdc' is unknown", "quorate")),
        (("--rdzv-endpoint", "localhost:port"), ("port number", "localhost:port")),
        (("--rdzv-endpoint", "local host:1"), ("'local host:1'", "dot-separated")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_an_option_that_makes_no_sense(
    cluster: Cluster, options: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    program = cluster.quorate("run", "--rdzv-endpoint", cluster.endpoint, *options, *WORKER)
    assert_one_line(program, SETTINGS, *parts)


def test_several_nodes_need_an_endpoint(cluster: Cluster) -> None:
    program = cluster.quorate("run", "--nnodes", "2", *WORKER)
    assert_one_line(program, SETTINGS, "where to meet", "--rdzv-endpoint")


@pytest.mark.parametrize("arguments", [(), ("--nodes", "2", *WORKER)], ids=["no program", "flag"])
def test_wrong_usage(cluster: Cluster, arguments: tuple[str, ...]) -> None:
    program = cluster.quorate("run", *arguments)
    assert program.exit_code() == USAGE
    assert program.stderr[0].startswith("Usage: quorate run")
    assert program.stderr[-1].startswith("Error: ")


def test_a_program_that_is_not_there(cluster: Cluster) -> None:
    program = cluster.quorate(
        "run", "--standalone", "--log-level", "warning", "--", "no-such-program"
    )
    assert_one_line(program, 127, "no program 'no-such-program'")


# Endpoints


def test_an_endpoint_where_nobody_is(cluster: Cluster) -> None:
    program = cluster.run("2", *WORKER, conf="join_timeout=1,is_host=no")
    assert_one_line(program, CONNECTION, cluster.endpoint, "nobody listens there")
    status = cluster.quorate("status", "--endpoint", cluster.endpoint, "--timeout", "0.5")
    assert_one_line(status, CONNECTION, cluster.endpoint, "nobody listens there")


def test_a_host_name_that_stands_for_nothing(cluster: Cluster) -> None:
    options = ("--rdzv-endpoint", "quorate.invalid", "--rdzv-conf", "join_timeout=1")
    program = cluster.quorate("run", "--nnodes", "2", *options, *WORKER)
    assert_one_line(program, CONNECTION, "quorate.invalid:29400", "cannot be resolved")


class WebPeer(http.server.BaseHTTPRequestHandler):
    """Speaks HTTP, as what is found on a port most often does."""

    timeout = 5.0


class SilentPeer(socketserver.BaseRequestHandler):
    """Takes what it is sent, and says nothing."""

    def handle(self) -> None:
        self.request.settimeout(5.0)
        with contextlib.suppress(OSError):
            while self.request.recv(4096):
                pass


class TalkativePeer(socketserver.BaseRequestHandler):
    """Speaks first, as mail servers do."""

    def handle(self) -> None:
        self.request.sendall(b"220 mail.example.com ESMTP\r\n")


@contextlib.contextmanager
def serving(port: int, peer: type[socketserver.BaseRequestHandler]) -> Iterator[None]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", port), peer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("peer", "exit_code", "part"),
    [
        (SilentPeer, CONNECTION, "takes connections, but does not answer"),
        (TalkativePeer, PROTOCOL, "another program is on the other side"),
    ],
)
def test_a_port_that_another_program_has(
    cluster: Cluster, peer: type[socketserver.BaseRequestHandler], exit_code: int, part: str
) -> None:
    with serving(cluster.port, peer):
        node = cluster.run("2", *WORKER, conf="join_timeout=1")
        assert_one_line(node, exit_code, cluster.endpoint, part)
        program = cluster.quorate("serve", "--endpoint", cluster.endpoint)
        assert_one_line(program, CONNECTION, f"port {cluster.port}", "choose another port")


def test_a_port_that_a_web_server_has(cluster: Cluster) -> None:
    """It answers if there is an end of line in the hello; the number of our process may be one."""
    told = {
        CONNECTION: "takes connections, but does not answer",
        PROTOCOL: "another program is on the other side",
    }
    with serving(cluster.port, WebPeer):
        node = cluster.run("2", *WORKER, conf="join_timeout=1")
        exit_code = node.exit_code()
        assert exit_code in told, node.report()
        assert_one_line(node, exit_code, cluster.endpoint, told[exit_code])


# A run that others are in


def test_a_wrong_run_id_joins_nobody_and_says_what_it_waits_for(
    cluster: Cluster, healthy: list[Agent]
) -> None:
    where = ("--rdzv-endpoint", cluster.endpoint, "--nnodes", "2:3", "--rdzv-id", "jbo")
    node = cluster.quorate("run", *where, "--rdzv-conf", "join_timeout=3", *WORKER)
    assert node.exit_code() == TIMEOUT, node.report()
    waiting, error = node.stderr
    assert "waiting for 1 more node (1 of 2)" in waiting
    assert "run 'jbo'" in error
    assert "within 3 s: waiting for 1 more node (1 of 2)" in error
    status = cluster.quorate("status", "--endpoint", cluster.endpoint, "unknown")
    assert_one_line(status, 70, "no run 'unknown'", cluster.endpoint)


@pytest.mark.parametrize(
    ("nodes", "conf", "part"),
    [
        ("2:4", "", "max_nodes is 3 in the run, 4 here"),
        ("2:3", "last_call_timeout=7", "last_call_timeout is 30.0 in the run, 7.0 here"),
        ("2:3", "rank_policy=sorted", "rank_policy is stable in the run, sorted here"),
    ],
)
def test_settings_that_differ_from_those_of_the_run(
    cluster: Cluster, healthy: list[Agent], nodes: str, conf: str, part: str
) -> None:
    """R13: both values are named."""
    node = cluster.run(nodes, *WORKER, conf=conf)
    assert_one_line(node, SETTINGS, "the run 'job'", part, "same settings")


def answer_to(sent: bytes, port: int) -> bytes:
    """Send bytes and return all that comes back, up to the end of the connection."""
    received = b""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5.0) as peer,
        contextlib.suppress(ConnectionResetError, BrokenPipeError),
    ):
        peer.sendall(sent)
        # The other end may have gone already.
        with contextlib.suppress(OSError):
            peer.shutdown(socket.SHUT_WR)
        while part := peer.recv(65536):
            received += part
    return received


def test_garbage_on_the_port_of_a_healthy_run(cluster: Cluster, healthy: list[Agent]) -> None:
    """R15: the sender is told, or just dropped; nobody else notices."""
    samples = {
        b"GET / HTTP/1.1\r\nHost: coordinator\r\n\r\n": b"not the protocol of quorate",
        b"\xff" * 64: b"protocol",
        b"\x00\x00\x00\x02\xc1\xc1": b"protocol",
        b"\x00\x00\x00\x00" * 100: b"protocol",
        os.urandom(1 << 20): b"",
        b"": b"",
        b"\x00\x00\x00\x7fnothing more": b"",
    }
    for sent, answer in samples.items():
        assert answer in answer_to(sent, cluster.port), sent[:16]


# State


def test_a_journal_that_is_none(cluster: Cluster) -> None:
    journal = cluster.state_folder / f"coordinator-{cluster.port}.journal"
    journal.parent.mkdir(parents=True)
    journal.write_text("This is not a journal, it is a shopping list.\n")
    coordinator = cluster.quorate("serve", "--endpoint", cluster.endpoint)
    parts = (str(journal), "not a journal", "move the file away")
    assert_one_line(coordinator, STATE, *parts)
    assert_one_line(cluster.run("2", *WORKER, conf="join_timeout=5"), CONNECTION, *parts)
    assert journal.read_text().endswith("shopping list.\n")


def test_a_journal_that_is_damaged_in_its_middle(cluster: Cluster) -> None:
    coordinator = cluster.serve()
    for agent in cluster.agents(2, "2:2", "is_host=no"):
        agent.next("joined")
        agent.kill()
    wait_until(lambda: not cluster.run_status()["nodes"], what="both agents to be lost")
    coordinator.kill()
    journal = cluster.state_folder / f"coordinator-{cluster.port}.journal"
    content = bytearray(journal.read_bytes())
    content[60] ^= 0xFF
    journal.write_bytes(content)
    again = cluster.quorate("serve", "--endpoint", cluster.endpoint)
    assert_one_line(again, STATE, str(journal), "damaged at byte", "Restore the file")


def test_the_state_of_the_file_backend_is_corrupt(cluster: Cluster, tmp_path: Path) -> None:
    state = tmp_path / "state.job"
    state.write_bytes(b"\x00\x01 nothing of ours")
    where = ("--rdzv-backend", "file", "--rdzv-endpoint", str(tmp_path / "state"))
    node = cluster.quorate("run", *where, "--rdzv-id", "job", "--nnodes", "2", *WORKER)
    assert_one_line(node, STATE, str(state), "corrupt", "delete the file")
    assert state.read_bytes() == b"\x00\x01 nothing of ours"
