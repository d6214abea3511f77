"""The engine: who may speak, what is stored before it is said, what outlives a coordinator."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from quorate.coordinator.engine import GAP_MAX_S
from quorate.coordinator.engine import engine as engine_module
from quorate.coordinator.engine.engine import BATCH_BYTES_MAX
from quorate.core.node import NodeDesc, NodeProfile
from quorate.core.settings import PROTOCOL_VERSION
from quorate.wire import messages
from quorate.wire.frames import FRAME_BYTES_MAX
from quorate.wire.messages import (
    ROLE_AGENT,
    AddNumber,
    Changed,
    Close,
    CompareSet,
    Failed,
    Flag,
    GetValue,
    GetWorld,
    Hello,
    Join,
    Joined,
    Leave,
    Number,
    Ping,
    Pong,
    Refused,
    Report,
    Scale,
    SetValue,
    Status,
    Value,
    Welcome,
    WorldRecord,
    encode,
)
from tests.coordinator.driver import RUN, TICK_S, Agent, Driver, Peer, refusal, rejoin
from tests.core.support import make_settings


def space_of(driver: Driver) -> tuple[str, int]:
    world = driver.state.world
    assert world is not None
    return (world.epoch, world.round)


def hello(**changes: Any) -> Hello:
    """Return an agent's hello, with some fields of it changed."""
    sound = Hello(
        PROTOCOL_VERSION, ROLE_AGENT, RUN, "s", NodeDesc("x", 1, 0), None, make_settings().agreed
    )
    return msgspec.structs.replace(sound, **changes)


def settings(**changes: Any) -> Hello:
    return hello(settings=msgspec.structs.replace(make_settings().agreed, **changes))


class TestGreeting:
    """R13 and R15: who is let in."""

    @pytest.mark.parametrize(
        ("greeting", "code", "words"),
        [
            (hello(version=99), "protocol", "version 1, the peer version 99"),
            (hello(role="admin"), "protocol", "role 'admin'"),
            (hello(node=None), "protocol", "node and its settings"),
            (hello(settings=None), "protocol", "node and its settings"),
            (hello(run_id=""), "protocol", "run id"),
            (hello(run_id="a\0b"), "settings", r"run id 'a\x00b'"),
            (hello(run_id="x\nINFO all is well"), "settings", r"run id 'x\nINFO all"),
            (hello(run_id="r" * 257), "limit", "256"),
            (hello(session=""), "protocol", "session"),
            (hello(session="a\0b"), "protocol", "session"),
            (hello(session="s" * 257), "protocol", "session"),
            (hello(node=NodeDesc("x" * 2000, 1, 0)), "limit", "address"),
            (hello(profile=NodeProfile(labels={"block": "b" * 5000})), "limit", "labels"),
            (hello(node=NodeDesc("n\x1b[2J", 1, 0)), "settings", "address"),
            (hello(profile=NodeProfile("n\r0")), "settings", "node id"),
            (hello(profile=NodeProfile(labels={"a\x9b": "b"})), "settings", "label"),
            (hello(profile=NodeProfile(labels={"a": "\x1b[H"})), "settings", r"label 'a:\x1b[H'"),
            (hello(profile=NodeProfile(addr="a\u202eb")), "settings", "address"),
            (hello(profile=NodeProfile(release="1\t")), "settings", "release"),
            (hello(profile=NodeProfile(slots=2**62)), "protocol", "workers"),
            (hello(profile=NodeProfile(port=-1)), "protocol", "port"),
            (settings(min_nodes=0), "settings", "greater than zero"),
            (settings(max_nodes=1), "settings", "maximum"),
            (settings(rank_policy="best"), "settings", "best"),
            (settings(join_timeout=0.0), "settings", "positive"),
            (settings(join_timeout=-1.0), "settings", "join_timeout"),
            (settings(last_call_timeout=1e12), "settings", "last_call_timeout"),
            (settings(keep_alive_interval=math.nan), "settings", "keep_alive_interval"),
        ],
        ids=lambda value: None if isinstance(value, Hello) else value,
    )
    def test_r15_an_unsound_hello_is_refused_and_leaves_nothing(
        self, greeting: Hello, code: str, words: str
    ) -> None:
        driver = Driver()
        peer = Peer(driver, greeting)
        peer.connect()
        assert refusal(peer).code == code
        assert words in refusal(peer).message
        assert driver.engine.runs == {}
        assert driver.ledger == {}

    def test_r13_settings_that_differ_are_named_with_both_values(self) -> None:
        driver = Driver(2, 3)
        a = driver.agent("a")
        other = driver.agent("b", max_nodes=4)
        assert refusal(other).code == "settings"
        assert "max_nodes is 3 in the run, 4 here" in refusal(other).message
        assert [type(message) for message in a.take()] == [Welcome]

    def test_r13_an_empty_run_takes_new_settings(self) -> None:
        driver = Driver(2, 3)
        driver.agent("a").leave()
        other = driver.agent("b", max_nodes=4)
        assert other.connection is not None
        assert driver.run.settings.max_nodes == 4

    @pytest.mark.parametrize(
        "message", [Join(1, None, 1.0, NodeProfile()), Status(1), SetValue(1, ("e", 0), "k", b"")]
    )
    def test_r15_the_first_message_must_be_a_hello(self, message: Any) -> None:
        driver = Driver()
        peer = Peer(driver, hello())
        peer.connection = driver.open(peer)
        peer.say(message)
        assert refusal(peer).code == "protocol"
        assert type(message).__name__ in refusal(peer).message

    def test_r15_a_second_hello_is_refused_and_disturbs_nobody(self) -> None:
        driver = Driver()
        a, b = driver.agent("a"), driver.agent("b")
        a.say(a.hello)
        assert refusal(a).code == "protocol"
        assert "twice" in refusal(a).message
        assert [type(message) for message in b.take()] == [Welcome]

    def test_r15_nothing_counts_after_a_refusal(self) -> None:
        """The rest of what a peer sent at once must not hide why it was refused."""
        driver = Driver()
        driver.agent("a")
        late = Agent(driver, "b", NodeProfile(), make_settings(3, 5).agreed)
        late.connection = driver.open(late)
        connection = late.connection
        driver.engine.receive(connection, late.hello)
        driver.engine.receive(connection, Join(1, None, 1.0, NodeProfile()))
        driver.engine.receive(connection, Ping(1))
        driver.deliver()
        assert [type(message) for message in late.received] == [Refused]
        assert refusal(late).code == "settings"

    def test_a_message_on_a_connection_that_is_gone_is_dropped(self) -> None:
        driver = Driver()
        a = driver.agent("a")
        old = a.connection
        a.cut()
        assert old is not None
        driver.send(old, Join(1, None, 1.0, NodeProfile()))
        assert driver.run.sessions[a.node].join is None


class TestBatches:
    """R14: stored before told, and stored once."""

    def test_r14_nobody_is_answered_before_the_batch_is_stored(self) -> None:
        driver = Driver(2, 2)
        driver.stalled = True
        a, b = driver.agent("a"), driver.agent("b")
        a.join()
        b.join()
        assert a.received == b.received == []
        driver.stalled = False
        driver.deliver()
        assert [type(message) for message in a.received] == [Welcome, Joined]
        assert driver.batches == 2, "what came while one was written is one batch"

    def test_r14_pongs_do_not_wait(self) -> None:
        driver = Driver()
        driver.stalled = True
        a = driver.agent("a")
        a.say(Ping(3))
        assert a.received == [Pong(3)]

    def test_r14_what_is_not_stored_never_happened(self) -> None:
        driver = Driver(2, 2)
        a, b = driver.agent("a"), driver.agent("b")
        driver.stalled = True
        a.join()
        b.join()
        driver.crash()
        driver.stalled = False
        assert not driver.state.complete
        a.reconnect()
        b.reconnect()
        assert a.place is not None
        assert b.place is not None
        assert a.place.digest == b.place.digest

    def test_r14_what_only_looks_is_not_written(self) -> None:
        driver = Driver(2, 2)
        a, _ = driver.world("a", "b")
        operator = driver.operator()
        before = driver.batches
        a.say(GetWorld(1))
        operator.say(Status(2))
        driver.let_pass(60)
        assert driver.batches == before, "a steady state is written"
        assert a.last(WorldRecord).world == driver.state.world
        assert operator.last(Report).json

    def test_r15_a_record_that_is_too_large_fails_alone(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(messages, "WHOLE_MEMBERS_MAX", 1)
        driver = Driver(2, 2)
        a, _ = driver.world("a", "b")
        a.say(GetWorld(1))
        assert (a.last(Failed).id, a.last(Failed).code) == (1, "limit")
        a.say(GetWorld(2, 0))
        assert a.last(WorldRecord).world == driver.state.world

    def test_r14_a_batch_is_bounded(self) -> None:
        driver = Driver(2, 2)
        driver.world("a", "b")
        workers = [driver.store(f"w{number}") for number in range(10)]
        large = bytes(FRAME_BYTES_MAX - 1024)
        driver.stalled = True
        for number, worker in enumerate(workers):
            worker.say(SetValue(1, space_of(driver), f"k{number}", large))
        before = driver.batches
        driver.stalled = False
        driver.deliver()
        assert all(worker.last(Flag).value for worker in workers)
        assert driver.batches - before >= len(workers) * len(large) / BATCH_BYTES_MAX

    def test_r14_so_is_one_of_requests_whose_answers_are_large(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A value of a key is the answer to a comparison that fails, and stored as that."""
        limit = 10_000
        monkeypatch.setattr(engine_module, "BATCH_BYTES_MAX", limit)
        driver = Driver(2, 2)
        driver.world("a", "b")
        workers = [driver.store(f"w{number}") for number in range(40)]
        workers[0].say(SetValue(1, space_of(driver), "k", bytes(1000)))
        sizes = record_batches(driver, monkeypatch)
        driver.stall()
        for worker in workers:
            worker.say(CompareSet(2, space_of(driver), "k", b"something else", b""))
        driver.go_on()
        assert [worker.last(Value).value for worker in workers] == [bytes(1000)] * len(workers)
        assert max(sizes) < limit + 2000
        assert len(sizes) < 8

    def test_r14_there_is_one_batch_at_a_time(self) -> None:
        driver = Driver()
        driver.stalled = True
        driver.agent("a")
        driver.agent("b")
        assert driver.engine.take_batch() is None

    def test_r14_a_retried_change_is_recognised_after_a_restart_too(self) -> None:
        driver = Driver(2, 2)
        driver.world("a", "b")
        worker, other = driver.store("w"), driver.store("v")
        change = AddNumber(1, space_of(driver), "n", 5)
        worker.say(change)
        other.say(AddNumber(1, space_of(driver), "n", 5))
        worker.say(change)
        driver.crash()
        worker.connect()
        worker.say(change)
        assert [answer.value for answer in worker.all(Number)] == [5, 5, 5]
        other.connect()
        other.say(GetValue(2, space_of(driver), "n", 0.0))
        assert other.last(Value).value == b"10"


def record_batches(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the list to which the sizes of what is stored from now on are added."""
    sizes: list[int] = []
    commit = driver._commit

    def record(changes: dict[str, bytes | None]) -> None:
        sizes.append(sum(len(key) + len(value or b"") for key, value in changes.items()))
        commit(changes)

    monkeypatch.setattr(driver, "_commit", record)
    return sizes


def write_at_every_tick(driver: Driver, ticks: int) -> None:
    """Let so many ticks pass, each of which falls into a write."""
    worker = driver.store("w")
    for number in range(ticks):
        driver.stalled = True
        worker.say(AddNumber(number + 1, space_of(driver), "n", 1))
        driver.let_pass(TICK_S)
        driver.stalled = False
        driver.deliver()


class TestTime:
    """R9: only attended time counts, for the stores' timeouts too."""

    def test_r9_a_gap_does_not_count(self) -> None:
        driver = Driver()
        driver.agent("a")
        before = driver.engine.now_s
        driver.freeze(GAP_MAX_S + 0.25)
        assert driver.engine.now_s == before
        driver.freeze(GAP_MAX_S)
        assert driver.engine.now_s == before + GAP_MAX_S

    def test_a_wait_for_a_key_ends_in_time_and_names_it(self) -> None:
        driver = Driver(2, 2)
        driver.world("a", "b")
        worker = driver.store("w")
        worker.say(GetValue(7, space_of(driver), "addr", 3.0))
        driver.let_pass(2.75)
        assert worker.all(Failed) == []
        driver.let_pass(0.5)
        assert (worker.last(Failed).id, worker.last(Failed).code) == (7, "store_timeout")
        assert "'addr'" in worker.last(Failed).message

    def test_a_wait_of_a_connection_that_is_gone_is_forgotten(self) -> None:
        driver = Driver(2, 2)
        driver.world("a", "b")
        worker = driver.store("w")
        worker.say(GetValue(7, space_of(driver), "addr", 3.0))
        worker.cut()
        driver.let_pass(5)
        assert worker.all(Failed) == []

    def test_r8_ticks_that_all_fall_into_writes_are_made_up_for(self) -> None:
        # Seed 32108 of the simulator: nobody was lost while one write followed the other.
        driver = Driver(1, 2)
        a, b = driver.world("a", "b")
        b.cut(finished=True)
        write_at_every_tick(driver, 20)
        assert "its process ended" in a.last(Changed).reason

    def test_r17_not_where_it_is_uncertain_by_then_who_decides(self) -> None:
        # Seed 67293 of the simulator.
        driver = Driver(1, 2)
        a, b = driver.world("a", "b")
        b.cut(finished=True)
        driver.certain = False
        write_at_every_tick(driver, 20)
        assert a.all(Changed) == []

    def test_r9_a_tick_that_was_made_up_for_is_not_followed_by_a_second_one_at_once(self) -> None:
        driver = Driver(1, 2)
        a, b = driver.world("a", "b")
        worker = driver.store("w")
        b.cut(finished=True)
        driver.let_pass(driver.settings.reconnect_grace.total_seconds() - TICK_S)
        driver.stalled = True
        worker.say(AddNumber(1, space_of(driver), "n", 1))
        driver.let_pass(TICK_S)
        driver.stalled = False
        driver.deliver()
        # What b has sent meanwhile may lie unread here.
        driver.engine.tick()
        driver.deliver()
        b.reconnect()
        driver.let_pass(1.0)
        assert a.all(Changed) == []


def test_a_large_reason_is_cut_for_everybody() -> None:
    """R15: everybody is told, twice in the error of a join."""
    driver = Driver(2, 3)
    a, b = driver.world("a", "b")
    late = driver.agent("c")
    a.leave("x" * 100_000)
    driver.operator().say(Close(1, "y" * 1_000_000))
    late.join()
    assert len(encode(b.told)) < 4000
    assert len(encode(late.last(Failed))) < 8000


def test_it_has_work_while_somebody_is_there() -> None:
    driver = Driver()
    assert not driver.engine.has_work()
    a = driver.agent("a")
    assert driver.engine.has_work()
    a.cut()
    assert driver.engine.has_work(), "its node may come back"
    driver.let_pass(20)
    assert not driver.engine.has_work(), "nobody is heard, which is why it is not lost either"


def test_it_tells_the_log_what_happens() -> None:
    driver = Driver(2, 2)
    driver.world("a", "b")
    told = [(run_id, event.text) for run_id, event in driver.engine.take_events()]
    assert told.count((RUN, "round 0 is complete")) == 1
    assert driver.engine.take_events() == []


@pytest.mark.parametrize("reason", ["failed over to another cluster", "succeeded", ""])
def test_no_reason_of_an_operator_is_read_as_a_verdict(reason: str) -> None:
    """Agents go by the first word: a job that has failed is stopped, and one done exits with 0."""
    driver = Driver()
    a, _ = driver.world("a", "b")
    driver.operator().say(Close(1, reason))
    driver.finish()
    assert a.told.closed_reason == f"by the operator: {reason}".removesuffix(": ")


def test_an_operator_may_close_a_run_and_see_all() -> None:
    driver = Driver(2, 2)
    a, _ = driver.world("a", "b")
    operator = driver.operator("")
    operator.say(Status(1))
    assert RUN.encode() in operator.last(Report).json
    operator.cut()
    closer = driver.operator()
    closer.say(Close(2, "enough"))
    assert closer.last(Flag).value
    assert a.last(Changed).closed_reason == "by the operator: enough"


def test_r9_a_gap_that_a_message_has_seen_first_still_delays_the_judge() -> None:
    driver = Driver(2, 3)
    a, b, _ = driver.world("a", "b", "c")
    a.cut()
    driver.let_pass(14.25)
    driver.clock.advance(0.9)
    b.say(Ping(1))
    driver.clock.advance(20)
    b.say(Ping(2))
    driver.engine.tick()
    driver.deliver()
    a.reconnect()
    driver.let_pass(2)
    assert a.node in driver.state.participants, "its hello was waiting to be read"


def test_r9_a_hello_counts_though_its_connection_ends_before_its_turn() -> None:
    driver = Driver(2, 4)
    a, _, _ = driver.world("a", "b", "c")
    a.cut()
    driver.let_pass(13)
    driver.stalled = True
    driver.agent("d")
    a.reconnect()
    a.cut()
    driver.stalled = False
    driver.deliver()
    driver.let_pass(5)
    assert a.node in driver.state.participants, "it was heard 5 s ago"
    driver.let_pass(12)
    assert a.node not in driver.state.participants


def test_r15_a_run_has_so_many_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "NODES_MAX", 2)
    driver = Driver()
    first, second = driver.agent("a"), driver.agent("b")
    assert driver.agent("c").last(Refused).code == "limit"
    first.cut()
    first.reconnect()
    assert not first.all(Refused)
    assert set(driver.run.sessions) == {first.node, second.node}


def comes_again(agent: Agent) -> int:
    """Let an agent dial again while its former connection stands; return that one."""
    former, agent.connection = agent.connection, None
    assert former is not None
    # Until this is stored nobody is told anything, the former connection's end included.
    agent.driver.stalled = True
    agent.connect()
    return former


def go_on(driver: Driver) -> None:
    driver.stalled = False
    driver.deliver()


def test_r11_what_a_former_connection_held_back_does_not_count() -> None:
    """A network that was cut delivers it late, when its sender was lost, and is back."""
    driver = Driver(2, 3)
    a, b = driver.world("a", "b")
    b.beats = False
    driver.let_pass(20)
    assert a.told.waiting == 1
    former = comes_again(b)
    driver.send(former, Leave(1, "long ago"))
    driver.send(former, SetValue(2, space_of(driver), "k", b"v"))
    go_on(driver)
    assert former not in driver.peers
    assert b.node in driver.state.last_heartbeats
    assert not b.all(Flag)


def test_r12_nor_does_it_take_an_identity_back() -> None:
    driver = Driver(1, 3)
    a = driver.agent("a", node_id="1")
    a.leave()
    heir = driver.agent("b", node_id="1")
    identified, a.hello.profile = a.profile, NodeProfile()
    former = comes_again(a)
    driver.send(former, Join(2, None, 600.0, identified))
    go_on(driver)
    assert (refusal(a).code, a.last(Failed).code) == ("replaced", "replaced")
    assert driver.run.sessions.keys() == {heir.node}
    assert driver.state.identities == {"1": heir.node}


def test_r12_a_life_that_was_lost_does_not_throw_out_its_heir() -> None:
    driver = Driver(2, 3)
    a, b = driver.agent("a", node_id="0"), driver.agent("b", node_id="1")
    for agent in (a, b):
        agent.join()
    driver.let_pass(31)
    b.cut()
    b.beats = False
    driver.let_pass(16)
    heir = driver.agent("c", node_id="1")
    rejoin(a, heir)
    driver.let_pass(31)
    driver.crash()
    for agent in (a, heir):
        agent.reconnect()
    b.reconnect()
    assert refusal(b).code == "replaced"
    assert driver.state.world is not None
    assert driver.state.world.members == (a.node, heir.node)
    assert driver.state.complete


def test_r8_a_node_that_comes_back_hears_of_a_newcomer_after_a_wish_that_is_over() -> None:
    # Seed 69388 of the simulator: the operator's wish was over before a had heard of it.
    driver = Driver(1, 4)
    a, *_ = driver.world("a", "b", "c")
    operator, newcomer = driver.operator(), driver.agent("d")
    driver.stalled = True
    operator.say(Scale(1, 2))
    a.cut()
    newcomer.join()
    operator.say(Scale(2, None))
    a.reconnect()
    driver.stalled = False
    driver.deliver()
    assert a.last(Changed).waiting == 1
