"""The agent: joins rounds, runs the workers of one node in each, and says how it ended.

What ends a round, and what follows:

* All workers exit with 0: the node has finished; see `quorate.launch.exit_barrier`.
* The world is to change (R8): the workers are stopped and the agent comes back for the next
  round. That costs nothing of the restart budget.
* A worker fails: all workers are stopped, the others see this node come back and do likewise. The
  loss of another node makes workers fail before anybody is told of the loss, so that the agent
  waits for a moment: if nodes are lost, leave or come after all, the failure was a symptom and
  costs nothing. Else it costs one restart. Without one left the run is closed as failed (R7), and
  the agent exits with the worker's code; unless another member turns out to be lost, which makes
  the failure a symptom even then: the node joins again.
* The run is closed as failed by another node: the workers are stopped, for what they do would be
  in vain. Another close, by an operator or at the end of the job, lets them finish.

Exit codes: 0, the node has finished, or waited for a place until the job was done without it; the
code of the worker that failed first on this node, 128 + n if
signal n ended it; 126 and 127, the program cannot be started; 128 + n, signal n ended the agent;
else the `exit_code` of a `RendezvousError`.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from signal import Signals
from typing import BinaryIO

from quorate import logs
from quorate.api import RendezvousHandler, RendezvousInfo
from quorate.clock import Clock, SystemClock
from quorate.core.state import Place
from quorate.errors import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousError,
    RendezvousGracefulExitError,
)
from quorate.launch.error_file import ERROR_FILE_VARIABLE, read_error
from quorate.launch.exit_barrier import Ending, await_others
from quorate.launch.files import WorkerFiles
from quorate.launch.health import Infirmary
from quorate.launch.interrupts import Interrupted, Interrupts
from quorate.launch.output import WorkerOutput
from quorate.launch.spec import WorkerSpec, place_of, worker_environment
from quorate.launch.standard_input import shared_input
from quorate.launch.wards import Wards
from quorate.launch.workers import WorkerFailure, WorkerGroup, WorkerState, WorkerStatus
from quorate.printable import printable

__all__ = ["FAILED", "SUCCEEDED", "Agent"]

# The first word of the reason with which a run is closed that has done its work, or cannot.
SUCCEEDED = "succeeded"
FAILED = "failed"

EXIT_NOT_STARTED = 126
EXIT_NOT_FOUND = 127

# Of each of the last lines of a worker: there may be twenty of 64 KiB.
LAST_LINE_MAX = 1000

# Workers whose agent was killed are ended by the time that the others regroup without them.
ORPHAN_GRACE_S = 2.0


class Agent:
    """Runs the workers of one node through all rounds of a run. Call `run` once.

    Args:
        handler: The node's part in the rendezvous.
        spec: What to run.
        clock: Measures waits.
        out: Where the workers' standard outputs go, each line with its rank.
        err: Where their standard errors go.
        words: Where it says itself what it has to say, and must not be kept waiting; `err` if it is
            `None`.
        interrupts: The signals that end it, if the caller handles them already.
    """

    def __init__(
        self,
        handler: RendezvousHandler,
        spec: WorkerSpec,
        clock: Clock | None = None,
        out: BinaryIO | None = None,
        err: BinaryIO | None = None,
        words: BinaryIO | None = None,
        interrupts: Interrupts | None = None,
    ) -> None:
        self._handler = handler
        self._spec = spec
        self._clock = clock or SystemClock()
        self._out = out or sys.stdout.buffer
        self._err = err or sys.stderr.buffer
        self._words = words or self._err
        self._interrupts = interrupts or Interrupts()
        self._interrupts.on_second = self._kill_workers
        self._interrupts.on_other = self._signal_workers
        self._files: WorkerFiles | None = None
        self._group: WorkerGroup | None = None
        self._restarts = 0
        self._failure: WorkerFailure | None = None
        self._is_unreachable = False

    def run(self) -> int:
        """Run the workers until the node has finished or failed; return the exit code.

        On the main thread it handles SIGTERM, SIGINT, SIGHUP and SIGQUIT: the workers get the same
        signal and the grace, and the node leaves the run. A second signal kills them at once.
        SIGUSR1 and SIGUSR2 it passes on to the workers, if there are any.
        """
        program = self._spec.command[0]
        if shutil.which(program, path=self._spec.environment.get("PATH")) is None:
            self._say(f"there is no program {program!r} that can be run: check its name and PATH")
            return EXIT_NOT_FOUND
        grace_s = min(ORPHAN_GRACE_S, self._spec.stop_grace_s)
        with self._interrupts.installed(), Wards(grace_s) as wards:
            try:
                return self._run_rounds(wards)
            except Interrupted:
                return self._end_by_signal()
            except RendezvousError as error:
                return self._end_by_error(error)
            finally:
                self._stop_workers()

    def _run_rounds(self, wards: Wards) -> int:
        infirmary = self._infirmary()
        self._files = WorkerFiles(self._spec.run_id, self._spec.log_dir, wards)
        while True:
            if infirmary is not None:
                infirmary.await_health(wards)
            with self._interrupts.felt():
                info = self._handler.next_rendezvous()
            self._note_place(info)
            self._failure = None
            exit_code = self._run_round(info, wards)
            if exit_code is not None:
                return exit_code

    def _note_place(self, info: RendezvousInfo) -> None:
        place = info.place
        node = getattr(self._handler, "node", None)
        logs.note(
            run=self._spec.run_id,
            round=place.round if place is not None else None,
            node=str(node) if node is not None else None,
            rank=info.rank,
        )

    def _infirmary(self) -> Infirmary | None:
        check = self._spec.health_check
        if check is None:
            return None
        return Infirmary(check, self._handler, self._say, self._clock, self._interrupts.felt)

    def _run_round(self, info: RendezvousInfo, wards: Wards) -> int | None:
        """Run the workers once; return the exit code, or None if the round is to be followed."""
        place = place_of(info, self._spec)
        try:
            group = self._start_workers(info, place, wards)
        except OSError as error:
            reason = f"the workers could not be started on node {place.rank}: {error}"
            self._say(reason)
            self._fail(f"{FAILED}: {reason}")
            return EXIT_NOT_STARTED
        status = self._monitor(group)
        if status is None:
            why = self._handler.reason_to_regroup
            because = f" ({why})" if why else ""
            self._say(
                printable(f"round {place.round}: the world changes{because}, stopping the workers")
            )
            self._stop_workers()
            return None
        if status.failure is not None:
            return self._after_failure(status.failure, group, place)
        self._stop_workers()
        return self._finish(info, place)

    def _start_workers(self, info: RendezvousInfo, place: Place, wards: Wards) -> WorkerGroup:
        spec, files = self._spec, self._files
        assert files is not None
        self._say(
            f"round {place.round}: node rank {place.rank} in a world of {place.size} node(s), "
            f"starting {spec.workers} of {place.workers} worker(s)"
        )
        files.begin(place)
        environments, logs = {}, {}
        for local_rank in range(spec.workers):
            rank = place.first_worker + local_rank
            environments[rank] = worker_environment(
                spec,
                place,
                info.bootstrap_store_info,
                local_rank,
                self._restarts,
                self._handler.use_agent_store,
                files.error(rank),
            )
            log = files.log(rank)
            if log is not None:
                logs[rank] = log
        self._group = WorkerGroup(wards, WorkerOutput(self._out, self._err), self._clock)
        # Several workers would each get some of it.
        standard_input = shared_input() if spec.workers == 1 else None
        self._group.start(spec.command, environments, logs, standard_input)
        return self._group

    def _monitor(self, group: WorkerGroup) -> WorkerStatus | None:
        """Wait for the workers' end; return None if the world is to change before.

        Raises:
            RendezvousClosedError: The job has failed for good on another node.
        """
        while True:
            with self._interrupts.felt():
                status = group.wait(self._spec.monitor_interval_s)
                if status.state is not WorkerState.RUNNING:
                    return status
                if self._is_changing():
                    return None
                reason = self._handler.closed_reason
                if reason.startswith(FAILED):
                    raise RendezvousClosedError("another node has failed for good", reason)

    def _is_changing(self) -> bool:
        """Return whether the world is to change; while nobody can be asked, it is not (R11)."""
        return self._ask(lambda: self._handler.num_nodes_waiting() > 0)

    def _ask(self, question: Callable[[], bool]) -> bool:
        """Ask the rendezvous; while nobody answers, the answer is no."""
        try:
            answer = question()
        except RendezvousConnectionError as error:
            if not self._is_unreachable:
                self._say(f"the workers go on, though nobody tells of changes: {error}")
            self._is_unreachable = True
            return False
        self._is_unreachable = False
        return answer

    def _after_failure(
        self, failure: WorkerFailure, group: WorkerGroup, place: Place
    ) -> int | None:
        noticed_at = self._clock.monotonic()
        self._failure = failure
        group.ask_to_end()
        self._say(str(failure))
        self._stop_workers()
        if place.size > 1 and self._await_symptom(noticed_at + self._spec.loss_window_s):
            self._say("the world changes as well: this failure does not count, regrouping")
            return None
        if self._restarts < self._spec.max_restarts:
            self._restarts += 1
            self._say(f"restart {self._restarts} of {self._spec.max_restarts}")
            return None
        for line in group.last_lines(failure.rank):
            self._say(f"  [{failure.rank}]:{_beginning_of(line)}")
        self._say(f"first to fail on this node: {failure}")
        self._tell_error(failure)
        if failure.log is not None:
            self._say(f"all that it printed is in {failure.log}")
        if self._fail(f"{FAILED}: {failure} on node {place.rank}"):
            return failure.exit_code
        self._say("the world has changed as well: this failure does not count, joining again")
        return None

    def _tell_error(self, failure: WorkerFailure) -> None:
        """Say what a worker has recorded of its failure, and hand it on to who watches us."""
        path = self._files.error(failure.rank) if self._files is not None else None
        error = read_error(path) if path is not None else None
        if error is None:
            return
        if error.message:
            self._say(f"the error that it recorded: {error.message}")
        own = self._spec.environment.get(ERROR_FILE_VARIABLE)
        if own:
            try:
                Path(own).write_bytes(error.content)
            except OSError as problem:
                self._say(f"its error could not be copied to ${ERROR_FILE_VARIABLE}: {problem}")

    def _await_symptom(self, deadline: float) -> bool:
        """Return whether members change, as soon as they do, at the deadline if they do not.

        Others that merely come back to regroup have failed themselves: each counts its own failure,
        else nobody would count those of the rest.
        """
        with self._interrupts.felt():
            while not self._ask(self._handler.members_change):
                remaining_s = deadline - self._clock.monotonic()
                if remaining_s <= 0:
                    return False
                self._clock.sleep(min(self._spec.monitor_interval_s, remaining_s))
        return True

    def _fail(self, reason: str) -> bool:
        """Close the run for everyone, since this node cannot go on (R7).

        Returns:
            Whether this node has to end; if not, the failure was a symptom, and the others go on.
        """
        self._stop_workers()
        try:
            with self._interrupts.felt():
                return self._handler.fail(reason)
        except RendezvousError as error:
            self._say(f"the others could not be told of the failure: {error}")
            return True

    def _finish(self, info: RendezvousInfo, place: Place) -> int:
        """Wait for the others, and close the run as succeeded or leave it."""
        try:
            with self._interrupts.felt():
                self._handler.finish()
                ending = await_others(
                    info.store,
                    place.size,
                    self._handler.is_closed,
                    self._is_changing,
                    self._clock,
                    self._spec.exit_barrier_s,
                )
                self._part(ending, place)
        # The work is done: that nobody can be told, by whatever kind of store, does not undo it.
        except (RendezvousError, RuntimeError, OSError) as error:
            self._say(f"the workers have finished, but the others could not be told: {error}")
        return 0

    def _part(self, ending: Ending, place: Place) -> None:
        self._say(f"the workers of this node have finished; {ending.value}")
        if ending is Ending.CHANGE:
            self._leave("its workers have finished")
            return
        if ending is Ending.EVERYONE:
            self._handler.set_closed(f"{SUCCEEDED}: all {place.size} node(s) have finished")
        elif ending is Ending.TIMEOUT:
            late_s = self._spec.exit_barrier_s
            self._handler.set_closed(
                f"{SUCCEEDED} on node {place.rank}, while others still worked {late_s:g} s later"
            )
        self._handler.shutdown()

    def _end_by_signal(self) -> int:
        number = self._interrupts.first
        assert number is not None
        # Before anything is said, which may take a while.
        if self._group is not None:
            self._group.ask_to_end(number)
        self._say(f"received {number.name}: stopping the workers and leaving the run")
        self._stop_workers()
        try:
            with self._interrupts.felt(above=1):
                self._leave(f"received {number.name}")
        except Interrupted:
            self._say("another signal: ending without a word to the others")
        return 128 + number

    def _end_by_error(self, error: RendezvousError) -> int:
        """Say why the run ends for this node. A worker's failure before it is the better reason."""
        self._stop_workers()
        if isinstance(error, RendezvousGracefulExitError):
            self._say(printable(f"not needed: {error}"))
            return 0
        if isinstance(error, RendezvousClosedError):
            started = self._group is not None
            hint = "" if started else "; nothing was started here: give a new job a new --rdzv-id"
            reason = printable(error.reason or str(error))
            self._say(f"the run {self._spec.run_id!r} is closed: {reason}{hint}")
            if started and self._failure is None and error.reason.startswith(SUCCEEDED):
                return 0
        else:
            self._say(printable(str(error)))
        if self._failure is not None:
            self._say(f"this node had failed before: {self._failure}")
            self._tell_error(self._failure)
            return self._failure.exit_code
        return error.exit_code

    def _leave(self, reason: str) -> None:
        try:
            self._handler.leave(reason)
        except RendezvousError as error:
            self._say(f"could not leave in an orderly way: {error}")

    def _stop_workers(self) -> None:
        if self._group is not None:
            self._group.stop(0 if self._interrupts.urgent else self._spec.stop_grace_s)

    def _kill_workers(self) -> None:
        if self._group is not None:
            self._group.kill()

    def _signal_workers(self, number: Signals) -> None:
        if self._group is not None:
            self._group.send(number)

    def _say(self, text: str) -> None:
        # Whoever read it may be gone; the workers are still to be looked after.
        with contextlib.suppress(OSError):
            self._words.write(f"quorate: {text}\n".encode(errors="replace"))
            self._words.flush()


def _beginning_of(line: str) -> str:
    return line if len(line) <= LAST_LINE_MAX else f"{line[:LAST_LINE_MAX]} ..."
