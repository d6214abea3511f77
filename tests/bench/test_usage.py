"""What processes and connections have used."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from quorate.bench.usage import (
    connections,
    core_wait_s,
    cpu_s,
    resident_bytes,
    thread_cpu_s,
    traffic,
)


def test_the_cpu_clock_of_a_process_is_its_own() -> None:
    before_s = time.process_time()
    read_s = cpu_s(os.getpid())
    assert before_s <= read_s <= time.process_time()


def test_the_cpu_clock_of_a_thread_counts_no_sooner_than_that_of_its_process() -> None:
    before_s = thread_cpu_s()
    assert 0 <= before_s <= thread_cpu_s() <= time.process_time()


def test_memory_is_counted_in_bytes() -> None:
    before = resident_bytes(os.getpid())
    block = b"x" * 32 * 1024 * 1024
    grown = resident_bytes(os.getpid()) - before
    assert grown >= 0.9 * len(block)


def test_waiting_for_a_core_only_grows() -> None:
    before_s = core_wait_s(os.getpid())
    assert 0 <= before_s <= core_wait_s(os.getpid())


@pytest.mark.parametrize("ask", [cpu_s, resident_bytes, core_wait_s])
def test_a_process_that_is_none_is_an_error(ask: object) -> None:
    with pytest.raises(OSError, match=r"Errno"):
        ask(2**22 + 1)  # type: ignore[operator]


def test_payload_is_counted_in_both_directions() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        server.accept()[0] as accepted,
    ):
        client.sendall(b"x" * 300)
        received = 0
        while received < 300:
            received += len(accepted.recv(300))
        accepted.sendall(b"y" * 20)
        assert len(client.recv(20)) == 20
        used = traffic([client.fileno()])
        assert used.received_bytes == 20
        assert used.sent_bytes == 300
        assert client.fileno() >= 0


def test_connections_to_a_port_are_found_whoever_made_them(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_server(("127.0.0.1", 0)) as another,
        (tmp_path / "file").open("wb"),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        socket.create_connection(another.getsockname()),
    ):
        address = server.getsockname()
        datagrams.connect(address)
        assert connections(address[1]) == {}
        with socket.create_connection(address) as first, socket.create_connection(address) as last:
            found = connections(address[1])
            assert sorted(found.values()) == sorted([first.fileno(), last.fileno()])
            assert found == connections(address[1])
            assert first.getpeername() == address
