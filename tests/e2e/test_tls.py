"""Whole programs over TLS: a job with certificates of its own, and what is wrong with others."""

from __future__ import annotations

import json
import resource
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from quorate.coordinator.host import serve_options
from quorate.identity import Endpoint
from quorate.tls import TlsFiles, client_context
from quorate.wire.frames import FRAME_BYTES_MAX, FrameReader, frame
from quorate.wire.messages import Welcome, decode_reply, encode
from quorate.wire.tls import TlsPipe
from tests.certificates import Authority
from tests.e2e.cluster import WORKER_PROGRAM, Cluster, Program, assert_agree
from tests.served import operator_hello

pytestmark = pytest.mark.timeout(60)

SCRIPT = Path(__file__).parents[2] / "examples" / "make_certificates.sh"
WORKER = str(WORKER_PROGRAM)

TOLD_WITHIN_S = 3.0
CONNECTION, PROTOCOL, SETTINGS = 73, 74, 76

# What asyncio's own TLS would take is seven times as much.
CONNECTION_BYTES_MAX = 40 * 1024
CONNECTIONS = 200


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "certificates")


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    fifo = tmp_path / "gate"
    subprocess.run(["mkfifo", str(fifo)], check=True)
    return fifo


def conf(files: TlsFiles) -> str:
    given = {"ca": files.ca_file, "cert": files.cert_file, "key": files.key_file}
    return ",".join(f"tls_{name}_file={file}" for name, file in given.items() if file)


def options(files: TlsFiles) -> list[str]:
    given = {"ca": files.ca_file, "cert": files.cert_file, "key": files.key_file}
    return [word for name, file in given.items() if file for word in (f"--tls-{name}", file)]


def test_the_script_refuses_a_machine_of_the_authoritys_name(tmp_path: Path) -> None:
    folder = tmp_path / "certificates"
    refused = subprocess.run(
        [str(SCRIPT), str(folder), "node1", "ca,10.0.0.1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2
    assert "A machine named ca would take the place of the authority's files" in refused.stderr
    assert not folder.exists()


@pytest.mark.openssl
def test_a_job_with_certificates_of_the_script(cluster: Cluster, tmp_path: Path) -> None:
    """Mutual TLS, hosted by the first agent; R8: its end is told as fast as without."""
    folder = tmp_path / "certificates"
    made = subprocess.run(
        [str(SCRIPT), str(folder), "127.0.0.1,localhost", "node2"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert made.stdout.splitlines() == [str(folder / "127.0.0.1.pem"), str(folder / "node2.pem")]
    files = TlsFiles(*(str(folder / name) for name in ("ca.pem", "127.0.0.1.pem", "127.0.0.1.key")))
    agents = cluster.agents(3, "2:3", conf(files))
    assert_agree([agent.next("joined") for agent in agents])
    killed_s = agents.pop(0).kill()
    told = [agent.next("told") for agent in agents]
    assert max(event["at_s"] for event in told) - killed_s < TOLD_WITHIN_S
    assert "lost: its process ended" in told[0]["reason"]
    assert_agree([agent.next("joined") for agent in agents])
    where = ("--json", "--endpoint", cluster.endpoint)
    shown, refused = (
        cluster.quorate("status", *where, *flags) for flags in (options(files), options(files)[:2])
    )
    assert shown.exit_code() == 0, shown.report()
    (run,) = json.loads(shown.stdout[0])["runs"]
    assert run["round"] == 1
    assert_told(refused, CONNECTION, "wants a certificate of this node")


def test_workers_reach_their_store(cluster: Cluster, authority: Authority, gate: Path) -> None:
    """The agents tell them which files to use; no path is needed in the program."""
    secured = conf(authority.issue("node"))
    nodes = [cluster.run("2", WORKER, "share", str(gate), conf=secured) for _ in range(2)]
    for node in nodes:
        shared = json.loads(node.line(r"shared (.*)$")[1])
        assert shared["total"] == 1 + 2
    gate.write_bytes(b"")
    assert [node.exit_code() for node in nodes] == [0, 0], cluster.report()


def test_a_lone_node_with_tls(cluster: Cluster, authority: Authority) -> None:
    secured = ("--standalone", "--rdzv-conf", conf(authority.issue("node")))
    program = cluster.quorate("run", *secured, "--log-level", "warning", WORKER, "report")
    assert program.exit_code() == 0, program.report()


def assert_told(program: Program, exit_code: int, *parts: str) -> None:
    """The program ends with a code and one line, which has some words in it."""
    assert program.exit_code() == exit_code, program.report()
    (line,) = program.stderr
    assert line.startswith("quorate: ")
    for part in parts:
        assert part in line


def test_what_is_wrong_with_certificates_is_told(
    cluster: Cluster, authority: Authority, tmp_path: Path
) -> None:
    """At once, and with the code of its kind."""
    cluster.serve(*serve_options(authority.issue("node")))

    def run(files: TlsFiles) -> Program:
        return cluster.run("1", WORKER, "report", conf=f"is_host=no,{conf(files)}".rstrip(","))

    by_another_name = ("--endpoint", f"127.1:{cluster.port}", *options(authority.trusting))
    cases = [
        (run(Authority(tmp_path / "others").trusting), CONNECTION, "authority that is not trusted"),
        (run(authority.issue_expired("old")), SETTINGS, "valid until Feb  1 00:00:00 2020 GMT"),
        (run(TlsFiles()), PROTOCOL, "this coordinator speaks nothing else: give `tls`"),
        (cluster.quorate("status", *by_another_name), CONNECTION, "is not for '127.1'"),
    ]
    for program, exit_code, part in cases:
        assert_told(program, exit_code, part)


def test_many_agents_join_over_tls(cluster: Cluster, authority: Authority) -> None:
    bench = cluster.quorate(
        *("bench", "join", "--nodes", "20", "--repeat", "1", "--json", "--backend", "memory"),
        *options(authority.issue("node")),
    )
    assert bench.exit_code(50.0) == 0, bench.report()
    (row,) = json.loads(bench.stdout[0])["rows"]
    assert row["in_time"]
    # Without TLS it is less than 1,000.
    assert row["figures"]["sent_bytes_per_agent"]["median"] > 1500


@contextmanager
def connected(endpoint: Endpoint, context: ssl.SSLContext) -> Iterator[None]:
    """Keep a connection that a coordinator has welcomed."""
    reader = FrameReader(FRAME_BYTES_MAX)
    with socket.create_connection(endpoint, timeout=10.0) as peer:
        pipe = TlsPipe(context, False, endpoint.host)
        while not pipe.established:
            peer.sendall(pipe.take_output())
            pipe.feed(peer.recv(65536))
        pipe.send(frame(encode(operator_hello())))
        peer.sendall(pipe.take_output())
        while not (bodies := list(reader.feed(pipe.feed(peer.recv(65536))))):
            pass
        assert isinstance(decode_reply(bodies[0]), Welcome)
        yield


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def test_r15_a_connection_takes_little_memory(cluster: Cluster, authority: Authority) -> None:
    """Everything that it takes in the coordinator, certificates of both sides included."""
    files = authority.issue("node")
    coordinator = cluster.serve("--memory", *serve_options(files))
    endpoint, context = Endpoint("127.0.0.1", cluster.port), client_context(files)
    with ExitStack() as connections:

        def connect(number: int) -> int:
            for _ in range(number):
                connections.enter_context(connected(endpoint, context))
            return resident_bytes(coordinator.pid)

        before = connect(CONNECTIONS // 4)
        taken = (connect(CONNECTIONS) - before) / CONNECTIONS
    assert 1024 < taken < CONNECTION_BYTES_MAX
