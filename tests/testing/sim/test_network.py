"""The network: bytes in order, late, stuck or bounced; connections that end on one side."""

from __future__ import annotations

import pytest

from quorate.testing.sim.network import Connection, Ending, Network, Peer
from quorate.testing.sim.process import Machine
from quorate.testing.sim.schedule import Schedule


class Recorder(Peer):
    """A peer that notes what reaches it."""

    def __init__(self, schedule: Schedule, name: str, network: Network) -> None:
        super().__init__(schedule, Machine(schedule, name), network)
        self.seen: list[object] = []
        self.connection: Connection | None = None

    def connected(self, connection: Connection) -> None:
        self.connection = connection
        self.seen.append("connected")

    def received(self, connection: Connection, data: bytes) -> None:
        self.seen.append(data)

    def ended(self, connection: Connection, ending: Ending) -> None:
        self.seen.append(ending)

    def refused(self, why: str) -> None:
        self.seen.append(why)


class Pair:
    """A client and a server that listens."""

    def __init__(self) -> None:
        self.schedule = Schedule(1)
        self.network = Network(self.schedule)
        self.client = Recorder(self.schedule, "a", self.network)
        self.server = Recorder(self.schedule, "c", self.network)
        self.network.listeners["c"] = self.server

    def dial(self) -> None:
        self.network.dial(self.client, self.server.machine)
        self.wait()

    def wait(self, seconds: float = 2.0) -> None:
        self.schedule.run_until(self.schedule.now_s + seconds)

    def say(self, *words: bytes) -> None:
        assert self.client.connection is not None
        for word in words:
            self.client.connection.send(self.client, word)


@pytest.fixture
def pair() -> Pair:
    pair = Pair()
    pair.dial()
    assert pair.client.seen == pair.server.seen == ["connected"]
    return pair


def test_bytes_arrive_late_and_in_order(pair: Pair) -> None:
    pair.network.be_slow()
    words = [str(number).encode() for number in range(50)]
    pair.say(*words)
    assert pair.server.seen == ["connected"]
    pair.wait(30)
    assert pair.server.seen[1:] == words


def test_what_is_stuck_arrives_once_the_way_is_open(pair: Pair) -> None:
    pair.network.block([("a", "c")])
    pair.say(b"1", b"2")
    pair.wait(30)
    assert pair.server.seen == ["connected"]
    assert pair.network.calm_s(pair.client.machine, pair.server.machine) == 0
    pair.network.unblock([("a", "c")])
    pair.say(b"3")
    pair.wait()
    assert pair.server.seen[1:] == [b"1", b"2", b"3"]
    assert pair.network.calm_s(pair.client.machine, pair.server.machine) == pytest.approx(2)


@pytest.mark.parametrize("ending", Ending)
def test_the_other_side_reads_how_a_process_has_ended(pair: Pair, ending: Ending) -> None:
    pair.say(b"last")
    pair.client.kill(ending)
    pair.wait()
    assert pair.server.seen[1:] == [b"last", ending]
    assert not pair.server.connections


def test_a_machine_without_power_says_nothing(pair: Pair) -> None:
    pair.network.dark.add("a")
    pair.client.kill(None)
    pair.wait(100)
    assert pair.server.seen == ["connected"]
    assert pair.server.connections


def test_words_for_a_side_that_has_forgotten_bounce(pair: Pair) -> None:
    assert pair.server.connection is not None
    pair.server.connection.forget(pair.server)
    pair.say(b"hello?")
    pair.wait()
    assert pair.client.seen[1:] == [Ending.RESET]


def test_nobody_listens() -> None:
    pair = Pair()
    pair.server.die()
    pair.dial()
    assert pair.client.seen == ["nobody listens"]


@pytest.mark.parametrize(
    ("way", "hears"), [(("a", "c"), []), (("c", "a"), ["connected"])], ids=["up", "down"]
)
def test_a_blocked_way_is_silence(way: tuple[str, str], hears: list[object]) -> None:
    pair = Pair()
    pair.network.block([way])
    pair.dial()
    assert pair.client.seen == ["no answer"]
    assert pair.server.seen == hears


def test_only_words_that_count_break_a_silence(pair: Pair) -> None:
    pair.say(b"1")
    pair.wait()
    heard_s = pair.network.heard_s(pair.client, pair.server, read_s=pair.schedule.now_s)
    assert heard_s > 0
    pair.server.listens_to = lambda connection: False
    pair.say(b"2")
    pair.wait()
    assert pair.server.seen[-1] == b"2"
    now_s = pair.schedule.now_s
    assert pair.network.heard_s(pair.client, pair.server, read_s=now_s) == heard_s


def test_a_pause_lasts_for_one_that_has_read_nothing_since(pair: Pair) -> None:
    pair.say(b"1")
    pair.wait(10)
    before_s = pair.network.heard_s(pair.client, pair.server, read_s=pair.schedule.now_s)
    pair.say(b"2")
    pair.wait(1)
    assert pair.network.heard_s(pair.client, pair.server, read_s=9.0) == before_s
    assert pair.network.heard_s(pair.client, pair.server, read_s=pair.schedule.now_s) > before_s
