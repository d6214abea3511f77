"""`quorate doctor`: what is well, and what is wrong and what to do about it."""

from __future__ import annotations

import resource
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from click.testing import CliRunner, Result

from quorate import identity
from quorate.cli import doctor as doctor_module
from quorate.cli.common import Connection
from quorate.cli.doctor import FAIL, OK, WARN, clock_finding, command, examine, files_finding
from quorate.cli.status import fetch_status
from quorate.identity import Endpoint, resolve
from tests.served import LOOPBACK, PATIENCE_S, ThreadedCoordinator

NOW = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def coordinator() -> Iterator[ThreadedCoordinator]:
    coordinator = ThreadedCoordinator()
    yield coordinator
    coordinator.stop()


def doctor(endpoint: object, *arguments: str) -> Result:
    return CliRunner().invoke(command, ["--endpoint", str(endpoint), *arguments])


def test_all_is_well_with_a_coordinator_of_this_machine(coordinator: ThreadedCoordinator) -> None:
    examined = doctor(coordinator.endpoint)
    assert examined.exit_code == 0
    lines = [line.split(maxsplit=2) for line in examined.output.splitlines()]
    assert [(level, check) for level, check, _ in lines][:6] == [
        ("ok", "name"),
        ("ok", "port"),
        ("warn", "advertised"),
        ("ok", "coordinator"),
        ("ok", "clock"),
        ("ok", "open"),
    ]
    assert "one of this machine only" in lines[2][2]
    assert "answers, protocol 1, 0 run(s)" in lines[3][2]


def test_json_is_for_programs(coordinator: ThreadedCoordinator) -> None:
    findings = msgspec.json.decode(doctor(coordinator.endpoint, "--json").output)
    assert findings[0] == {"level": "ok", "check": "name", "text": "127.0.0.1 is 127.0.0.1"}


def test_a_name_that_nobody_knows() -> None:
    examined = doctor("no-such-host.invalid:29400", "--timeout", "0.2")
    assert examined.exit_code == 1
    assert "FAIL  name" in examined.output
    assert "cannot be resolved" in examined.output


def test_a_port_where_nobody_listens(free_port: Callable[[], int]) -> None:
    examined = doctor(f"{LOOPBACK}:{free_port()}", "--timeout", "0.2")
    assert examined.exit_code == 1
    assert "FAIL  port" in examined.output
    assert "nobody listens there. Start the coordinator" in examined.output
    assert "FAIL  coordinator" in examined.output


def test_one_endpoint_of_several_is_enough(
    coordinator: ThreadedCoordinator, free_port: Callable[[], int]
) -> None:
    others = f"{LOOPBACK}:{free_port()},no-such-host.invalid:29400"
    examined = doctor(f"{others},{coordinator.endpoint}")
    assert examined.exit_code == 0, examined.output
    assert "nobody listens there" in examined.output
    assert "cannot be resolved" in examined.output
    assert "FAIL" not in examined.output
    nobody = doctor(others, "--timeout", "0.2")
    assert nobody.exit_code == 1
    assert nobody.output.count("FAIL") == 3


def test_one_that_takes_connections_and_does_not_answer() -> None:
    """A coordinator that is frozen, or another program."""
    with socket.create_server((LOOPBACK, 0)) as silent:
        examined = doctor(Endpoint(*silent.getsockname()), "--timeout", "0.3")
    assert examined.exit_code == 1
    assert "takes connections" in examined.output
    assert "does not answer" in examined.output


def test_a_machine_that_does_not_answer_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object) -> None:
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket.socket, "connect", connect)
    connection = Connection([Endpoint(LOOPBACK, 1)], 0.1)
    found = {finding.check: finding for finding in examine(connection)}
    assert found["port"].level == FAIL
    assert "no firewall is in the way" in found["port"].text


def test_a_loopback_address_is_not_for_others(
    coordinator: ThreadedCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine's own name often stands for such a one."""
    monkeypatch.setattr(doctor_module, "resolve", lambda _: resolve(coordinator.endpoint))
    endpoint = Endpoint("own-name.invalid", coordinator.endpoint.port)
    for outward, level, text in (
        (None, WARN, "127.0.0.1, which others cannot reach: give --local-addr"),
        ("192.0.2.7", OK, "others are told to reach this machine at 192.0.2.7"),
    ):
        monkeypatch.setattr(identity, "outward_address", lambda outward=outward: outward)
        findings = examine(Connection([endpoint], 0.1))
        found = next(finding for finding in findings if finding.check == "advertised")
        assert found.level == level
        assert text in found.text
    # Connections are taken in their order: those of before are not under way any more.
    fetch_status(Connection([coordinator.endpoint], PATIENCE_S))


def test_clocks() -> None:
    assert clock_finding(NOW, NOW + timedelta(seconds=3)).level == OK
    behind = clock_finding(NOW, NOW + timedelta(hours=1))
    assert behind.level == WARN
    assert "3600 s behind the coordinator's: no harm to the rendezvous" in behind.text
    assert "60 s ahead of" in clock_finding(NOW, NOW - timedelta(minutes=1)).text


def test_open_files() -> None:
    assert files_finding(resource.RLIM_INFINITY).text == "a process may have any number"
    assert files_finding(65536).level == OK
    assert files_finding(256).level == WARN
