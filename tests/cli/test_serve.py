"""`quorate serve` as a process."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from quorate.cli.common import Connection
from quorate.cli.status import fetch_status
from quorate.coordinator.host import serve_options
from quorate.coordinator.ledger import journal_path
from quorate.credentials import token_from
from quorate.errors import RendezvousAuthenticationError
from quorate.identity import Endpoint
from tests.certificates import Authority
from tests.served import LOOPBACK, ServeProcess, make_handler

Until = Callable[..., Any]
Serve = Callable[..., ServeProcess]

LATE_S = 10.0


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    with contextlib.ExitStack() as started:

        def serve_one(endpoint: object, *flags: str) -> ServeProcess:
            served = ServeProcess(str(endpoint), tmp_path, *flags)
            started.callback(served.kill)
            return served

        yield serve_one


def runs(endpoint: Endpoint) -> list[dict[str, Any]]:
    decoded = msgspec.json.decode(fetch_status(Connection([endpoint], LATE_S)))
    found: list[dict[str, Any]] = decoded["runs"]
    return found


def test_what_it_knows_outlives_it(
    serve: Serve, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    endpoint = Endpoint(LOOPBACK, free_port())
    first = serve(endpoint)
    handler = make_handler(endpoint)
    info = handler.next_rendezvous()
    info.store.set("k", "v")
    assert f"listening on {endpoint}" in first.output
    assert str(journal_path(tmp_path, endpoint.port)) in first.output
    first.kill()
    serve(endpoint)
    assert info.store.get("k") == b"v"
    assert runs(endpoint)[0]["round"] == 0
    handler.leave()


def test_with_memory_it_knows_nothing_of_former_runs(
    serve: Serve, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    endpoint = Endpoint(LOOPBACK, free_port())
    first = serve(endpoint, "--memory")
    handler = make_handler(endpoint)
    handler.next_rendezvous()
    handler.leave()
    assert len(runs(endpoint)) == 1
    first.kill()
    serve(endpoint, "--memory")
    assert runs(endpoint) == []
    assert not list(tmp_path.glob("*.journal"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(number: int, serve: Serve, free_port: Callable[[], int]) -> None:
    endpoint = Endpoint(LOOPBACK, free_port())
    served = serve(endpoint)
    assert runs(endpoint) == []
    served.signal(number)
    assert served.process.wait(LATE_S) == 0
    assert "Traceback" not in served.output


def test_it_ends_when_it_was_idle_for_long_enough(
    serve: Serve, free_port: Callable[[], int]
) -> None:
    served = serve(Endpoint(LOOPBACK, free_port()), "--idle_exit", "0.3", "--log_level", "info")
    assert served.process.wait(LATE_S) == 0
    assert "nobody was connected for 0.3 s" in served.output


def test_port_0_picks_a_free_one(serve: Serve, until: Until) -> None:
    served = serve(Endpoint(LOOPBACK, 0))
    until(lambda: f"listening on {LOOPBACK}:" in served.output, LATE_S, "the port")
    port = int(served.output.split(f"listening on {LOOPBACK}:")[1].split(",")[0])
    assert runs(Endpoint(LOOPBACK, port)) == []


def test_it_serves_sockets_that_it_is_given(tmp_path: Path) -> None:
    import subprocess
    import sys

    with socket.create_server((LOOPBACK, 0)) as listener:
        endpoint = Endpoint(*listener.getsockname())
        descriptor = listener.fileno()
        command = [sys.executable, "-m", "quorate", "serve", "--listen_fd", str(descriptor)]
        process = subprocess.Popen(
            [*command, "--memory", "--log-level", "error"], pass_fds=[descriptor]
        )
        listener.close()
    assert runs(endpoint) == []
    process.terminate()
    assert process.wait(LATE_S) == 0


def expect_refusal(served: ServeProcess, code: int) -> str:
    assert served.process.wait(LATE_S) == code
    lines = [line for line in served.output.splitlines() if line.startswith("quorate: ")]
    assert len(lines) == 1
    assert "Traceback" not in served.output
    return lines[0]


def test_a_taken_port_is_told(serve: Serve) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        served = serve(Endpoint(LOOPBACK, port))
        assert f"Another program has port {port}" in expect_refusal(served, 73)
    assert served.output.count("\n") == 1


def test_a_bad_endpoint_is_told(serve: Serve) -> None:
    assert "port number" in expect_refusal(serve("localhost:99999"), 76)


def test_a_corrupt_journal_is_told_and_left_alone(
    serve: Serve, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    port = free_port()
    journal = journal_path(tmp_path, port)
    journal.write_text("something else")
    assert str(journal) in expect_refusal(serve(Endpoint(LOOPBACK, port)), 75)
    assert journal.read_text() == "something else"


def test_a_journal_that_another_one_has_is_told(serve: Serve, free_port: Callable[[], int]) -> None:
    """Two coordinators of one port, on two addresses of the machine: the second is refused."""
    port = free_port()
    first = Endpoint(LOOPBACK, port)
    serve(first)
    assert runs(first) == []
    assert "journal" in expect_refusal(serve(Endpoint("::1", port)), 73)


WARNING = "listens beyond this machine without a token"


def test_on_loopback_it_does_not_warn(serve: Serve, free_port: Callable[[], int]) -> None:
    endpoint = Endpoint(LOOPBACK, free_port())
    served = serve(endpoint)
    assert runs(endpoint) == []
    assert WARNING not in served.output


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("everybody-knows-this")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("lock", ["", "token", "certificates"])
def test_beyond_loopback_it_warns_if_it_asks_for_nothing(
    lock: str, serve: Serve, token_file: Path, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    port = free_port()
    tls = Authority(tmp_path / "tls").issue("node") if lock == "certificates" else None
    token = token_from(str(token_file)) if lock == "token" else None
    flags = ("--token-file", str(token_file)) if lock == "token" else serve_options(tls)
    served = serve(Endpoint("0.0.0.0", port), *flags)
    connection = Connection([Endpoint(LOOPBACK, port)], LATE_S, token, tls)
    status = msgspec.json.decode(fetch_status(connection))
    assert status["runs"] == []
    assert (WARNING in served.output) == (not lock)


def test_it_asks_for_its_token_and_operators_for_theirs(
    serve: Serve, token_file: Path, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    endpoint = Endpoint(LOOPBACK, free_port())
    operators = tmp_path / "operators"
    operators.write_text("operators-know-this-too")
    operators.chmod(0o600)
    files = ("--token-file", str(token_file), "--operator-token-file", str(operators))
    served = serve(endpoint, *files)
    for path in (token_file, operators):
        fetch_status(Connection([endpoint], LATE_S, token_from(str(path))))
    with pytest.raises(RendezvousAuthenticationError):
        fetch_status(Connection([endpoint], LATE_S))
    for path in (token_file, operators):
        assert path.read_text() not in served.output


def test_operators_alone_have_no_token(serve: Serve, token_file: Path) -> None:
    served = serve("localhost:0", "--operator-token-file", str(token_file))
    assert "give --token-file too" in expect_refusal(served, 76)


def test_a_token_that_is_missing_is_told(serve: Serve, tmp_path: Path) -> None:
    served = serve("localhost:0", "--token-file", str(tmp_path / "nothing"))
    assert "cannot be read: no such file" in expect_refusal(served, 76)


def test_to_ask_for_certificates_it_needs_one(serve: Serve, tmp_path: Path) -> None:
    served = serve(Endpoint(LOOPBACK, 0), "--tls-client-ca", Authority(tmp_path / "tls").file)
    assert "needs a certificate: give --tls-cert" in expect_refusal(served, 76)
