"""The `etcd` rendezvous on a real etcd: nodes as threads and as processes, members that fail."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest

from quorate.api import RendezvousInfo, RendezvousParameters
from quorate.coordinator.ledgers.etcd import seat_key
from quorate.core.state import Place
from quorate.errors import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousGracefulExitError,
    RendezvousSettingsError,
    RendezvousTimeoutError,
)
from quorate.etcd.client import EtcdClient
from quorate.etcd.letters import Keys
from quorate.etcd.messages import prefix_end
from quorate.etcd.rendezvous import DEFAULT_PREFIX, EtcdRendezvousHandler, create_rdzv_handler
from quorate.etcd.server import EtcdServer
from quorate.registry import get_rendezvous_handler
from quorate.testing.etcd import EtcdCluster

pytestmark = [pytest.mark.etcd, pytest.mark.timeout(150)]

Until = Callable[..., Any]

PROGRAM = Path(__file__).with_name("node_program.py")
ROOT = Path(__file__).parents[2]

run_ids = (f"run/{number}" for number in count())


@pytest.fixture(scope="module")
def server() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        yield server


@pytest.fixture
def client(server: EtcdServer) -> Iterator[EtcdClient]:
    with server.get_client() as client:
        yield client


class Run:
    """Handlers of one run, each joining in a thread of its own."""

    def __init__(self, endpoint: str, **config: Any) -> None:
        self.run_id = next(run_ids)
        self.endpoint = endpoint
        self.config = {"last_call_timeout": 0.3, "keep_alive_interval": 1} | config
        self.handlers: list[EtcdRendezvousHandler] = []
        self.pool = ThreadPoolExecutor(8)

    @property
    def keys(self) -> Keys:
        return Keys.of_run(DEFAULT_PREFIX, self.run_id)

    def handler(self, least: int, most: int, **config: Any) -> EtcdRendezvousHandler:
        config = self.config | config
        params = RendezvousParameters("etcd", self.endpoint, self.run_id, least, most, **config)
        handler = create_rdzv_handler(params)
        self.handlers.append(handler)
        return handler

    def begin(self, handler: EtcdRendezvousHandler) -> Future[RendezvousInfo]:
        return self.pool.submit(handler.next_rendezvous)

    def join(self, *handlers: EtcdRendezvousHandler) -> list[RendezvousInfo]:
        """Let nodes join one round, and return what they get."""
        joins = [self.begin(handler) for handler in handlers]
        infos = [join.result(20) for join in joins]
        assert len({info.place.digest for info in infos if info.place}) == 1
        assert sorted(info.rank for info in infos) == list(range(len(infos)))
        return infos

    def world(self, size: int, least: int, most: int) -> list[EtcdRendezvousHandler]:
        handlers = [self.handler(least, most) for _ in range(size)]
        self.join(*handlers)
        return handlers

    def end(self) -> None:
        for handler in self.handlers:
            handler.leave("the test is over")
        self.pool.shutdown()


@pytest.fixture
def run(server: EtcdServer) -> Iterator[Run]:
    run = Run(server.get_endpoint())
    yield run
    run.end()


def place_of(info: RendezvousInfo) -> Place:
    assert info.place is not None
    return info.place


def names_below(client: EtcdClient, prefix: bytes) -> list[bytes]:
    return [pair.key for pair in client.range(prefix, prefix_end(prefix), keys_only=True).kvs]


class TestParameters:
    """PyTorch's names."""

    def test_etcd_rdzv_basic_params(self, server: EtcdServer) -> None:
        params = RendezvousParameters("etcd", server.get_endpoint(), "basic", 1, 1)
        handler = create_rdzv_handler(params)
        try:
            assert handler.get_run_id() == "basic"
            settings = handler.settings
            assert (settings.min_nodes, settings.max_nodes) == (1, 1)
            assert settings.timeout.join.total_seconds() == 600
            assert settings.timeout.last_call.total_seconds() == 30
            info = handler.next_rendezvous()
            assert (info.rank, info.world_size) == (0, 1)
        finally:
            assert handler.shutdown()

    def test_etcd_rdzv_additional_params(self, server: EtcdServer, client: EtcdClient) -> None:
        params = RendezvousParameters(
            "etcd",
            server.get_endpoint(),
            "additional",
            1,
            2,
            timeout=60,
            last_call_timeout=0.1,
            protocol="http",
            etcd_prefix="/elsewhere/",
            local_addr="10.1.2.3",
        )
        handler = create_rdzv_handler(params)
        try:
            assert handler.settings.timeout.join.total_seconds() == 60
            info = handler.next_rendezvous()
            assert (info.rank, info.world_size) == (0, 1)
            assert info.bootstrap_store_info is not None
            assert info.bootstrap_store_info.master_addr == "10.1.2.3"
            assert len(names_below(client, b"/elsewhere/additional/node/")) == 1
        finally:
            assert handler.shutdown()

    def test_get_backend(self, server: EtcdServer) -> None:
        params = RendezvousParameters("etcd", server.get_endpoint(), "backend", 1, 1)
        handler = get_rendezvous_handler(params)
        assert isinstance(handler, EtcdRendezvousHandler)
        assert handler.get_backend() == "etcd"
        assert handler.shutdown()

    def test_a_join_timeout_counts_more_than_torchruns_timeout(self) -> None:
        config = {"timeout": 900, "join_timeout": 12}
        params = RendezvousParameters("etcd", "localhost", "r", 1, 1, **config)
        assert create_rdzv_handler(params).settings.timeout.join.total_seconds() == 12

    @pytest.mark.parametrize(
        ("config", "words"),
        [
            ({"protocol": "gopher"}, "protocol"),
            ({"cacert": "ca.pem"}, "https"),
            ({"last_call_timout": 3}, "last_call_timeout"),
            ({"timeout": "soon"}, "timeout"),
            ({"timeout": -1}, "positive"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, config: dict[str, Any], words: str) -> None:
        params = RendezvousParameters("etcd", "localhost:2379", "r", 1, 1, **config)
        with pytest.raises(RendezvousSettingsError, match=words):
            create_rdzv_handler(params)


class TestRounds:
    """Nodes as threads of one process."""

    def test_nodes_meet_and_share_a_store(self, run: Run, client: EtcdClient) -> None:
        handlers = [run.handler(3, 3) for _ in range(3)]
        infos = run.join(*handlers)
        assert {info.world_size for info in infos} == {3}
        infos[0].store.set("key", b"value")
        assert infos[1].store.get("key", 5) == b"value"
        leaders = {info.bootstrap_store_info.master_port for info in infos}  # type: ignore[union-attr]
        assert len(leaders) == 1
        world = handlers[0].world()
        assert world is not None
        assert world.name == place_of(infos[0]).world
        assert sum(handler.decides for handler in handlers) == 1
        assert [handler.num_nodes_waiting() for handler in handlers] == [0, 0, 0]
        assert len(names_below(client, run.keys.nodes)) == 3

    def test_nothing_is_written_while_nothing_happens(
        self, run: Run, client: EtcdClient, until: Until
    ) -> None:
        run.world(3, 3, 3)
        until(lambda: joins_asked(client, run.keys) == 0, what="the answers to be read")
        before = client.range(b"\0").header.revision
        watched = client.watch(run.keys.prefix.encode(), before + 1, b"\0")
        with watched as watch:
            assert watch.next(4.0) is None, "leases are kept alive three times in that time"
        assert client.range(b"\0").header.revision == before

    def test_a_newcomer_makes_the_members_regroup(self, run: Run, until: Until) -> None:
        members = run.world(2, 2, 3)
        newcomer = run.handler(2, 3)
        joining = run.begin(newcomer)
        until(lambda: all(m.num_nodes_waiting() for m in members), what="the members to be told")
        assert "newcomer" in members[0].reason_to_regroup
        assert not members[0].is_world_broken
        rejoining = [run.begin(member) for member in members]
        infos = [join.result(20) for join in (joining, *rejoining)]
        assert sorted(place_of(info).rank for info in infos) == [0, 1, 2]
        assert {place_of(info).round for info in infos} == {1}

    def test_a_spare_waits_and_takes_the_place_that_falls_free(
        self, run: Run, until: Until
    ) -> None:
        members = run.world(2, 2, 2)
        spare = run.begin(run.handler(2, 2))
        members[1].leave("is not needed")
        until(members[0].num_nodes_waiting, what="the leave to be told")
        assert "left: is not needed" in members[0].reason_to_regroup
        assert not spare.done()
        rejoined = run.begin(members[0])
        assert {spare.result(20).rank, rejoined.result(20).rank} == {0, 1}

    def test_who_steps_aside_may_come_back(self, run: Run, until: Until) -> None:
        members = run.world(2, 1, 2)
        sick, other = members
        sick.step_aside("unhealthy: no disk")
        until(other.num_nodes_waiting, what="the loss to be told")
        assert "left: unhealthy: no disk" in other.reason_to_regroup
        assert {place_of(info).size for info in run.join(other)} == {1}
        back = run.begin(sick)
        until(other.num_nodes_waiting, what="the newcomer")
        assert place_of(run.join(other)[0]).size == 2
        assert back.result(20).world_size == 2

    def test_who_decides_and_leaves_hands_over_at_once(
        self, run: Run, client: EtcdClient, until: Until
    ) -> None:
        members = run.world(3, 1, 3)
        leaver = next(member for member in members if member.decides)
        rest = [member for member in members if member is not leaver]
        leaver.leave()
        until(lambda: any(member.decides for member in rest), timeout_s=2, what="the next one")
        until(lambda: all(member.num_nodes_waiting() for member in rest), what="all to be told")
        assert {place_of(info).size for info in run.join(*rest)} == {2}
        assert len(names_below(client, run.keys.nodes)) == 2
        assert len(names_below(client, f"{run.keys.prefix}/answer/".encode())) == 2

    def test_a_close_is_told_to_all_with_its_reason(self, run: Run, until: Until) -> None:
        a, b = run.world(2, 2, 2)
        waiting = run.begin(run.handler(2, 2))
        a.set_closed("enough")
        until(b.is_closed, what="the close to be told")
        assert b.closed_reason == "enough"
        # It has come too late, or as a spare that is not needed.
        with pytest.raises((RendezvousClosedError, RendezvousGracefulExitError), match="enough"):
            waiting.result(10)
        late = run.begin(run.handler(2, 2))
        with pytest.raises(RendezvousClosedError, match="enough"):
            late.result(10)

    def test_r7_a_failure_closes_the_run_once_the_others_have_answered(
        self, run: Run, until: Until
    ) -> None:
        a, b, c = run.world(3, 3, 3)
        assert a.fail("failed: exit code 1")
        until(lambda: b.is_closed() and c.is_closed(), what="the close to be told")

    def test_r13_other_settings_are_refused(self, run: Run) -> None:
        run.world(2, 2, 3)
        other = run.begin(run.handler(2, 4))
        with pytest.raises(RendezvousSettingsError, match="max_nodes is 3 in the run, 4 here"):
            other.result(10)

    def test_nobody_comes_and_the_wait_ends_with_its_reason(self, run: Run) -> None:
        lonely = run.begin(run.handler(2, 2, timeout=1.5))
        with pytest.raises(RendezvousTimeoutError, match="waiting for 1 more node"):
            lonely.result(15)

    def test_stores_of_former_rounds_are_removed(self, run: Run, client: EtcdClient) -> None:
        members = run.world(2, 2, 2)
        for number in range(3):
            for info in run.join(*members):
                assert place_of(info).round == number + 1
                info.store.set("k", b"v")
        kept = {key.split(b"/")[-3] for key in names_below(client, run.keys.stores)}
        assert kept == {b"%016x" % number for number in (2, 3)}

    def test_an_etcd_that_is_not_there_is_named(self, free_port: Callable[[], int]) -> None:
        run = Run(f"127.0.0.1:{free_port()}", join_timeout=1, last_call_timeout=0.1)
        handler = run.handler(1, 1)
        with pytest.raises(RendezvousConnectionError, match="could not be reached"):
            handler.next_rendezvous()
        run.end()


def joins_asked(client: EtcdClient, keys: Keys) -> int:
    """Return how many nodes' keys still ask for something."""
    found = client.range(keys.nodes, prefix_end(keys.nodes)).kvs
    words = [msgspec.msgpack.decode(pair.value) for pair in found]
    return sum(said[3].count(b"\x95\x02") for said in words)


class Program:
    """A node as a process of its own."""

    def __init__(self, endpoint: str, run_id: str, nodes: str, config: str) -> None:
        command = [sys.executable, str(PROGRAM), endpoint, run_id, nodes, config]
        environment = {"PYTHONPATH": str(ROOT / "src"), "PATH": "/usr/bin:/bin"}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, env=environment, text=True, start_new_session=True
        )
        self.events: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.append(json.loads(line))

    def all(self, event: str) -> list[dict[str, Any]]:
        return [found for found in list(self.events) if found["event"] == event]

    @property
    def session(self) -> str:
        return str(self.all("started")[0]["session"])

    @property
    def round(self) -> int:
        """The round that it has joined last, -1 before the first."""
        return max((int(found["round"]) for found in self.all("joined")), default=-1)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self._reader.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def programs() -> Iterator[Callable[..., list[Program]]]:
    """Start so many nodes of a run, as processes."""
    with ExitStack() as started:

        def start(endpoint: str, run_id: str, size: int, nodes: str) -> list[Program]:
            found = []
            for _ in range(size):
                config = "last_call_timeout=1,keep_alive_interval=1"
                program = Program(endpoint, run_id, nodes, config)
                started.callback(program.end)
                found.append(program)
            return found

        yield start


def holder_among(programs: Sequence[Program], client: EtcdClient, run_id: str) -> Program:
    """Return the one that decides."""
    found = client.range(seat_key(Keys.of_run(DEFAULT_PREFIX, run_id).prefix)).kvs
    (name,) = msgspec.msgpack.decode(found[0].value)
    return next(program for program in programs if program.session == name)


def are_in(programs: Sequence[Program], number: int, size: int) -> bool:
    """Whether all are in one world of a round, and of that size."""
    last = [program.all("joined")[-1] for program in programs if program.round >= number]
    agreed = len({str(place["digest"]) for place in last}) == 1
    return len(last) == len(programs) and agreed and last[0]["size"] == size


class TestProcesses:
    """Nodes that are killed and frozen, as processes are."""

    @pytest.mark.parametrize("who", ["member", "holder"])
    def test_the_others_regroup_without_a_node_that_was_killed(
        self, who: str, server: EtcdServer, client: EtcdClient, programs: Any, until: Until
    ) -> None:
        run_id = next(run_ids)
        nodes = programs(server.get_endpoint(), run_id, 3, "2:3")
        until(lambda: are_in(nodes, 0, 3), timeout_s=20, what="the first round")
        holder = holder_among(nodes, client, run_id)
        victim = holder if who == "holder" else next(n for n in nodes if n is not holder)
        victim.send(signal.SIGKILL)
        rest = [node for node in nodes if node is not victim]
        until(lambda: are_in(rest, 1, 2), timeout_s=20, what="the survivors' round")
        assert all("lost" in node.all("told")[0]["reason"] for node in rest)
        assert not any(node.all("error") for node in rest)

    def test_a_frozen_holder_is_lost_and_comes_back_as_a_member(
        self, server: EtcdServer, client: EtcdClient, programs: Any, until: Until
    ) -> None:
        run_id = next(run_ids)
        nodes = programs(server.get_endpoint(), run_id, 3, "2:3")
        until(lambda: are_in(nodes, 0, 3), timeout_s=20, what="the first round")
        frozen = holder_among(nodes, client, run_id)
        rest = [node for node in nodes if node is not frozen]
        frozen.send(signal.SIGSTOP)
        until(lambda: are_in(rest, 1, 2), timeout_s=20, what="the survivors' round")
        assert holder_among(rest, client, run_id) in rest
        frozen.send(signal.SIGCONT)
        until(lambda: are_in(nodes, 2, 3), timeout_s=20, what="all three to meet again")
        assert not any(node.all("error") for node in nodes)


class TestCluster:
    """What members of etcd do must cost nobody a place (R11)."""

    def test_an_etcd_that_is_started_again_costs_a_stall(self, until: Until) -> None:
        with EtcdCluster(1) as cluster:
            run = Run(str(cluster.endpoints[0]), keep_alive_interval=2)
            a, b = run.world(2, 2, 3)
            (member,) = cluster.members
            member.kill()
            newcomer = run.begin(run.handler(2, 3))
            member.start()
            cluster.await_ready()
            until(lambda: a.num_nodes_waiting() and b.num_nodes_waiting(), 20, "the newcomer")
            assert "newcomer" in a.reason_to_regroup
            again = [run.begin(a), run.begin(b)]
            assert {join.result(20).world_size for join in [newcomer, *again]} == {3}
            run.end()

    def test_an_etcd_that_was_frozen_until_all_leases_ended_costs_nobody_a_place(
        self, until: Until
    ) -> None:
        with EtcdCluster(1) as cluster:
            run = Run(str(cluster.endpoints[0]))
            handlers = run.world(3, 3, 3)
            (member,) = cluster.members
            member.freeze()
            sessions = [handler._client for handler in handlers]
            until(lambda: min(s.detached_for_s() for s in sessions) > 7, 20, "leases to end")
            member.thaw()
            until(lambda: all(s.detached_for_s() == 0 for s in sessions), 20, "all to be back")
            assert {handler.num_nodes_waiting() for handler in handlers} == {0}
            until(lambda: any(handler.decides for handler in handlers), 10, "one to decide")
            world = handlers[0].world()
            assert world is not None
            assert world.round == 0
            assert {handler.num_nodes_waiting() for handler in handlers} == {0}
            run.end()

    def test_the_loss_of_etcds_leader_costs_a_stall(self, until: Until) -> None:
        with EtcdCluster() as cluster:
            run = Run(",".join(map(str, cluster.endpoints)), keep_alive_interval=2)
            a, b = run.world(2, 2, 3)
            epoch = a.world()
            cluster.leader().kill()
            newcomer = run.begin(run.handler(2, 3))
            until(lambda: a.num_nodes_waiting() and b.num_nodes_waiting(), 20, "the newcomer")
            assert "newcomer" in a.reason_to_regroup
            again = [run.begin(a), run.begin(b)]
            infos = [join.result(20) for join in [newcomer, *again]]
            assert {info.world_size for info in infos} == {3}
            assert epoch is not None
            assert {(place_of(info).epoch, place_of(info).round) for info in infos} == {
                (epoch.epoch, 1)
            }
            run.end()
