"""The workers of one node in one round: processes that are started and ended together."""

from __future__ import annotations

import contextlib
import enum
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from quorate.clock import Clock
from quorate.launch import gate
from quorate.launch.output import WorkerOutput
from quorate.launch.warden import live_members, signal_group
from quorate.launch.wards import Wards

__all__ = ["WorkerFailure", "WorkerGroup", "WorkerState", "WorkerStatus"]

# A killed process can be held up in the kernel, by a device or a file server.
KILL_TIMEOUT_S = 10.0
SCAN_INTERVAL_S = 0.02


class WorkerState(enum.Enum):
    """How the workers of a node are doing, taken together."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True)
class WorkerFailure:
    """How a worker failed.

    Args:
        rank: Its rank.
        local_rank: Its number on this node.
        pid: Its process id.
        exit_code: What it exited with; 128 + the signal's number if a signal ended it.
        signal_name: The signal that ended it, as SIGSEGV; empty if none did.
        log: The file with its output, if that is kept.
    """

    rank: int
    local_rank: int
    pid: int
    exit_code: int
    signal_name: str = ""
    log: Path | None = None

    def __str__(self) -> str:
        how = f"was ended by {self.signal_name}" if self.signal_name else "failed"
        return (
            f"rank {self.rank} (local rank {self.local_rank}, process {self.pid}) {how} "
            f"with exit code {self.exit_code}"
        )


@dataclass(frozen=True)
class WorkerStatus:
    """How the workers are doing, and which of them failed first, if one did."""

    state: WorkerState
    failure: WorkerFailure | None = None


@dataclass
class _Worker:
    rank: int
    local_rank: int
    process: subprocess.Popen[bytes]
    log: Path | None
    pidfd: int = -1
    ended: bool = False


class WorkerGroup:
    """The workers of one node in one round, each with a process group of its own.

    Call `start`, then `wait` again and again, then `stop`, which is needed in any case.

    Args:
        wards: Ends the workers if this process ends without doing so.
        output: Passes on what they print.
        clock: Measures the grace.
    """

    def __init__(self, wards: Wards, output: WorkerOutput, clock: Clock) -> None:
        self._wards = wards
        self._output = output
        self._clock = clock
        self._workers: list[_Worker] = []
        self._failure: WorkerFailure | None = None
        self._asked = False
        self._stopped = False

    def start(
        self,
        command: Sequence[str],
        environments: Mapping[int, Mapping[str, str]],
        logs: Mapping[int, Path],
        standard_input: int | None = None,
    ) -> None:
        """Start one worker for each environment.

        Args:
            command: The program and its arguments.
            environments: The worker's whole environment by its rank, in the order of local ranks.
            logs: Where the worker's output is kept, by its rank.
            standard_input: The number of a file that the workers read; they have nothing to read
                if it is None.

        Raises:
            OSError: No process could be made, or a log cannot be written.
        """
        for local_rank, (rank, environment) in enumerate(environments.items()):
            self._spawn(command, rank, local_rank, environment, logs.get(rank), standard_input)
        self._output.start()

    def wait(self, timeout_s: float) -> WorkerStatus:
        """Wait until a worker ends, but not longer than `timeout_s`; return how they are doing."""
        status = self.poll()
        if status.state is WorkerState.RUNNING:
            self._await_exit(timeout_s)
            status = self.poll()
        return status

    def poll(self) -> WorkerStatus:
        """Return at once how the workers are doing. The first failure that was seen stays."""
        for worker in self._workers:
            if not worker.ended:
                self._look_at(worker)
        if self._failure is not None:
            return WorkerStatus(WorkerState.FAILED, self._failure)
        if all(worker.ended for worker in self._workers):
            return WorkerStatus(WorkerState.SUCCEEDED)
        return WorkerStatus(WorkerState.RUNNING)

    def last_lines(self, rank: int) -> list[str]:
        """Return the last lines that a worker printed; complete after `stop`."""
        return self._output.last_lines(rank)

    def ask_to_end(self, first: signal.Signals = signal.SIGTERM) -> None:
        """Begin what `stop` does: ask all processes of all workers to end, once.

        Args:
            first: The signal that asks them.
        """
        if not self._asked:
            self._asked = True
            self._signal(first)

    def stop(self, grace_s: float, first: signal.Signals = signal.SIGTERM) -> None:
        """End all processes of all workers, those that the workers have started included.

        Args:
            grace_s: How long they have between `first` and SIGKILL, in seconds.
            first: The signal that asks them to end, unless they were asked already.
        """
        if self._stopped:
            return
        self.ask_to_end(first)
        if not self._await_end(grace_s):
            self.kill()
            self._await_end(KILL_TIMEOUT_S)
        self._stopped = True
        self._output.close()
        for worker in self._workers:
            self._release(worker)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to each worker that still runs, and not to what it has started.

        Only the worker itself can be taken to expect it: its helpers would die of it. One that runs
        as another user, as under sudo, gets none.
        """
        for worker in self._workers:
            if not self._stopped and worker.pidfd >= 0:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    signal.pidfd_send_signal(worker.pidfd, number)

    def kill(self) -> None:
        """End all processes at once; `stop` is still needed."""
        self._signal(signal.SIGKILL)

    def _spawn(
        self,
        command: Sequence[str],
        rank: int,
        local_rank: int,
        environment: Mapping[str, str],
        log: Path | None,
        standard_input: int | None,
    ) -> None:
        # Under another number: the gate's own standard input is a pipe.
        passed = [os.dup(standard_input)] if standard_input is not None else []
        given = str(passed[0]) if passed else "-"
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(Path(gate.__file__)), given, *command],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                start_new_session=True,
                pass_fds=passed,
            )
        finally:
            for number in passed:
                os.close(number)
        worker = _Worker(rank, local_rank, process, log)
        self._workers.append(worker)
        self._wards.add(process.pid)
        assert process.stdin is not None and process.stdout is not None
        assert process.stderr is not None
        worker.pidfd = os.pidfd_open(process.pid)
        self._output.add(rank, process.stdout, process.stderr, log)
        with process.stdin as gate_opener, contextlib.suppress(BrokenPipeError):
            gate_opener.write(b"\n")

    def _look_at(self, worker: _Worker) -> None:
        # WNOWAIT leaves the process unreaped, so that its group's id stays ours until `stop`.
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        result = os.waitid(os.P_PID, worker.process.pid, flags)
        if result is None:
            return
        worker.ended = True
        if result.si_status == 0 or self._failure is not None:
            return
        code, name = result.si_status, ""
        if result.si_code != os.CLD_EXITED:
            code, name = 128 + code, _signal_name(code)
        self._failure = WorkerFailure(
            worker.rank, worker.local_rank, worker.process.pid, code, name, worker.log
        )

    def _await_exit(self, timeout_s: float) -> None:
        """Return when one of the workers that still run ends, or the time is up."""
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                if not worker.ended and worker.pidfd >= 0:
                    selector.register(worker.pidfd, selectors.EVENT_READ)
            selector.select(max(0.0, timeout_s))

    def _await_end(self, timeout_s: float) -> bool:
        """Wait for the end of all processes of all groups; return whether it came."""
        deadline = self._clock.monotonic() + timeout_s
        groups = {worker.process.pid for worker in self._workers}
        while True:
            self.poll()
            running = not all(worker.ended for worker in self._workers)
            if not running and not live_members(groups):
                return True
            remaining_s = deadline - self._clock.monotonic()
            if remaining_s <= 0:
                return False
            if running:
                self._await_exit(remaining_s)
            else:
                self._clock.sleep(min(SCAN_INTERVAL_S, remaining_s))

    def _signal(self, number: signal.Signals) -> None:
        for worker in self._workers:
            if not self._stopped:
                signal_group(worker.process.pid, number)

    def _release(self, worker: _Worker) -> None:
        self._wards.remove(worker.process.pid)
        worker.process.poll()
        if worker.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                worker.process.stdin.close()
        if worker.pidfd >= 0:
            os.close(worker.pidfd)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
