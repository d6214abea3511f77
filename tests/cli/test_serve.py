"""`quorate serve` as a process."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from click.testing import CliRunner

from quorate.cli.common import Connection
from quorate.cli.serve import command
from quorate.cli.status import fetch_status
from quorate.coordinator.host import serve_options
from quorate.coordinator.ledgers.base import journal_path
from quorate.credentials import token_from
from quorate.errors import RendezvousAuthenticationError, RendezvousSettingsError
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
    found: list[dict[str, Any]] = fetch_status(Connection([endpoint], LATE_S))["runs"]
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


def test_what_warns_a_jobs_workers_does_not_end_it(
    serve: Serve, free_port: Callable[[], int]
) -> None:
    """A batch system sends it to all processes of a job, and an agent's coordinator is one."""
    endpoint = Endpoint(LOOPBACK, free_port())
    served = serve(endpoint)
    assert runs(endpoint) == []
    served.signal(signal.SIGUSR1)
    served.signal(signal.SIGUSR2)
    assert runs(endpoint) == []
    assert served.process.poll() is None


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
        refused = expect_refusal(served, 73)
        assert f"Another program has port {port}" in refused
        assert "agents can use it" in refused
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
    status = fetch_status(connection)
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


def page_of(served: ServeProcess, until: Until) -> str:
    line = until(lambda: re.search(r"status page at (https?://\S+)", served.output), LATE_S)
    return str(line[1])


def test_http_serves_the_page_on_this_machine_alone(
    serve: Serve, free_port: Callable[[], int], until: Until
) -> None:
    endpoint = Endpoint(LOOPBACK, free_port())
    served = serve(endpoint, "--memory", "--http", "0")
    handler = make_handler(endpoint)
    handler.next_rendezvous()
    url = page_of(served, until)
    assert url.startswith("http://localhost:")
    with urllib.request.urlopen(url, timeout=LATE_S) as answer:
        assert b"<title>quorate</title>" in answer.read()
    with urllib.request.urlopen(f"{url}status.json", timeout=LATE_S) as answer:
        assert len(msgspec.json.decode(answer.read())["runs"]) == 1
    with urllib.request.urlopen(f"{url}readyz", timeout=LATE_S) as answer:
        assert answer.read() == b"ready: this coordinator decides\n"
    handler.leave()
    served.signal(signal.SIGTERM)
    assert served.process.wait(LATE_S) == 0


def test_http_on_a_port_that_is_taken_is_explained(
    serve: Serve, free_port: Callable[[], int], until: Until
) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        served = serve(Endpoint(LOOPBACK, free_port()), "--http", f"{LOOPBACK}:{port}")
        assert served.process.wait(LATE_S) != 0
    assert f"Another program has port {port} of this machine. Choose another one for --http." in (
        served.output
    )


@pytest.mark.parametrize("address", ["99999", "no host:1", "localhost:x"])
def test_a_page_where_nothing_can_be_is_refused(address: str) -> None:
    asked = ["--endpoint", f"{LOOPBACK}:0", "--memory", "--http", address]
    result = CliRunner().invoke(command, asked)
    assert isinstance(result.exception, RendezvousSettingsError)
    assert f"--http '{address}' is not understood" in str(result.exception)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--advertise", "c1"], "--advertise is of no use"),
        (["--memory", "--backend-conf", "protocol=https"], "--backend-conf is of no use"),
        (["--memory", "--state-dir", "x"], "--state-dir is where a journal is kept, and --memory"),
        (["--backend", "etcd://c1", "--state-dir", "x"], "kept, and --backend keeps none"),
    ],
)
def test_no_option_is_forgotten(options: list[str], message: str) -> None:
    result = CliRunner().invoke(command, ["--endpoint", f"{LOOPBACK}:0", *options])
    assert isinstance(result.exception, RendezvousSettingsError)
    assert message in str(result.exception)


def test_runs_are_kept_in_one_place() -> None:
    asked = ["--endpoint", f"{LOOPBACK}:0", "--memory", "--backend", "etcd://localhost:2379"]
    result = CliRunner().invoke(command, asked)
    assert isinstance(result.exception, RendezvousSettingsError)
    assert "give one of the two" in str(result.exception)


def test_http_without_the_extra_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = CliRunner().invoke(command, ["--endpoint", f"{LOOPBACK}:0", "--memory", "--http", "0"])
    assert isinstance(result.exception, RendezvousSettingsError)
    assert "--http needs aiohttp and prometheus_client: pip install 'quorate[server]'" in str(
        result.exception
    )


def test_events_are_lines_of_json(
    serve: Serve, tmp_path: Path, free_port: Callable[[], int], until: Until
) -> None:
    endpoint = Endpoint(LOOPBACK, free_port())
    path = tmp_path / "events"
    serve(endpoint, "--memory", "--events", str(path))
    handler = make_handler(endpoint)
    handler.next_rendezvous()

    def kinds() -> list[str]:
        return [msgspec.json.decode(line)["kind"] for line in path.read_bytes().splitlines()]

    until(lambda: "completed" in kinds(), LATE_S)
    assert kinds()[0] == "joined"
    handler.leave()


def test_nobody_waits_for_who_reads_the_events(
    serve: Serve, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    endpoint = Endpoint(LOOPBACK, free_port())
    path = tmp_path / "events"
    os.mkfifo(path)
    full = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(full, b"\n" * 4096)
    served = serve(endpoint, "--memory", "--events", str(path))
    handler = make_handler(endpoint)
    handler.next_rendezvous()
    handler.leave()
    served.signal(signal.SIGTERM)
    assert served.process.wait(LATE_S) == 0
    assert "events: lines are lost" in served.output
    os.close(full)


def test_nobody_waits_for_who_reads_the_log(free_port: Callable[[], int]) -> None:
    endpoint = Endpoint(LOOPBACK, free_port())
    reading, writing = os.pipe()
    capacity = fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ)
    os.write(writing, b"x" * (capacity - 10))
    command = [sys.executable, "-m", "quorate", "serve", "--memory", "--endpoint", str(endpoint)]
    served = subprocess.Popen(command, stderr=writing)
    os.close(writing)
    try:
        handler = make_handler(endpoint)
        handler.next_rendezvous()
        handler.leave()
        # What waited is written once somebody reads.
        told = b""
        while b"complete" not in told:
            told += os.read(reading, capacity)
        assert b"listening on" in told
        served.send_signal(signal.SIGTERM)
        assert served.wait(LATE_S) == 0
    finally:
        os.close(reading)
        served.kill()
        served.wait()


def test_events_that_cannot_be_written_are_refused_at_once(
    serve: Serve, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    served = serve(Endpoint(LOOPBACK, free_port()), "--memory", "--events", str(tmp_path))
    assert served.process.wait(LATE_S) != 0
    assert f"--events {tmp_path} cannot be written to (Is a directory)" in served.output


def test_the_page_asks_for_the_tokens_of_its_coordinator(
    serve: Serve, token_file: Path, tmp_path: Path, free_port: Callable[[], int], until: Until
) -> None:
    operators = tmp_path / "operators"
    operators.write_text("operators-know-this-too")
    files = ("--token-file", str(token_file), "--operator-token-file", str(operators))
    url = page_of(serve(Endpoint(LOOPBACK, free_port()), "--memory", "--http", "0", *files), until)

    def rights(token: str) -> Any:
        request = urllib.request.Request(f"{url}access")
        request.add_header("Authorization", f"Bearer {token}")
        with urllib.request.urlopen(request, timeout=LATE_S) as answer:
            told = msgspec.json.decode(answer.read())
        return told["read"], told["act"]

    assert rights("a guess") == (False, False)
    assert rights(token_file.read_text()) == (True, False)
    assert rights(operators.read_text()) == (True, True)


def test_the_page_has_the_certificate_of_its_coordinator(
    serve: Serve, tmp_path: Path, free_port: Callable[[], int], until: Until
) -> None:
    authority = Authority(tmp_path / "tls")
    first, second = authority.issue("first"), authority.issue("second")
    flags = ("--tls-cert", first.cert_file, "--tls-key", first.key_file)
    url = page_of(serve(Endpoint(LOOPBACK, free_port()), "--memory", "--http", "0", *flags), until)
    trusting = ssl.create_default_context(cafile=authority.file)

    def certificate() -> bytes | None:
        address = urlsplit(url)
        with (
            socket.create_connection((str(address.hostname), address.port), LATE_S) as plain,
            trusting.wrap_socket(plain, server_hostname=address.hostname) as secured,
        ):
            return secured.getpeercert(binary_form=True)

    with urllib.request.urlopen(f"{url}readyz", timeout=LATE_S, context=trusting) as answer:
        assert answer.status == 200
    former = certificate()
    # The key first: while they do not fit together, the former ones count.
    Path(first.key_file).write_bytes(Path(second.key_file).read_bytes())
    Path(first.cert_file).write_bytes(Path(second.cert_file).read_bytes())
    until(lambda: certificate() != former, LATE_S)
