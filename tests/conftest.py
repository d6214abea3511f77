"""What every test may use, and what every test must leave as it found it.

Fixtures: `until` waits for something that can be observed, `free_port` names a port nobody uses.
Markers `torch`, `etcd` and `openssl`: the test needs PyTorch, etcd and OpenSSL's program, or the
latter alone; without them it is skipped with a line that says how to get them, and fails when
QUORATE_CI is set. Marker `netns`: it makes machines of its own, with iproute2 likewise, where the
user may. A thread or a child process that outlives its test fails that test.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import hypothesis
import pytest

import quorate.api

T = TypeVar("T")

# The same examples in every run, and no limit per example: pytest's own limit is per test.
hypothesis.settings.register_profile("quorate", derandomize=True, deadline=None)
hypothesis.settings.load_profile("quorate")

HOW_TO_GET = {
    "torch": "PyTorch is not installed: `make torch` installs it",
    "browser": "chromium or its driver is not installed: `make system` installs them, as root",
    "etcd": "etcd or openssl is not installed: `make system` installs them, as root",
    "openssl": "openssl is not installed: `make system` installs it, as root",
    "netns": "iproute2 is not installed: `make system` installs it, as root",
}

MAY_NOT_UNSHARE = (
    "no machines of their own for tests: that takes Linux 5.6 or newer, util-linux, /dev/net/tun, "
    "and root's rights (in a container: all of them, as `docker run --privileged` gives)"
)

POLL_INTERVAL_S = 0.005
LEAK_GRACE_S = 2.0

# Helpers of the multiprocessing module: they serve every later test, and end with pytest.
SHARED_HELPERS = ("resource_tracker", "forkserver")

# The agents' side of coordinators lives in threads that end with the process.
SHARED_THREADS = "quorate-client"


def missing(package: str) -> bool:
    """Whether something that some tests need is not installed."""
    if package == "etcd":
        programs = (os.environ.get("QUORATE_ETCD_BINARY_PATH", "etcd"), "openssl")
        return not all(map(shutil.which, programs))
    if package == "openssl":
        return shutil.which("openssl") is None
    if package == "netns":
        return shutil.which("ip") is None
    if package == "browser":
        return not all(map(shutil.which, ("chromium", "chromedriver")))
    return importlib.util.find_spec(package) is None


@functools.cache
def may_unshare() -> bool:
    """Whether this user may make namespaces, and network interfaces in them."""
    programs = all(map(shutil.which, ("unshare", "nsenter")))
    if os.geteuid() != 0 or not programs or not Path("/dev/net/tun").exists():
        return False
    command = ["unshare", "--net", "--mount", "--time", "--fork", "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def pytest_configure() -> None:
    """Be interrupted as on a terminal, wherever this runs: a shell's background ignores SIGINT."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what the tests themselves understand."""
    parser.addoption("--rewrite", action="store_true", help="refresh the scenario files")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything below tests/e2e is marked so."""
    folder = Path(__file__).parent / "e2e"
    for item in items:
        if item.path.is_relative_to(folder):
            item.add_marker(pytest.mark.e2e)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test that needs a package which is missing is skipped; in CI it fails."""
    if item.get_closest_marker("netns") and not may_unshare():
        pytest.skip(MAY_NOT_UNSHARE)
    for package, how in HOW_TO_GET.items():
        if item.get_closest_marker(package) and missing(package):
            do_without(how)


def do_without(how: str) -> NoReturn:
    """Skip a test that needs what is missing; in CI it fails.

    Args:
        how: What is missing, and how to get it.
    """
    if "QUORATE_CI" in os.environ:
        pytest.fail(how, pytrace=False)
    pytest.skip(how)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A test file that cannot even be imported without a missing package is skipped likewise."""
    report = yield
    if report.failed and "QUORATE_CI" not in os.environ:
        call: Any = getattr(report, "call", None)
        how = HOW_TO_GET.get(missing_package(call.excinfo.value) or "")
        if how is not None:
            report.outcome = "skipped"
            report.longrepr = (str(collector.path), 1, f"Skipped: {how}")
    return report


def missing_package(error: BaseException | None) -> str | None:
    """The package whose absence is the cause of an error."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name is not None:
            return error.name.partition(".")[0]
        error = error.__cause__
    return None


@pytest.fixture
def until() -> Callable[..., Any]:
    """Wait for a condition: ``until(lambda: server.port, timeout_s=5.0, what="a port")``.

    The value of the predicate is returned as soon as it is true. After `timeout_s` seconds the
    test fails and names `what` it waited for, and the last value.
    """
    return wait_until


def wait_until(predicate: Callable[[], T], timeout_s: float = 5.0, what: str = "") -> T:
    """Return the first true value of `predicate`, asked every few milliseconds."""
    deadline = time.monotonic() + timeout_s
    while not (value := predicate()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout_s} s for {what or 'a condition'}; last value: {value!r}")
        time.sleep(POLL_INTERVAL_S)
    return value


_ESTABLISHED = "01"


def freeze(pid: int) -> None:
    """Stop a process, and return once none of its threads runs any more.

    The system stops them one after the other: on a busy machine one of them may go on for a while
    after the signal was sent, and answer somebody.
    """
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: set(_thread_states(pid)) == {"T"}, what=f"process {pid} to be stopped")


def kill_when_read(pid: int) -> None:
    """Kill -9 a process that runs, once nothing that came for it is unread.

    The system resets a connection whose reader dies before it has read all, and that looks like a
    broken network: peers are told of it after a silence only.
    """
    if set(_thread_states(pid)) != {"T"}:
        wait_until(lambda: not _has_unread(pid), what=f"process {pid} to read what came for it")
    os.kill(pid, signal.SIGKILL)


def _has_unread(pid: int) -> bool:
    """Return whether bytes wait in a TCP socket of a process (`/proc/net/tcp` of proc(5))."""
    with contextlib.suppress(FileNotFoundError):
        sockets = {str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}
        for name in ("tcp", "tcp6"):
            for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
                _, _, _, state, queues, *_, inode = line.split()[:10]
                waits = not queues.endswith(":" + "0" * 8)
                if waits and state == _ESTABLISHED and f"socket:[{inode}]" in sockets:
                    return True
    return False


def _thread_states(pid: int) -> Iterator[str]:
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):
            yield stat.read_text().rpartition(")")[2].split()[0]


def busy_s() -> float:
    """Return what this machine, as busy as it is now, may add to a time that is promised.

    That is twice what it takes to start a small program: 0.2 s while nothing else runs.
    """
    began_s = time.monotonic()
    subprocess.run([sys.executable, "-c", "import asyncio"], check=True)
    return 2 * (time.monotonic() - began_s)


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Return a function that names a TCP port nobody listens on, a new one at each call.

    The port is free when it is named, not reserved: where the program under test can listen on
    port 0 and say which port it got, let it. No connection of tests that run beside gets it.
    """
    named: set[int] = set()

    def name_a_port() -> int:
        while (port := quorate.api.free_port()) in named:
            pass
        named.add(port)
        return port

    return name_a_port


@pytest.fixture(autouse=True)
def _leaves_nothing_behind() -> Iterator[None]:
    """Fail a test whose threads or child processes outlive it, and end the processes."""
    threads_before = set(threading.enumerate())
    children_before = child_processes()
    yield

    def leaked() -> list[str]:
        threads = set(threading.enumerate()) - threads_before
        own = [thread.name for thread in threads if not thread.name.startswith(SHARED_THREADS)]
        return [f"thread {name}" for name in own] + [
            f"process {pid} ({command})"
            for pid, command in child_processes().items()
            if pid not in children_before
        ]

    deadline = time.monotonic() + LEAK_GRACE_S
    while (left := leaked()) and time.monotonic() < deadline:
        time.sleep(POLL_INTERVAL_S)
    for pid in child_processes().keys() - children_before.keys():
        end_process(pid)
    if left:
        pytest.fail("the test left behind: " + ", ".join(left), pytrace=False)


def child_processes() -> dict[int, str]:
    """Return this process's children, ended ones that were not waited for included."""
    children: dict[int, str] = {}
    for task in Path("/proc/self/task").glob("*/children"):
        # A thread can end between the listing and the reading.
        with contextlib.suppress(OSError):
            for pid in map(int, task.read_text().split()):
                children[pid] = command_of(pid)
    return {
        pid: command
        for pid, command in children.items()
        if not any(helper in command for helper in SHARED_HELPERS)
    }


def command_of(pid: int) -> str:
    """Return a process's command line, for people."""
    with contextlib.suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        return command.replace(b"\0", b" ").decode(errors="replace").strip() or "ended"
    return "ended"


def end_process(pid: int) -> None:
    """Kill one child of this process and collect it."""
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
