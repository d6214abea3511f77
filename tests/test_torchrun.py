"""torchrun's rendezvous: what torch's agent gets from the store and the handler, and hands back."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist
from torch.distributed.elastic.agent.server.api import SimpleElasticAgent
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous import api as torch_api
from torch.distributed.elastic.utils import store as store_util

from quorate import torchrun
from quorate.api import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo
from quorate.cli.common import Connection
from quorate.cli.inquiry import inquire
from quorate.cli.status import fetch_status
from quorate.coordinator.entrance.door import Keys
from quorate.credentials import Token
from quorate.errors import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousError,
    RendezvousGracefulExitError,
    RendezvousLimitError,
    RendezvousProtocolError,
    RendezvousReplacedError,
    RendezvousSettingsError,
    RendezvousStateError,
    RendezvousTimeoutError,
)
from quorate.stores.memory import MemoryStore
from quorate.torchrun import TorchRendezvousHandler, TorchStore, create_handler
from quorate.wire.messages import Done, Drain, Evict
from tests.served import QUICK, ThreadedCoordinator

pytestmark = pytest.mark.torch

GLOO_PROGRAM = Path(__file__).with_name("gloo_program.py")
EXIT_BARRIER = "torchelastic/agent/terminal_state"
SHORT = timedelta(seconds=0.05)
LATE_S = 15.0


class Circumstances:
    """What a store may ask about its world."""

    def __init__(self) -> None:
        self.broken = False
        self.closed = False
        self.finished = 0

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def now() -> Circumstances:
    return Circumstances()


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchrun, "LOOK_EVERY_S", 0.01)


def store_of(now: Circumstances, size: int = 3, memory: Any = None) -> TorchStore:
    return TorchStore(
        memory if memory is not None else MemoryStore(),
        size,
        lambda: now.broken,
        lambda: now.closed,
        now.finish,
    )


class Unreachable:
    """A store whose coordinator is gone."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def fail(*_: Any) -> Any:
            raise RendezvousConnectionError("nobody there")

        return fail


class TestTorchStore:
    """The calls of torch's stores."""

    def test_it_keeps_what_it_is_given(self, now: Circumstances) -> None:
        store = store_of(now)
        store.set("text", "value")
        store.set("bytes", b"\x00\xff")
        assert store.get("text") == b"value"
        assert store.get("bytes") == b"\x00\xff"
        assert store.add("number", 2) == 2
        assert store.add("number", 3) == 5
        assert store.compare_set("text", "value", "other") == b"other"
        assert store.compare_set("text", "value", "third") == b"other"
        store.multi_set(["a", "b"], ["1", b"2"])
        assert store.multi_get(["a", "b"]) == [b"1", b"2"]
        assert store.check(["a", "b"])
        assert not store.check(["a", "absent"])
        assert store.num_keys() == 5
        assert store.delete_key("a")
        assert not store.delete_key("a")
        store.wait(["b", "text"])

    def test_what_is_not_there_yet_is_waited_for(self, now: Circumstances) -> None:
        memory = MemoryStore()
        store = store_of(now, memory=memory)
        with ThreadPoolExecutor() as threads:
            value = threads.submit(store.get, "late")
            values = threads.submit(store.multi_get, ["late", "later"])
            waited = threads.submit(store.wait, ["later"], timedelta(seconds=LATE_S))
            memory.set("late", "1")
            memory.set("later", "2")
            assert value.result(LATE_S) == b"1"
            assert values.result(LATE_S) == [b"1", b"2"]
            assert waited.result(LATE_S) is None

    def test_what_does_not_come_is_torchs_error(self, now: Circumstances) -> None:
        store = store_of(now)
        store.set_timeout(SHORT)
        assert store.timeout == SHORT
        for call in (
            lambda: store.get("absent"),
            lambda: store.multi_get(["absent"]),
            lambda: store.wait(["absent"]),
        ):
            with pytest.raises(dist.DistStoreError, match="absent"):
                call()

    def test_no_time_at_all_is_a_timeout_too(self, now: Circumstances) -> None:
        with pytest.raises(dist.DistStoreError, match="absent"):
            store_of(now).wait(["absent"], timedelta(0))

    def test_the_timeout_is_that_of_torchs_stores(self, now: Circumstances) -> None:
        assert store_of(now).timeout == timedelta(seconds=300)
        store = TorchStore(MemoryStore(), 1, bool, bool, bool, SHORT)
        assert store.timeout == SHORT

    @pytest.mark.parametrize(
        "call",
        [
            lambda store: store.set("key", "1"),
            lambda store: store.get("key"),
            lambda store: store.multi_get(["key"]),
            lambda store: store.multi_set(["key"], ["1"]),
            lambda store: store.add("key", 1),
            lambda store: store.compare_set("key", "", "1"),
            lambda store: store.wait(["key"]),
            lambda store: store.check(["key"]),
            lambda store: store.delete_key("key"),
            lambda store: store.num_keys(),
        ],
    )
    def test_our_errors_become_torchs(
        self, now: Circumstances, call: Callable[[TorchStore], Any]
    ) -> None:
        with pytest.raises(dist.DistStoreError, match="nobody there"):
            call(store_of(now, memory=Unreachable()))


class TestRoleExchange:
    """A member that is lost before it has told its role (R8)."""

    def assign(self, store: TorchStore, rank: int, size: int, workers: int = 2) -> list[Any]:
        """Let torch's agent of a rank find the places of its workers."""
        spec = SimpleNamespace(role="trainer", local_world_size=workers)
        assign: Any = SimpleElasticAgent._assign_worker_ranks
        found: list[Any] = assign(object(), store, rank, size, spec)
        return found

    def test_while_all_are_there_each_tells_its_own(self, now: Circumstances) -> None:
        memory = MemoryStore()
        with ThreadPoolExecutor() as threads:
            assigned = [
                threads.submit(self.assign, store_of(now, memory=memory), rank, 3, workers)
                for rank, workers in enumerate([1, 2, 3])
            ]
            workers = [worker for found in assigned for worker in found.result(LATE_S)]
        assert [worker.global_rank for worker in workers] == [0, 1, 2, 3, 4, 5]
        assert {worker.world_size for worker in workers} == {6}

    def test_rank_0_gets_a_role_for_every_lost_one(self, now: Circumstances) -> None:
        now.broken = True
        memory = MemoryStore()
        store_of(now, memory=memory).set(
            "torchelastic/role_info/1",
            json.dumps({"role": "trainer", "rank": 1, "local_world_size": 4}),
        )
        found = self.assign(store_of(now, memory=memory), 0, 3)
        assert [worker.global_rank for worker in found] == [0, 1]
        assert {worker.world_size for worker in found} == {2 + 4 + 2}

    def test_others_get_ranks_when_rank_0_is_lost(self, now: Circumstances) -> None:
        now.broken = True
        found = self.assign(store_of(now), 2, 3)
        assert [worker.global_rank for worker in found] == [4, 5]
        assert {worker.world_size for worker in found} == {6}

    def test_a_loss_in_the_middle_of_the_wait_ends_it(self, now: Circumstances) -> None:
        store = store_of(now)
        with ThreadPoolExecutor() as threads:
            found = threads.submit(self.assign, store, 1, 3)
            now.broken = True
            assert len(found.result(LATE_S)) == 2

    def test_many_lost_ones_cost_one_wait(self, now: Circumstances) -> None:
        now.broken = True
        memory = MemoryStore()
        waits = []
        wait = memory.wait
        memory.wait = lambda keys, timeout_s: (waits.append(keys), wait(keys, timeout_s))  # type: ignore[method-assign,assign,misc]
        self.assign(store_of(now, memory=memory), 0, 100)
        assert len(waits) == 2

    def test_in_a_world_that_stands_nobody_is_replaced(self, now: Circumstances) -> None:
        now.closed = True
        store = store_of(now)
        store.set_timeout(SHORT)
        with pytest.raises(dist.DistStoreError):
            self.assign(store, 1, 3)

    def test_in_a_broken_world_other_keys_are_waited_for(self, now: Circumstances) -> None:
        now.broken = True
        store = store_of(now)
        store.set_timeout(SHORT)
        with pytest.raises(dist.DistStoreError):
            store.get("MASTER_ADDR")


class TestExitBarrier:
    """The wait for the others after the work is done (R7)."""

    def test_those_who_finish_meet(self, now: Circumstances) -> None:
        memory = MemoryStore()
        with ThreadPoolExecutor() as threads:
            waits = [
                threads.submit(
                    store_util.barrier, store_of(now, 2, memory), 2, EXIT_BARRIER, LATE_S
                )
                for _ in range(2)
            ]
            for wait in waits:
                wait.result(LATE_S)
        assert now.finished == 2

    @pytest.mark.parametrize("what", ["broken", "closed"])
    def test_nobody_is_waited_for_who_will_not_come(self, now: Circumstances, what: str) -> None:
        setattr(now, what, True)
        store_util.barrier(store_of(now), 3, EXIT_BARRIER, LATE_S)
        assert now.finished == 1

    def test_whoever_works_is_waited_for(self, now: Circumstances) -> None:
        store = store_of(now)
        with pytest.raises(dist.DistStoreError):
            store_util.barrier(store, 3, EXIT_BARRIER, SHORT.total_seconds())

    def test_that_nobody_can_be_told_is_torchs_error(self, now: Circumstances) -> None:
        def finish() -> None:
            raise RendezvousConnectionError("nobody there")

        now.finish = finish  # type: ignore[method-assign]
        with pytest.raises(dist.DistStoreError, match="nobody there"):
            store_util.barrier(store_of(now), 3, EXIT_BARRIER, LATE_S)


class Ours(RendezvousHandler):
    """A handler of the direct way that does as it is told."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.said: list[str] = []
        self.waiting = 0
        self.closed = False

    def _may_fail(self) -> None:
        if self.error is not None:
            raise self.error

    def get_backend(self) -> str:
        return "direct"

    def get_run_id(self) -> str:
        return "job"

    def next_rendezvous(self) -> RendezvousInfo:
        self._may_fail()
        return RendezvousInfo(MemoryStore(), 1, 3, RendezvousStoreInfo("node1", 1234))

    def is_closed(self) -> bool:
        self._may_fail()
        return self.closed

    def set_closed(self, reason: str = "") -> None:
        self._may_fail()
        self.said.append(f"closed: {reason}")

    def num_nodes_waiting(self) -> int:
        self._may_fail()
        return self.waiting

    def shutdown(self) -> bool:
        self._may_fail()
        self.said.append("shut down")
        return True

    def leave(self, reason: str = "") -> None:
        self._may_fail()
        self.said.append(f"left: {reason}")


@pytest.fixture
def ours() -> Ours:
    return Ours()


@pytest.fixture
def handler(ours: Ours) -> TorchRendezvousHandler:
    return TorchRendezvousHandler(ours)


def child_failed() -> ChildFailedError:
    failure = ProcessFailure(local_rank=0, pid=997, exitcode=3, error_file="absent")
    return ChildFailedError("train.py", {0: failure})


class TestHandler:
    """What torch's agent and launcher get to see."""

    def test_a_round_is_handed_on(self, handler: TorchRendezvousHandler) -> None:
        info = handler.next_rendezvous()
        assert (info.rank, info.world_size) == (1, 3)
        assert isinstance(info.store, dist.Store)
        assert info.bootstrap_store_info.master_addr == "node1"
        assert info.bootstrap_store_info.master_port == 1234

    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            (RendezvousClosedError("gone", "enough"), torch_api.RendezvousClosedError),
            (RendezvousTimeoutError("late"), torch_api.RendezvousTimeoutError),
            (RendezvousConnectionError("cut"), torch_api.RendezvousConnectionError),
            (RendezvousProtocolError("what"), torch_api.RendezvousConnectionError),
            (RendezvousStateError("torn"), torch_api.RendezvousStateError),
            (RendezvousSettingsError("odd"), torch_api.RendezvousError),
            (RendezvousReplacedError("newer"), torch_api.RendezvousError),
            (RendezvousLimitError("full"), torch_api.RendezvousError),
        ],
    )
    def test_errors_are_torchs(
        self,
        handler: TorchRendezvousHandler,
        ours: Ours,
        error: RendezvousError,
        expected: type[Exception],
    ) -> None:
        ours.error = error
        for call in (handler.next_rendezvous, handler.is_closed, handler.set_closed):
            with pytest.raises(expected, match=str(error)) as raised:
                call()
            assert type(raised.value) is expected
            assert raised.value.__cause__ is error

    def test_who_is_not_needed_exits_with_0(
        self, handler: TorchRendezvousHandler, ours: Ours
    ) -> None:
        ours.error = RendezvousGracefulExitError("the run has ended")
        ours.leave = ours.said.append  # type: ignore[method-assign]
        with pytest.raises(SystemExit) as raised:
            handler.next_rendezvous()
        assert raised.value.code == 0
        assert ours.said == ["was not needed"]
        assert handler.shutdown()
        assert ours.said == ["was not needed"]

    def test_who_is_not_needed_exits_with_0_though_nobody_can_be_told(
        self, ours: Ours, handler: TorchRendezvousHandler, caplog: pytest.LogCaptureFixture
    ) -> None:
        def leave(reason: str = "") -> None:
            raise RendezvousConnectionError("the store went with rank 0")

        ours.error, ours.leave = RendezvousGracefulExitError("over"), leave  # type: ignore[method-assign]
        with pytest.raises(SystemExit) as ended:
            handler.next_rendezvous()
        assert ended.value.code == 0
        assert "the store went with rank 0" in caplog.text
        assert handler.shutdown()

    def test_a_member_is_not_told_that_all_is_well_when_its_run_went_on_without_it(
        self, handler: TorchRendezvousHandler, ours: Ours
    ) -> None:
        handler.next_rendezvous()
        ours.error = RendezvousClosedError("closed", "succeeded: the workers have finished")
        with pytest.raises(torch_api.RendezvousClosedError):
            handler.next_rendezvous()

    def test_a_run_that_failed_turns_latecomers_away_with_an_error(
        self, handler: TorchRendezvousHandler, ours: Ours
    ) -> None:
        ours.error = RendezvousClosedError("closed", "failed: exit code 3")
        with pytest.raises(torch_api.RendezvousClosedError):
            handler.next_rendezvous()

    def test_changes_are_counted_and_never_raise(
        self, handler: TorchRendezvousHandler, ours: Ours, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An error would end the agent; it is mentioned once each time that it begins."""
        ours.waiting = 2
        assert handler.num_nodes_waiting() == 2
        ours.error = RendezvousConnectionError("nobody there")
        assert [handler.num_nodes_waiting() for _ in range(3)] == [0, 0, 0]
        assert len(caplog.records) == 1
        ours.error = None
        assert handler.num_nodes_waiting() == 2
        ours.error = RendezvousStateError("torn")
        assert handler.num_nodes_waiting() == 0
        assert len(caplog.records) == 2

    def test_closed_is_what_ours_says(self, handler: TorchRendezvousHandler, ours: Ours) -> None:
        assert not handler.is_closed()
        ours.closed = True
        assert handler.is_closed()
        handler.set_closed()
        assert ours.said == ["closed: "]


def shut_down_under(handler: TorchRendezvousHandler, error: BaseException | None) -> bool:
    """Call `shutdown` as torch's launcher does, after an error if there is one."""
    answers = []
    with contextlib.suppress(BaseException):
        try:
            if error is not None:
                raise error
        finally:
            answers.append(handler.shutdown())
    return answers[0]


class TestShutdown:
    """torch's launcher does not say how it ended; the exception under way does (R7)."""

    def test_success(self, handler: TorchRendezvousHandler, ours: Ours) -> None:
        handler.next_rendezvous()
        assert shut_down_under(handler, None)
        assert ours.said == ["shut down"]

    def test_a_failure_for_good_closes_the_run(
        self, handler: TorchRendezvousHandler, ours: Ours
    ) -> None:
        handler.next_rendezvous()
        assert shut_down_under(handler, child_failed())
        closed, left = ours.said
        assert closed.startswith("closed: failed: ")
        assert "train.py" in closed
        assert left == "left: its workers have failed"

    @pytest.mark.parametrize(
        "error",
        [
            SignalException("told to end", sigval=signal.SIGTERM),
            SystemExit(0),
            KeyboardInterrupt(),
            dist.DistStoreError("late"),
            torch_api.RendezvousTimeoutError("late"),
        ],
    )
    def test_anything_else_leaves(
        self, handler: TorchRendezvousHandler, ours: Ours, error: BaseException
    ) -> None:
        handler.next_rendezvous()
        assert shut_down_under(handler, error)
        (said,) = ours.said
        assert said.startswith(f"left: ended by {type(error).__name__}: ")

    @pytest.mark.parametrize("error", [None, child_failed(), KeyboardInterrupt()])
    def test_who_was_in_no_world_leaves(
        self, handler: TorchRendezvousHandler, ours: Ours, error: BaseException | None
    ) -> None:
        assert shut_down_under(handler, error)
        assert ours.said == ["left: was in no world"]

    @pytest.mark.parametrize("error", [RendezvousTimeoutError("late"), RuntimeError("odd")])
    @pytest.mark.parametrize("under", [None, child_failed(), KeyboardInterrupt()])
    def test_it_never_raises(
        self,
        handler: TorchRendezvousHandler,
        ours: Ours,
        error: Exception,
        under: BaseException | None,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        handler.next_rendezvous()
        ours.error = error
        assert not shut_down_under(handler, under)
        assert str(error) in caplog.text

    @pytest.mark.parametrize("error", [None, child_failed()])
    def test_an_error_that_the_caller_handles_is_not_this_jobs(
        self, ours: Ours, error: BaseException | None
    ) -> None:
        """A second job is launched because a first one has failed."""
        try:
            raise child_failed()
        except ChildFailedError:
            handler = TorchRendezvousHandler(ours)
            handler.next_rendezvous()
            assert shut_down_under(handler, error)
        assert (ours.said == ["shut down"]) == (error is None)

    def test_it_acts_once(self, handler: TorchRendezvousHandler, ours: Ours) -> None:
        handler.next_rendezvous()
        assert handler.shutdown()
        assert handler.shutdown()
        assert ours.said == ["shut down"]


@pytest.fixture
def coordinator() -> Iterator[ThreadedCoordinator]:
    coordinator = ThreadedCoordinator()
    yield coordinator
    coordinator.stop()


Make = Callable[..., TorchRendezvousHandler]


@pytest.fixture
def agent(coordinator: ThreadedCoordinator) -> Iterator[Make]:
    """Return a function that makes a handler as torchrun does, by its parameters."""
    with contextlib.ExitStack() as made:

        def make(nodes: tuple[int, int] = (1, 1), **config: str) -> TorchRendezvousHandler:
            handler = create_handler(parameters(coordinator, nodes, **config))
            made.callback(handler.shutdown)
            return handler

        yield make


def parameters(
    coordinator: ThreadedCoordinator, nodes: tuple[int, int], **config: str
) -> torch_api.RendezvousParameters:
    return torch_api.RendezvousParameters(
        "quorate", str(coordinator.endpoint), "job", *nodes, timeout=900, **(QUICK | config)
    )


def join(*handlers: TorchRendezvousHandler) -> list[torch_api.RendezvousInfo]:
    with ThreadPoolExecutor() as threads:
        joining = [threads.submit(handler.next_rendezvous) for handler in handlers]
        return [future.result(LATE_S) for future in joining]


def closed_reason(coordinator: ThreadedCoordinator) -> str:
    status = fetch_status(Connection([coordinator.endpoint], LATE_S), "job")
    return str(status["runs"][0]["closed_reason"])


@pytest.mark.parametrize(
    ("program", "is_it"),
    [
        ("/usr/bin/torchrun", True),
        ("/x/site-packages/torch/distributed/run.py", True),
        ("/x/site-packages/torch/distributed/launch.py", True),
        ("/x/torch/distributed/elastic.py", False),
        ("train.py", False),
        ("/home/me/run.py", False),
        ("", False),
    ],
)
def test_torchrun_is_known_by_its_name(program: str, is_it: bool) -> None:
    assert torchrun.is_torchrun(program) is is_it


class TestCoordinated:
    """With a coordinator, as torchrun uses it by default."""

    def test_every_round_has_a_store_and_a_port_of_its_own(self, agent: Make) -> None:
        handlers = [agent((2, 2)) for _ in range(2)]
        first = join(*handlers)
        first[0].store.set("key", "first")
        second = join(*handlers)
        assert not second[0].store.check(["key"])
        ports = [info.bootstrap_store_info.master_port for info in (*first, *second)]
        assert ports[0] == ports[1] != ports[2] == ports[3]
        assert [info.rank for info in second] == [info.rank for info in first]

    def test_a_member_that_is_drained_exits_with_0_at_the_next_regroup(
        self, agent: Make, coordinator: ThreadedCoordinator
    ) -> None:
        """As a spare that is not needed: torch's launcher does not know a graceful exit."""
        handlers = [agent((1, 2)) for _ in range(2)]
        join(*handlers)
        connection = Connection([coordinator.endpoint], LATE_S)
        inquire(connection, lambda id: Drain(id, "rank 1"), Done, "job")
        with ThreadPoolExecutor() as threads:
            joining = [threads.submit(handler.next_rendezvous) for handler in handlers]
            ended = [future.exception(LATE_S) for future in joining]
        (left,) = [error for error in ended if error is not None]
        assert isinstance(left, SystemExit)
        assert left.code == 0

    def test_an_evicted_member_ends_with_an_error_of_torch(
        self, agent: Make, coordinator: ThreadedCoordinator, until: Any
    ) -> None:
        handler = agent()
        join(handler)
        connection = Connection([coordinator.endpoint], LATE_S)
        inquire(connection, lambda id: Evict(id, "rank 0"), Done, "job")
        until(lambda: handler.num_nodes_waiting() > 0)
        with pytest.raises(torch_api.RendezvousError, match="evicted by the operator"):
            handler.next_rendezvous()

    def test_who_comes_back_first_is_told_of(self, agent: Make, until: Any) -> None:
        handlers = [agent((2, 2)) for _ in range(2)]
        join(*handlers)
        assert handlers[1].num_nodes_waiting() == 0
        with ThreadPoolExecutor() as threads:
            returning = threads.submit(handlers[0].next_rendezvous)
            until(lambda: handlers[1].num_nodes_waiting() > 0, LATE_S)
            handlers[1].next_rendezvous()
            assert returning.result(LATE_S).world_size == 2

    def test_a_broken_world_releases_those_in_its_store(self, agent: Make) -> None:
        handlers = [agent((2, 2)) for _ in range(2)]
        infos = join(*handlers)
        with ThreadPoolExecutor() as threads:
            barrier = threads.submit(
                store_util.barrier, infos[0].store, 2, EXIT_BARRIER, 10 * LATE_S
            )
            shut_down_under(handlers[1], KeyboardInterrupt())
            barrier.result(LATE_S)

    def test_the_run_is_closed_once_all_have_finished(
        self, agent: Make, coordinator: ThreadedCoordinator
    ) -> None:
        handlers = [agent((2, 2)) for _ in range(2)]
        infos = join(*handlers)
        with ThreadPoolExecutor() as threads:
            for info in infos:
                threads.submit(store_util.barrier, info.store, 2, EXIT_BARRIER, LATE_S)
        assert closed_reason(coordinator) == "succeeded: all nodes of round 0 have finished"
        for handler in handlers:
            assert handler.shutdown()
        with pytest.raises(torch_api.RendezvousClosedError, match="succeeded"):
            agent((2, 2)).next_rendezvous()

    def test_success_closes_the_run_where_nobody_has_met(
        self, agent: Make, coordinator: ThreadedCoordinator
    ) -> None:
        """As when the exit barrier's time is over, and others still work."""
        handlers = [agent((2, 2)) for _ in range(2)]
        join(*handlers)
        assert handlers[0].shutdown()
        assert closed_reason(coordinator) == "succeeded: the workers have finished"

    def test_a_failure_for_good_closes_the_run_for_all(
        self, agent: Make, coordinator: ThreadedCoordinator
    ) -> None:
        handlers = [agent((2, 2)) for _ in range(2)]
        join(*handlers)
        assert shut_down_under(handlers[0], child_failed())
        assert closed_reason(coordinator).startswith("failed: ")
        with pytest.raises(torch_api.RendezvousClosedError):
            handlers[1].next_rendezvous()

    def test_a_failure_beside_a_loss_is_a_symptom(
        self, agent: Make, coordinator: ThreadedCoordinator, until: Any
    ) -> None:
        handlers = [agent((1, 3)) for _ in range(3)]
        join(*handlers)
        shut_down_under(handlers[2], KeyboardInterrupt())
        until(lambda: handlers[0].num_nodes_waiting() > 0, LATE_S)
        assert shut_down_under(handlers[0], child_failed())
        assert not closed_reason(coordinator)
        assert handlers[1].next_rendezvous().world_size == 1

    def test_other_kinds_of_rendezvous_are_chosen_by_a_key(self, tmp_path: Path) -> None:
        handler = create_handler(
            torch_api.RendezvousParameters(
                "quorate", str(tmp_path / "run"), "job", 1, 1, kind="file", timeout=900
            )
        )
        info = handler.next_rendezvous()
        assert (info.rank, info.world_size) == (0, 1)
        assert handler.get_backend() == "quorate"
        assert handler.num_nodes_waiting() == 0
        assert handler.shutdown()

    @pytest.mark.parametrize("shares", [True, False])
    def test_the_workers_are_told_whether_the_agent_serves_their_store(
        self, ours: Ours, shares: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Ours, "use_agent_store", shares)
        assert TorchRendezvousHandler(ours).use_agent_store is shares

    def test_port_0_is_a_coordinator_of_its_own(self) -> None:
        """torchrun's own help recommends it for several jobs of one node on one machine."""
        handler = create_handler(
            torch_api.RendezvousParameters("quorate", "localhost:0", "job", 1, 1, timeout=900)
        )
        assert handler.next_rendezvous().world_size == 1
        ours: Any = handler._handler
        endpoint = ours.endpoint
        assert endpoint.port != 0
        assert handler.shutdown()
        with pytest.raises(RendezvousConnectionError):
            fetch_status(Connection([endpoint], 0.1))

    def test_port_0_is_of_no_use_to_several(self) -> None:
        with pytest.raises(ValueError, match="Nobody can find a coordinator at port 0"):
            create_handler(
                torch_api.RendezvousParameters("quorate", "localhost:0", "job", 1, 2, timeout=900)
            )

    def test_an_unknown_key_is_refused_by_name(self, coordinator: ThreadedCoordinator) -> None:
        with pytest.raises(ValueError, match=r"'joint_timeout'.*did you mean 'join_timeout'"):
            create_handler(parameters(coordinator, (1, 1), joint_timeout="1"))

    def test_under_torchrun_wrong_settings_are_one_line(
        self,
        agent: Make,
        coordinator: ThreadedCoordinator,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(sys, "argv", ["/somewhere/bin/torchrun", "train.py"])
        join(agent((1, 2)))
        stranger = create_handler(parameters(coordinator, (1, 3)))
        with pytest.raises(SystemExit) as differing:
            stranger.next_rendezvous()
        with pytest.raises(SystemExit) as unknown:
            create_handler(parameters(coordinator, (1, 2), joint_timeout="1"))
        assert differing.value.code == unknown.value.code == 76
        first, second = capsys.readouterr().err.splitlines()
        assert first.startswith("quorate: ")
        assert "max_nodes is 2 in the run, 3 here" in first
        assert "'joint_timeout'" in second

    def test_a_sick_node_stays_out(self, coordinator: ThreadedCoordinator) -> None:
        config = {"health_check": "sh -c 'echo no disk; exit 1'", "join_timeout": "1"}
        handler = create_handler(parameters(coordinator, (1, 1), **config))
        with pytest.raises(torch_api.RendezvousError, match=r"not healthy within 1 s.*no disk"):
            handler.next_rendezvous()
        assert handler.shutdown()

    def test_a_healthy_one_does_not(self, agent: Make) -> None:
        assert agent(health_check="true").next_rendezvous().world_size == 1

    def test_r15_a_token_is_given_as_a_key(self, tmp_path: Path) -> None:
        file = tmp_path / "token"
        file.write_text("a-shared-secret-of-ours")
        locked = ThreadedCoordinator(keys=Keys(Token.from_file(file)))
        handler = create_handler(parameters(locked, (1, 1), token_file=str(file)))
        assert handler.next_rendezvous().world_size == 1
        assert handler.shutdown()
        stranger = create_handler(parameters(locked, (1, 1)))
        with pytest.raises(torch_api.RendezvousError, match="wants a token"):
            stranger.next_rendezvous()
        assert stranger.shutdown()
        locked.stop()

    def test_the_keys_of_torchs_store_are_understood(self, agent: Make) -> None:
        handler = agent(read_timeout="7", store_type="tcp")
        assert handler.next_rendezvous().store.timeout == timedelta(seconds=7)

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"store_type": "file"}, "'store_type' is 'file'.* add kind=c10d"),
            ({"read_timeout": "soon"}, "'read_timeout' is 'soon'"),
            ({"read_timeout": "0"}, "more than 0 seconds"),
            ({"read_timeout": "-5"}, "more than 0 seconds"),
            ({"read_timeout": "nan"}, "not a reasonable number"),
        ],
    )
    def test_what_our_store_is_not_is_refused(
        self, coordinator: ThreadedCoordinator, config: dict[str, str], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            create_handler(parameters(coordinator, (1, 1), **config))

    @pytest.mark.timeout(60)
    def test_gloo_meets_in_its_store(self, coordinator: ThreadedCoordinator) -> None:
        """Two processes make a process group with the store of a round, and sum."""
        command = [sys.executable, str(GLOO_PROGRAM), str(coordinator.endpoint)]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        outputs = [process.communicate(timeout=50)[0] for process in processes]
        assert [process.returncode for process in processes] == [0, 0]
        assert sorted(outputs) == ["rank 0: sum 3\n", "rank 1: sum 3\n"]
