"""What processes and connections have used, as the kernel counts it."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterable
from pathlib import Path

from quorate.bench.tasks import Traffic

__all__ = ["connections", "core_wait_s", "cpu_s", "resident_bytes", "thread_cpu_s", "traffic"]

# tcp_info of linux/tcp.h: tcpi_bytes_acked and tcpi_bytes_received.
_TCP_INFO_BYTES = 256
_TCP_BYTES = struct.Struct("120xQQ")

_DESCRIPTORS = "/proc/self/fd"
_IP = {socket.AF_INET, socket.AF_INET6}

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def cpu_s(pid: int) -> float:
    """Return the CPU time in seconds that a process has used, all its threads together.

    It is read from the process's CPU clock, whose id the kernel derives from the process's
    (clock_getcpuclockid(3)): in nanoseconds, where /proc/PID/stat counts in hundredths.

    Raises:
        OSError: There is no such process.
    """
    return time.clock_gettime((~pid << 3) | 2)


def thread_cpu_s() -> float:
    """Return the CPU time in seconds that the calling thread has used."""
    return time.thread_time()


def core_wait_s(pid: int) -> float:
    """Return for how long in seconds the first thread of a process could have run and had no core.

    It is the one that servers and sessions live in.

    Raises:
        OSError: There is no such process.
    """
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


def resident_bytes(pid: int) -> int:
    """Return how much memory a process occupies.

    Raises:
        OSError: There is no such process.
    """
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES


def connections(port: int) -> dict[str, int]:
    """Return the TCP connections of this process to a port of a server, whoever has made them.

    Args:
        port: The server's port.

    Returns:
        The descriptor of each, by the name that the kernel gives its socket: unlike a descriptor
        it is not used again at once.
    """
    found = {}
    for entry in os.listdir(_DESCRIPTORS):
        # Other threads go on opening and closing meanwhile.
        with contextlib.suppress(OSError):
            name = os.readlink(f"{_DESCRIPTORS}/{entry}")
            if name.startswith("socket:") and _port_of_peer(int(entry)) == port:
                found[name] = int(entry)
    return found


def _port_of_peer(descriptor: int) -> int | None:
    with socket.socket(fileno=os.dup(descriptor)) as connection:
        is_tcp = connection.family in _IP and connection.type == socket.SOCK_STREAM
        return int(connection.getpeername()[1]) if is_tcp else None


def traffic(descriptors: Iterable[int]) -> Traffic:
    """Return the payload that TCP connections of this process have carried since they were made.

    Args:
        descriptors: Of connected sockets; they stay open.
    """
    sent_bytes = received_bytes = 0
    for descriptor in descriptors:
        with socket.socket(fileno=os.dup(descriptor)) as connection:
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        sent, received = _TCP_BYTES.unpack_from(info)
        # What was acknowledged counts the connection's first word, SYN, as a byte.
        sent_bytes += max(sent - 1, 0)
        received_bytes += received
    return Traffic(sent_bytes, received_bytes)
