"""The coordinated handler: real agents, real coordinators, and what may befall both."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from quorate import renewal
from quorate.api import RendezvousInfo, RendezvousParameters
from quorate.backends.journal import Journal
from quorate.cli.common import Connection
from quorate.cli.status import fetch_status
from quorate.coordinated import CoordinatedRendezvousHandler, _Explanation, create_handler
from quorate.coordinator.entrance.door import Keys
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.settings import RendezvousSettings
from quorate.core.state import World
from quorate.credentials import Token
from quorate.errors import (
    RendezvousAuthenticationError,
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousProtocolError,
    RendezvousReplacedError,
    RendezvousSettingsError,
    RendezvousTimeoutError,
)
from quorate.identity import Endpoint
from quorate.testing import ManualClock
from quorate.wait import Wait
from quorate.wire.messages import GetWorld, Waiting, WorldRecord
from tests.conftest import busy_s
from tests.served import (
    LOOPBACK,
    QUICK,
    Proxy,
    ServeProcess,
    ThreadedCoordinator,
    end_process,
    make_handler,
)

Until = Callable[..., Any]
MakeHandler = Callable[..., CoordinatedRendezvousHandler]

LATE_S = 10.0


@pytest.fixture
def coordinator() -> Iterator[ThreadedCoordinator]:
    coordinator = ThreadedCoordinator()
    yield coordinator
    coordinator.stop()


@pytest.fixture
def agent(coordinator: ThreadedCoordinator) -> Iterator[MakeHandler]:
    with contextlib.ExitStack() as made:

        def make(**options: Any) -> CoordinatedRendezvousHandler:
            handler = make_handler(options.pop("endpoint", coordinator.endpoint), **options)
            made.callback(handler._release)
            return handler

        yield make


def join_all(*handlers: CoordinatedRendezvousHandler) -> list[RendezvousInfo]:
    with ThreadPoolExecutor(len(handlers)) as pool:
        joins = [pool.submit(handler.next_rendezvous) for handler in handlers]
        return [join.result(LATE_S) for join in joins]


def world_of(info: RendezvousInfo) -> tuple[str, int]:
    assert info.place is not None
    return info.place.world


def status(endpoint: Endpoint) -> dict[str, Any]:
    return fetch_status(Connection([endpoint], LATE_S))


def test_threads_join_one_world(agent: MakeHandler) -> None:
    handlers = [agent(nodes=(3, 3)) for _ in range(3)]
    infos = join_all(*handlers)
    assert sorted(info.rank for info in infos) == [0, 1, 2]
    assert {info.world_size for info in infos} == {3}
    assert len({world_of(info) for info in infos}) == 1
    bootstraps = {
        (info.bootstrap_store_info.master_addr, info.bootstrap_store_info.master_port)
        for info in infos
        if info.bootstrap_store_info is not None
    }
    assert len(bootstraps) == 1
    infos[0].store.set("k", "v")
    assert infos[2].store.get("k") == b"v"
    world = handlers[1].world()
    assert world is not None
    assert len(world.members) == 3
    assert {handler.get_backend() for handler in handlers} == {"quorate"}
    assert {handler.get_run_id() for handler in handlers} == {"job"}
    assert [handler.num_nodes_waiting() for handler in handlers] == [0, 0, 0]


def test_r8_a_leave_is_told_and_the_rest_regroup(agent: MakeHandler, until: Until) -> None:
    handlers = [agent(nodes=(2, 3)) for _ in range(3)]
    infos = join_all(*handlers)
    handlers[0].leave("maintenance")
    until(lambda: all(handler.num_nodes_waiting() for handler in handlers[1:]), what="the push")
    assert "maintenance" in handlers[1].reason_to_regroup
    again = join_all(*handlers[1:])
    assert [info.world_size for info in again] == [2, 2]
    assert {world_of(info)[1] for info in again} == {world_of(infos[0])[1] + 1}
    assert not handlers[1].is_closed()


def test_a_node_that_steps_aside_is_not_waited_for_and_may_come_back(
    agent: MakeHandler, coordinator: ThreadedCoordinator, until: Until
) -> None:
    one, two = agent(nodes=(1, 2)), agent(nodes=(1, 2))
    join_all(one, two)
    two.step_aside("unhealthy: GPU 2 fell off the bus")
    until(lambda: one.num_nodes_waiting() > 0, what="the push")
    assert "left: unhealthy: GPU 2 fell off the bus" in one.reason_to_regroup
    departed = status(coordinator.endpoint)["runs"][0]["departed"]
    assert list(departed.values()) == ["left: unhealthy: GPU 2 fell off the bus"]
    assert join_all(one)[0].world_size == 1
    with ThreadPoolExecutor(1) as pool:
        back = pool.submit(two.next_rendezvous)
        until(lambda: one.num_nodes_waiting() > 0, what="the newcomer")
        assert one.next_rendezvous().world_size == 2
        assert back.result(LATE_S).world_size == 2


def test_a_node_that_never_joined_says_why_it_stays_out_and_hears_of_a_close(
    agent: MakeHandler, until: Until
) -> None:
    one, two = agent(nodes=(1, 1)), agent(nodes=(1, 1))
    join_all(one)
    two.step_aside("unhealthy: no disk")
    two.step_aside("unhealthy: no disk still")
    assert one.num_nodes_waiting() == 0
    one.set_closed("enough")
    until(lambda: two.closed_reason == "enough", what="the close")


def test_r16_what_is_waited_for_is_reported_until_the_answer(agent: MakeHandler) -> None:
    waits: list[Wait] = []
    over = threading.Event()

    class Reporter:
        def report(self, wait: Wait) -> None:
            waits.append(wait)

        def done(self) -> None:
            over.set()

    handler = agent(nodes=(2, 2), join_timeout="4")
    handler.report_waits_to(Reporter())
    with pytest.raises(RendezvousTimeoutError, match=r"present: .*; missing: 1 node"):
        handler.next_rendezvous()
    assert over.is_set()
    last = waits[-1]
    assert (last.reason, last.missing_count) == ("waiting for 1 more node (1 of 2)", 1)
    assert last.gives_up_in_s is not None
    assert last.gives_up_in_s <= 2.5


def test_a_spare_has_no_deadline_and_a_promoted_one_has_all_its_time() -> None:
    clock = ManualClock()
    told = _Explanation(clock, 60.0)
    assert told.wait(None) is None
    spare = Waiting("spare", "waiting as a spare", 1.0)
    for _ in range(100):
        clock.advance(1.0)
        wait = told.wait(spare)
    assert wait is not None
    assert (wait.since_s, wait.gives_up_in_s) == (100.0, None)
    promoted = Waiting("last_call", "last call", 0.0, ends_in_s=30.0)
    told.wait(promoted)
    clock.advance(10.0)
    wait = told.wait(promoted)
    assert wait is not None
    assert (wait.since_s, wait.ends_in_s, wait.gives_up_in_s) == (10.0, 20.0, 50.0)


class Answering(CoordinatedRendezvousHandler):
    """A handler whose coordinator has these answers, one after another."""

    def __init__(self, *answers: tuple[World | None, int | None]) -> None:
        self.answers = list(answers)
        self.asked: list[int | None] = []
        super().__init__(RendezvousSettings("job", 1, 9), [Endpoint("127.0.0.1", 1)])

    def _new_session(self, *_: Any) -> Any:
        return self

    def call(self, make_request: Callable[[int], Any], timeout_s: float) -> WorldRecord:
        del timeout_s
        request = make_request(1)
        assert isinstance(request, GetWorld)
        self.asked.append(request.first)
        world, size = self.answers.pop(0)
        return WorldRecord(1, world, size)


def record(round: int, size: int) -> World:
    nodes = tuple(NodeDesc(f"n{number}", 1, 0) for number in range(size))
    return World("e", round, nodes, size * (NodeProfile(),))


def test_r1_a_record_is_put_together_from_its_parts() -> None:
    whole = record(3, 5)
    handler = Answering((whole.part(0, 2), 5), (whole.part(2, 2), 5), (whole.part(4, 2), 5))
    assert handler.world() == whole
    assert handler.asked == [0, 2, 4]


def test_r1_parts_of_two_worlds_are_not_mixed() -> None:
    old, new = record(3, 5), record(4, 3)
    handler = Answering(
        (old.part(0, 2), 5), (new.part(2, 2), 3), (new.part(0, 2), 3), (new.part(2, 2), 3)
    )
    assert handler.world() == new
    assert handler.asked == [0, 2, 0, 2]


def test_a_coordinator_of_an_older_release_sends_all_of_a_record() -> None:
    assert Answering((record(3, 5), None)).world() == record(3, 5)
    assert Answering((record(3, 5).part(0, 2), 5), (record(3, 5), None)).world() == record(3, 5)
    assert Answering((None, None)).world() is None


def test_r15_a_record_that_does_not_end_is_refused() -> None:
    whole = record(3, 5)
    with pytest.raises(RendezvousProtocolError, match="2 of 6 members"):
        Answering((whole.part(0, 2), 6), (whole.part(5, 2), 6)).world()


def test_r7_a_close_is_told_with_its_reason(agent: MakeHandler, until: Until) -> None:
    one, two = agent(nodes=(2, 2)), agent(nodes=(2, 2))
    join_all(one, two)
    one.set_closed("the data is wrong")
    two.set_closed("later")
    until(two.is_closed, what="the push")
    assert two.closed_reason == "the data is wrong"
    assert two.num_nodes_waiting() == 0
    with pytest.raises(RendezvousClosedError, match="the data is wrong"):
        agent(nodes=(2, 2)).next_rendezvous()


def test_r7_shutdown_closes_for_members_only(agent: MakeHandler, until: Until) -> None:
    member, idle = agent(), agent()
    member.next_rendezvous()
    assert idle.shutdown()
    assert not member.is_closed()
    assert member.shutdown()
    assert member.shutdown()
    with pytest.raises(RendezvousClosedError, match="shut down"):
        agent().next_rendezvous()


def test_r7_shutdown_of_a_former_member_closes_nothing(agent: MakeHandler) -> None:
    former, member = agent(nodes=(1, 2)), agent(nodes=(1, 2))
    join_all(former, member)
    former.step_aside("taken ill")
    assert member.next_rendezvous().world_size == 1
    assert former.shutdown()
    (shown,) = status(member.endpoint)["runs"]
    assert (shown["state"], len(shown["nodes"])) == ("complete", 1)
    assert member.shutdown()
    with pytest.raises(RendezvousClosedError, match="shut down"):
        agent(nodes=(1, 2)).next_rendezvous()


def test_r7_a_failure_closes_once_the_others_have_answered(
    agent: MakeHandler, until: Until
) -> None:
    one, two = agent(nodes=(2, 2)), agent(nodes=(2, 2))
    join_all(one, two)
    assert one.fail("rank 0 raised an error")
    until(two.is_closed, what="the push")
    assert two.closed_reason == "rank 0 raised an error"


def test_r7_who_failed_beside_a_loss_may_join_again(agent: MakeHandler) -> None:
    one, two, three = (agent(nodes=(2, 3)) for _ in range(3))
    join_all(one, two, three)
    three.leave()
    assert not one.fail("a peer was gone")
    assert sorted(info.world_size for info in join_all(one, two)) == [2, 2]


def test_r7_a_timeout_disturbs_nobody(agent: MakeHandler) -> None:
    options = {"nodes": (2, 2), "join_timeout": "1"}
    with pytest.raises(RendezvousTimeoutError, match="waiting for 1 more node"):
        agent(**options).next_rendezvous()
    join_all(agent(**options), agent(**options))


def test_r12_a_new_incarnation_replaces_the_old(agent: MakeHandler, until: Until) -> None:
    old, new = agent(node_id="n1"), agent(node_id="n1")
    old.next_rendezvous()
    info = new.next_rendezvous()
    assert info.world_size == 1
    until(lambda: old.num_nodes_waiting() > 0, what="the old one to be told")
    with pytest.raises(RendezvousReplacedError, match="must end"):
        old.next_rendezvous()
    assert not old.shutdown()
    assert not new.is_closed()


def test_r13_other_settings_are_refused_with_both_values(agent: MakeHandler) -> None:
    agent(nodes=(1, 2)).next_rendezvous()
    with pytest.raises(RendezvousSettingsError, match="max_nodes is 2 in the run, 3 here"):
        agent(nodes=(1, 3)).next_rendezvous()


def test_r13_an_unknown_key_is_refused(coordinator: ThreadedCoordinator) -> None:
    with pytest.raises(RendezvousSettingsError, match="join_timeout"):
        make_handler(coordinator.endpoint, join_timeot="1")


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("a-shared-secret-of-ours")
    return path


@pytest.fixture
def locked(token_file: Path) -> Iterator[ThreadedCoordinator]:
    coordinator = ThreadedCoordinator(keys=Keys(Token.from_file(token_file)))
    yield coordinator
    coordinator.stop()


def test_r15_agents_with_the_token_meet_and_others_stay_out(
    agent: MakeHandler, locked: ThreadedCoordinator, token_file: Path, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("a-secret-of-somebody-else")
    given = {"endpoint": locked.endpoint, "nodes": (2, 3)}
    for strange, words in (({}, "wants a token"), ({"token_file": str(wrong)}, "does not accept")):
        with pytest.raises(RendezvousAuthenticationError, match=words):
            agent(**given, **strange).next_rendezvous()
    ours = [agent(**given, token_file=str(token_file)) for _ in range(2)]
    assert sorted(info.rank for info in join_all(*ours)) == [0, 1]


def test_r15_an_agent_with_a_token_trusts_no_coordinator_without_it(
    agent: MakeHandler, token_file: Path
) -> None:
    with pytest.raises(RendezvousAuthenticationError, match="has not proved"):
        agent(token_file=str(token_file)).next_rendezvous()


def test_r11_agents_go_on_while_the_secret_is_changed(
    agent: MakeHandler,
    locked: ThreadedCoordinator,
    token_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    until: Until,
) -> None:
    """Coordinators get the new one as their second, agents the new one, then the old one goes."""
    monkeypatch.setattr(renewal, "LOOK_EVERY_S", 0.0)
    old, new = token_file.read_text(), "another-one-for-the-new-year"
    file = tmp_path / "agent"
    file.write_text(old)
    proxy = Proxy(locked.endpoint)
    handler = agent(endpoint=proxy.endpoint, token_file=str(file))
    info = handler.next_rendezvous()
    for path, text in ((token_file, f"{old}\n{new}"), (file, new), (token_file, new)):
        path.write_text(text)
        proxy.reset()
        info.store.set("k", text)
        until(lambda: handler._client.attachment.attached, LATE_S)
    assert handler.num_nodes_waiting() == 0
    handler.leave()
    proxy.close()


def test_r16_a_waiting_agent_says_why(
    agent: MakeHandler, caplog: pytest.LogCaptureFixture, until: Until
) -> None:
    caplog.set_level("INFO")
    one, two = agent(nodes=(2, 2)), agent(nodes=(2, 2))
    with ThreadPoolExecutor(1) as pool:
        joining = pool.submit(one.next_rendezvous)
        until(lambda: "waiting for 1 more node" in caplog.text, what="the explanation")
        two.next_rendezvous()
        joining.result(LATE_S)


def test_without_a_coordinator_joining_ends_in_time(
    agent: MakeHandler, free_port: Callable[[], int]
) -> None:
    handler = agent(endpoint=Endpoint(LOOPBACK, free_port()), join_timeout="0.5")
    with pytest.raises(RendezvousConnectionError, match="nobody listens there"):
        handler.next_rendezvous()
    assert handler.num_nodes_waiting() == 0
    assert handler.shutdown()


def test_a_node_that_did_nothing_ends_without_a_word(agent: MakeHandler) -> None:
    handler = agent()
    handler.leave()
    assert handler.shutdown()
    assert handler.node is None


@pytest.mark.parametrize("harm", ["finish", "reset", "stall"])
def test_r11_a_cut_is_not_a_death(
    harm: str, coordinator: ThreadedCoordinator, agent: MakeHandler, until: Until
) -> None:
    """Neither the agent at work nor the others notice more than a pause."""
    proxy = Proxy(coordinator.endpoint)
    cut, other = agent(endpoint=proxy.endpoint, nodes=(2, 2)), agent(nodes=(2, 2))
    infos = join_all(cut, other)
    connections = proxy.connections
    getattr(proxy, harm)()
    until(lambda: cut._client.detached_for_s() > 0, what="the cut to be noticed")
    if harm == "stall":
        proxy.reset()
        proxy.resume()
    infos[0].store.set("k", "v")
    assert infos[1].store.get("k") == b"v"
    assert proxy.connections > connections
    assert (cut.num_nodes_waiting(), other.num_nodes_waiting()) == (0, 0)
    proxy.close()


def test_r11_a_held_join_outlasts_cuts(
    coordinator: ThreadedCoordinator, agent: MakeHandler, until: Until
) -> None:
    proxy = Proxy(coordinator.endpoint)
    one, two = agent(endpoint=proxy.endpoint, nodes=(2, 2)), agent(nodes=(2, 2))
    with ThreadPoolExecutor(1) as pool:
        joining = pool.submit(one.next_rendezvous)
        until(lambda: one.node is not None, what="the first to arrive")
        for harm in (proxy.reset, proxy.finish):
            harm()
        info = two.next_rendezvous()
        assert world_of(joining.result(LATE_S)) == world_of(info)
    proxy.close()


def test_r8_an_agent_that_was_declared_lost_is_told_and_joins_afresh(
    coordinator: ThreadedCoordinator, agent: MakeHandler, until: Until
) -> None:
    proxy = Proxy(coordinator.endpoint)
    silent, other = agent(endpoint=proxy.endpoint, nodes=(1, 2)), agent(nodes=(1, 2))
    join_all(silent, other)
    proxy.stall()
    until(lambda: other.num_nodes_waiting() > 0, what="the silence to be told")
    assert "silent" in other.reason_to_regroup
    assert other.next_rendezvous().world_size == 1
    proxy.reset()
    proxy.resume()
    until(lambda: silent.num_nodes_waiting() > 0, what="the lost one to be told")
    infos = join_all(silent, other)
    assert {info.world_size for info in infos} == {2}
    proxy.close()


def test_r11_a_restart_with_the_journal_costs_nothing(
    agent: MakeHandler, tmp_path: Path, until: Until
) -> None:
    first = ThreadedCoordinator(Journal(tmp_path / "journal"))
    handlers = [agent(endpoint=first.endpoint, nodes=(2, 2)) for _ in range(2)]
    infos = join_all(*handlers)
    infos[0].store.set("k", "v")
    first.stop()
    again = ThreadedCoordinator(Journal(tmp_path / "journal"), first.endpoint.port)
    assert infos[1].store.get("k") == b"v"
    until(lambda: not any(h._client.detached_for_s() for h in handlers), what="both to be back")
    assert [handler.num_nodes_waiting() for handler in handlers] == [0, 0]
    again.stop()


def test_without_a_journal_there_is_a_new_epoch_and_one_regroup(
    agent: MakeHandler, until: Until
) -> None:
    """A newcomer is the first to arrive at the new coordinator; never two worlds of one name."""
    first = ThreadedCoordinator()
    handlers = [agent(endpoint=first.endpoint, nodes=(2, 3)) for _ in range(2)]
    before = world_of(join_all(*handlers)[0])
    first.stop()
    again = ThreadedCoordinator(port=first.endpoint.port)
    newcomer = agent(endpoint=first.endpoint, nodes=(2, 3))
    with ThreadPoolExecutor(1) as pool:
        joining = pool.submit(newcomer.next_rendezvous)
        until(lambda: all(h.num_nodes_waiting() for h in handlers), what="both to be told")
        assert "anew" in handlers[0].reason_to_regroup
        after = world_of(join_all(*handlers)[0])
        assert world_of(joining.result(LATE_S)) == after
    assert after[0] != before[0]
    again.stop()


def test_r9_a_frozen_coordinator_loses_nobody(
    agent: MakeHandler, free_port: Callable[[], int], tmp_path: Path, until: Until
) -> None:
    """Frozen for longer than its agents' silence may last, it judges nobody when it wakes."""
    endpoint = Endpoint(LOOPBACK, free_port())
    served = ServeProcess(str(endpoint), tmp_path)
    handlers = [agent(endpoint=endpoint, nodes=(2, 2)) for _ in range(2)]
    infos = join_all(*handlers)
    served.signal(signal.SIGSTOP)
    until(lambda: all(h._client.detached_for_s() > 2.0 for h in handlers), what="a long silence")
    served.signal(signal.SIGCONT)
    infos[0].store.set("k", "v")
    assert infos[1].store.get("k") == b"v"
    until(lambda: not any(h._client.detached_for_s() for h in handlers), what="both to be back")
    assert [handler.num_nodes_waiting() for handler in handlers] == [0, 0]
    assert "lost" not in served.output
    served.kill()


def test_ipv6(agent: MakeHandler, tmp_path: Path, free_port: Callable[[], int]) -> None:
    endpoint = Endpoint("::1", free_port())
    served = ServeProcess(str(endpoint), tmp_path)
    handlers = [agent(endpoint=endpoint, nodes=(2, 2)) for _ in range(2)]
    infos = join_all(*handlers)
    assert infos[0].bootstrap_store_info is not None
    assert infos[0].bootstrap_store_info.master_addr == "::1"
    served.kill()


def test_of_several_endpoints_the_living_one_is_found(
    coordinator: ThreadedCoordinator, agent: MakeHandler, free_port: Callable[[], int]
) -> None:
    endpoints = f"{LOOPBACK}:{free_port()},{coordinator.endpoint}"
    infos = join_all(agent(endpoint=endpoints, nodes=(2, 2)), agent(nodes=(2, 2)))
    assert {info.world_size for info in infos} == {2}


def test_a_port_of_another_program_ends_the_join_in_time(agent: MakeHandler) -> None:
    """An HTTP server waits for the end of a line that never comes, and nobody hangs for that."""

    class Quiet(http.server.BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.HTTPServer((LOOPBACK, 0), Quiet)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    endpoint = Endpoint(LOOPBACK, server.server_port)
    with pytest.raises(RendezvousConnectionError, match=str(endpoint)):
        agent(endpoint=endpoint, is_host="1", join_timeout="1.5").next_rendezvous()
    server.shutdown()
    server.server_close()
    thread.join()


class AgentProcess:
    """`tests.agent_program` as a process."""

    def __init__(
        self, endpoint: object, state_dir: Path, nodes: tuple[int, int], is_host: str = ""
    ) -> None:
        settings = {key: value for key, value in QUICK.items() if key != "is_host"}
        # Who has ended is lost after the grace of 2 s, or after this silence, if that is shorter.
        settings["keep_alive_max_attempt"] = "10"
        if is_host:
            settings["is_host"] = is_host
        config = [f"{key}={value}" for key, value in settings.items()]
        command = [sys.executable, "-m", "tests.agent_program", str(endpoint), "job"]
        command += [str(number) for number in nodes] + [str(state_dir), *config]
        self.worlds: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.errors = ""
        self._threads = [threading.Thread(target=self._read), threading.Thread(target=self._err)]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.worlds.append(json.loads(line))

    def _err(self) -> None:
        assert self.process.stderr is not None
        self.errors = self.process.stderr.read()

    def ask_to_end(self) -> None:
        """Let it end by itself."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def end(self, kill: bool = False) -> None:
        """End it, by a signal or by itself, and collect it."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        if kill:
            self.process.kill()
        self.ask_to_end()
        self.process.wait(LATE_S)
        for thread in self._threads:
            thread.join()
        self.process.stdout.close()
        self.process.stderr.close()


class Hosted:
    """Agents as processes which start their coordinator themselves."""

    def __init__(self, endpoint: Endpoint, state_dir: Path, nodes: tuple[int, int]) -> None:
        self.endpoint, self.state_dir, self.nodes = endpoint, state_dir, nodes
        self.agents: list[AgentProcess] = []

    def start(self, number: int) -> list[AgentProcess]:
        started = [AgentProcess(self.endpoint, self.state_dir, self.nodes) for _ in range(number)]
        self.agents += started
        return started

    def coordinator_pid(self) -> int:
        return int(status(self.endpoint)["coordinator"].rpartition(":")[2])

    def close(self) -> None:
        with contextlib.suppress(RendezvousConnectionError):
            end_process(self.coordinator_pid())
        for agent in self.agents:
            if agent.process.returncode is None:
                agent.end(kill=True)


@pytest.fixture
def hosted(free_port: Callable[[], int], tmp_path: Path) -> Iterator[Hosted]:
    hosted = Hosted(Endpoint(LOOPBACK, free_port()), tmp_path / "state", (2, 3))
    yield hosted
    hosted.close()


def host_of(hosted: Hosted) -> AgentProcess:
    """Return the agent whose child the coordinator is."""
    parent = int(
        Path(f"/proc/{hosted.coordinator_pid()}/stat").read_text().rsplit(")", 1)[1].split()[1]
    )
    return next(agent for agent in hosted.agents if agent.process.pid == parent)


def test_agents_start_one_coordinator_and_outlive_the_one_that_did(
    hosted: Hosted, until: Until
) -> None:
    """kill -9 of the agent that started it: the coordinator stays, the others are told in 3 s."""
    agents = hosted.start(3)
    until(lambda: all(agent.worlds for agent in agents), LATE_S, "the first world")
    assert {agent.worlds[0]["epoch"] for agent in agents} == {agents[0].worlds[0]["epoch"]}
    logs = list(hosted.state_dir.glob("*.log"))
    assert len(logs) == 1
    assert logs[0].read_text().count("listening on") == 1
    pid, starter = hosted.coordinator_pid(), host_of(hosted)
    killed_s = time.monotonic()
    starter.end(kill=True)
    rest = [agent for agent in agents if agent is not starter]
    until(lambda: all(len(agent.worlds) > 1 for agent in rest), LATE_S, "the second world")
    assert hosted.coordinator_pid() == pid
    assert {agent.worlds[1]["size"] for agent in rest} == {2}
    assert {agent.worlds[1]["round"] for agent in rest} == {agents[0].worlds[0]["round"] + 1}
    took_s = max(agent.worlds[1]["at_s"] for agent in rest) - killed_s
    assert 1.9 <= took_s < 3.5 + busy_s()


def test_a_killed_coordinator_is_started_again_by_an_agent(hosted: Hosted, until: Until) -> None:
    """With the journal the world stands: nobody regroups, nobody says a word."""
    agents = hosted.start(2)
    until(lambda: all(agent.worlds for agent in agents), LATE_S, "the first world")
    pid = hosted.coordinator_pid()
    end_process(pid)

    def stands_again() -> bool:
        with contextlib.suppress(RendezvousConnectionError):
            found = status(hosted.endpoint)
            nodes = found["runs"][0]["nodes"] if found["runs"] else []
            return not found["coordinator"].endswith(f":{pid}") and [
                node["connected"] for node in nodes
            ] == [True, True]
        return False

    until(stands_again, LATE_S, "both agents to be back")
    for agent in agents:
        agent.ask_to_end()
    for agent in agents:
        agent.end()
    assert [len(agent.worlds) for agent in agents] == [1, 1]
    assert [agent.process.returncode for agent in agents] == [0, 0]
    assert [agent.errors for agent in agents] == ["", ""]


def test_a_process_that_ends_says_that_it_leaves(hosted: Hosted, until: Until) -> None:
    """At the interpreter's exit, without a grace for the others to wait."""
    agents = hosted.start(3)
    until(lambda: all(agent.worlds for agent in agents), LATE_S, "the first world")
    ended_s = time.monotonic()
    agents[0].end()
    until(lambda: all(len(agent.worlds) > 1 for agent in agents[1:]), LATE_S, "the second world")
    took_s = time.monotonic() - ended_s
    assert took_s < 1.5 + busy_s()
    assert agents[0].process.returncode == 0
    assert agents[0].errors == ""


# Where there are threads, Python is afraid of forks.
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_ends_at_once_and_without_a_word(agent: MakeHandler) -> None:
    """What the interpreter calls at its end, and what a program may, is the parent's to say."""
    member = agent()
    member.next_rendezvous()
    limit_s = 1 + busy_s()
    pid = os.fork()
    if pid == 0:
        begun_s = time.monotonic()
        member.leave("the process has ended")
        member.shutdown()
        os._exit(0 if time.monotonic() - begun_s < limit_s else 1)
    _, ended = os.waitpid(pid, 0)
    assert ended == 0
    assert not member.is_closed()
    (shown,) = status(member.endpoint)["runs"]
    assert len(shown["nodes"]) == 1


def test_a_process_ends_in_time_though_its_coordinator_is_gone(
    coordinator: ThreadedCoordinator, tmp_path: Path, until: Until
) -> None:
    agent = AgentProcess(coordinator.endpoint, tmp_path, (1, 1), is_host="0")
    until(lambda: agent.worlds, LATE_S, "the first world")
    coordinator.stop()
    began_s = time.monotonic()
    agent.end()
    took_s = time.monotonic() - began_s
    assert took_s < 6.0 + busy_s()
    assert agent.process.returncode == 0
    assert "Traceback" not in agent.errors


def test_it_is_what_the_registry_finds(coordinator: ThreadedCoordinator) -> None:
    params = RendezvousParameters("quorate", str(coordinator.endpoint), "job", 1, 2)
    handler = create_handler(params)
    assert handler.settings.run_id == "job"
    assert handler.endpoint == coordinator.endpoint
    assert (handler.settings.min_nodes, handler.settings.max_nodes) == (1, 2)


def test_r11_a_node_whose_address_has_changed_is_reached_at_the_new_one(agent: MakeHandler) -> None:
    """Its connection comes from there; its descriptor, which names its life, stays."""
    handler = agent()
    first = handler.next_rendezvous().place
    handler._client.attachment.local_addr = "127.0.0.9"
    info = handler.next_rendezvous()
    assert first is not None
    assert first.leader_addr == LOOPBACK
    assert info.place is not None
    assert info.place.leader_addr == info.bootstrap_store_info.master_addr == "127.0.0.9"
    assert handler.node is not None
    assert handler.node.addr == LOOPBACK
