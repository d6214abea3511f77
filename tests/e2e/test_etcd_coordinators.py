"""Coordinators that share an etcd: whatever dies, freezes or is refused, the rules hold (R17)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from quorate.core.settings import RendezvousSettings, RendezvousTimeout
from quorate.etcd.client import EtcdClient
from quorate.etcd.gateway import Credentials
from quorate.etcd.member import EtcdMember, MemberAddress
from quorate.etcd.messages import encode, prefix_end
from quorate.etcd.server import temporary_directory
from quorate.identity import Endpoint, parse_rendezvous_endpoint
from quorate.launch.wards import Wards
from quorate.testing.etcd import EtcdCluster
from tests.conftest import busy_s, wait_until
from tests.e2e.cluster import Cluster, Program
from tests.e2e.load import Counter, Load, load_loop
from tests.etcd.tls import Authority

pytestmark = [pytest.mark.etcd, pytest.mark.timeout(240)]

LATE_S = 45.0

DECIDES = "this coordinator decides now"
STANDS_BY = "this one stands by"

FreePort = Callable[[], int]


class House:
    """Two coordinators on one etcd of three members, and loads of agents that know both."""

    def __init__(
        self,
        cluster: Cluster,
        etcd: EtcdCluster,
        loop: asyncio.AbstractEventLoop,
        ports: tuple[int, int],
    ) -> None:
        self.cluster = cluster
        self.etcd = etcd
        self.loop = loop
        self.endpoints = [Endpoint("127.0.0.1", port) for port in ports]
        cluster.endpoint = ",".join(map(str, self.endpoints))
        self.url = "etcd://" + ",".join(map(str, etcd.endpoints))
        self.coordinators: list[Program] = []
        self.loads: list[Load] = []
        self.counter: Counter | None = None
        self.holder = self.serve(0)
        self.holder.line(DECIDES)
        self.standby = self.serve(1)
        self.standby.line(STANDS_BY)

    def serve(self, number: int) -> Program:
        program = self.cluster.quorate(
            *("serve", "--endpoint", str(self.endpoints[number]), "--backend", self.url),
            name=f"coordinator {number} ({len(self.coordinators)})",
        )
        self.coordinators.append(program)
        return program

    def load(self, run_id: str, agents: int, least: int, most: int) -> Load:
        timeout = RendezvousTimeout(last_call=timedelta(seconds=1))
        settings = RendezvousSettings(
            run_id,
            least,
            most,
            timeout,
            keep_alive_interval=timedelta(seconds=1.5),
            keep_alive_max_attempt=4,
            reconnect_grace=timedelta(seconds=0.5),
        )
        self.loads.append(Load(self.endpoints, settings, self.loop))
        self.loads[-1].add(agents)
        return self.loads[-1]

    def count(self) -> Counter:
        """Start to count in the store of a world of one."""
        single = self.load("single", 1, 1, 1)
        wait_until(single.are_together, LATE_S, "a world of one")
        world = single.living[0].world
        assert world is not None
        self.counter = Counter(self.endpoints, "single", world, self.loop)
        return self.counter

    def await_stall(self, what: str, since_s: float, until_s: float) -> float:
        """Wait until something is written after a time; print and return the longest stall."""
        counter = self.counter
        assert counter is not None
        wait_until(lambda: counter.counted_since(until_s), LATE_S, f"a write after: {what}")
        stall = counter.longest_stall(since_s)
        print(f"{what}: writes stalled for {stall.seconds:.1f} s")
        return stall.seconds

    def lost_nodes(self) -> set[str]:
        """Return the nodes that a coordinator has declared lost."""
        lines = [line for program in self.coordinators for line in program.stderr]
        return {found[1] for line in lines if (found := re.search(r": lost (\S+):", line))}

    def lose_one(self, load: Load) -> None:
        """Nobody was lost; one that dies now is, and is seen where others would have been."""
        assert self.lost_nodes() == set()
        dead = load.die()
        wait_until(lambda: self.lost_nodes() == {dead}, LATE_S, f"the loss of {dead}")

    def close(self) -> None:
        if self.counter is not None:
            self.counter.close()
        for load in self.loads:
            load.close()


@pytest.fixture
def house(cluster: Cluster, free_port: FreePort) -> Iterator[House]:
    with EtcdCluster() as etcd, load_loop() as loop:
        house = House(cluster, etcd, loop, (free_port(), free_port()))
        with contextlib.closing(house):
            yield house


def pass_until(at_s: float) -> None:
    """Let time pass, where how much of it passes is the subject."""
    wait_until(lambda: time.monotonic() >= at_s, LATE_S)


class Churn:
    """Lets agents come, leave and die, a little at every call."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.dead: set[str] = set()

    def go_on(self, seconds: float) -> None:
        ends_s = time.monotonic() + seconds
        while time.monotonic() < ends_s:
            self.load.leave()
            self.dead.add(self.load.die())
            self.load.add(2)
            pass_until(min(ends_s, time.monotonic() + 1.5))

    def calm_down(self) -> None:
        """Wait until all who live are in one world, whose ranks are 0 to n-1."""
        wait_until(self.load.are_together, LATE_S, "a world of all who live")
        ranks = sorted(agent.places[-1].rank for agent in self.load.living)
        assert ranks == list(range(len(ranks))), "R2"


def test_whatever_dies_all_rules_hold(house: House) -> None:
    """The holder, then the leader of etcd, then a member that freezes, while agents come and go."""
    load = house.load("load", 200, 150, 250)
    churn = Churn(load)
    churn.calm_down()
    house.count()

    churn.go_on(2.0)
    killed_s = house.holder.kill()
    churn.go_on(2.0)
    house.standby.line(DECIDES, LATE_S)
    house.await_stall("the holder killed", killed_s, time.monotonic())
    house.serve(0).line(STANDS_BY)
    churn.calm_down()

    leader = house.etcd.leader()
    killed_s = time.monotonic()
    leader.kill()
    churn.go_on(3.0)
    house.await_stall("the leader of etcd killed", killed_s, time.monotonic())
    leader.start()
    house.etcd.await_ready()
    churn.calm_down()

    frozen = house.etcd.leader()
    frozen_s = time.monotonic()
    frozen.freeze()
    churn.go_on(4.0)
    house.await_stall("a member of etcd frozen", frozen_s, time.monotonic())
    thawed_s = time.monotonic()
    frozen.thaw()
    churn.go_on(2.0)
    house.await_stall("the member thawed", thawed_s, time.monotonic())

    churn.calm_down()
    assert load.errors() == []
    worlds = load.check_rules()
    assert worlds >= 4
    wait_until(house.lost_nodes, LATE_S, "losses in the log: many have died")
    assert house.lost_nodes() <= churn.dead
    print(f"{worlds} worlds; {len(churn.dead)} agents died, as many left, twice as many came")


def test_without_a_quorum_all_wait_and_go_on(house: House, tmp_path: Path) -> None:
    """Agents wait with a reason, workers keep running, all resumes by itself."""
    fifo = tmp_path / "gate"
    os.mkfifo(fifo)
    load = house.load("load", 20, 20, 20)
    incomplete = house.load("incomplete", 1, 2, 2)
    worker_program = str(Path(__file__).with_name("worker_program.py"))
    run = house.cluster.run("1:1", worker_program, "share", str(fifo))
    run.line("shared")
    wait_until(load.are_together, LATE_S, "a world")
    house.count()

    lost_s = time.monotonic()
    for member in house.etcd.members[:2]:
        member.freeze()
    wait_until(
        lambda: any("does not answer" in text for text in incomplete.living[0].told),
        LATE_S,
        "the reason",
    )
    pass_until(lost_s + 20.0)
    incomplete.add(1)
    assert run.running
    for member in house.etcd.members[:2]:
        member.thaw()
    assert house.await_stall("no quorum of etcd", lost_s, time.monotonic()) >= 19.0
    wait_until(incomplete.are_together, LATE_S, "the second agent")
    assert load.are_together()
    assert load.check_rules() == 1
    assert load.errors() == incomplete.errors() == []
    house.lose_one(load)
    fifo.write_text("go")
    assert run.exit_code() == 0, run.report()
    assert len([line for line in run.stdout if "place" in line]) == 1


def test_a_holder_that_froze_is_deposed_and_changes_nothing(house: House) -> None:
    load = house.load("load", 50, 50, 50)
    wait_until(load.are_together, LATE_S, "a world")
    house.count()
    frozen_s = house.holder.send(signal.SIGSTOP)
    house.standby.line(DECIDES, LATE_S)
    house.await_stall("the holder frozen", frozen_s, time.monotonic())
    thawed_s = time.monotonic()
    house.holder.send(signal.SIGCONT)
    house.holder.line("has lost its seat", LATE_S)
    house.holder.line(STANDS_BY, LATE_S)
    house.await_stall("the former holder awake", thawed_s, time.monotonic())
    assert load.are_together()
    assert load.check_rules() == 1
    assert load.errors() == []
    house.lose_one(load)
    assert sum(DECIDES in line for line in house.holder.stderr) == 1


def test_one_that_ends_in_order_hands_over_at_once(house: House) -> None:
    """Also where etcd has compacted what the watch of the other one begins with."""
    load = house.load("load", 20, 20, 20)
    wait_until(load.are_together, LATE_S, "a world")
    with house.etcd.client() as client:
        for value in (b"1", b"2", b"3"):
            last = client.put(b"other", value)
        client.compact(last)
    ended_s = house.holder.send(signal.SIGTERM)
    house.standby.line(DECIDES)
    took_s = time.monotonic() - ended_s
    print(f"handed over within {took_s:.1f} s")
    assert took_s < 4.0 + busy_s()
    assert house.holder.exit_code() == 0
    incomplete = house.load("later", 2, 2, 2)
    wait_until(incomplete.are_together, LATE_S, "a world at the other one")
    assert load.are_together()


def refusal(program: Program, code: int) -> str:
    """Return the one line with which a coordinator ends."""
    assert program.exit_code() == code, program.report()
    (line,) = [line for line in program.stderr if line.startswith("quorate: ")]
    assert "Traceback" not in program.report()
    return line


def test_who_is_refused_is_told_in_one_line(
    cluster: Cluster, tmp_path: Path, free_port: FreePort
) -> None:
    with EtcdCluster(1) as etcd:
        guard(etcd)
        (endpoint,) = etcd.endpoints
        right, wrong = tmp_path / "right", tmp_path / "wrong"
        right.write_text("sesame")
        wrong.write_text("guess")

        def serve(configuration: str, url: str = "") -> Program:
            where = ("--endpoint", f"127.0.0.1:{free_port()}")
            backend = ("--backend", url or f"etcd://{endpoint}/shared")
            return cluster.quorate("serve", *where, *backend, "--backend-conf", configuration)

        welcome = serve(f"user=keeper,password_file={right}")
        welcome.line(DECIDES)
        make_tokens_old(etcd)
        settings = RendezvousSettings("job", 1, 1)
        with load_loop() as loop:
            address = welcome.line(r"listening on (\S+),")[1]
            load = Load([parse_rendezvous_endpoint(address, 0)], settings, loop)
            load.add(1)
            wait_until(load.are_together, LATE_S, "a world after the tokens have expired")
            load.close()
        assert len(welcome.stderr) == 3, welcome.report()
        assert "'keeper' with this password" in refusal(
            serve(f"user=keeper,password_file={wrong}"), 76
        )
        assert "grant the user" in refusal(
            serve(f"user=keeper,password_file={right}", f"etcd://{endpoint}/other"), 76
        )
        assert "give `user` and `password_file`" in refusal(serve(""), 76)


def make_tokens_old(etcd: EtcdCluster) -> None:
    """A change of the users makes every token of before invalid."""
    with EtcdClient(etcd.endpoints, Credentials("root", "root")) as root:
        body = encode({"name": "somebody", "password": "else"})
        assert root._gateway.read("/v3/auth/user/add", body, 5.0).status == 200


def guard(etcd: EtcdCluster) -> None:
    """Let etcd ask who is there; the user `keeper` may use what is below `/shared`."""
    key = b"/shared/"
    permission = {"permType": "READWRITE", "key": key, "range_end": prefix_end(key)}
    with etcd.client() as client:
        for path, body in (
            ("user/add", {"name": "root", "password": "root"}),
            ("user/add", {"name": "keeper", "password": "sesame"}),
            ("role/add", {"name": "root"}),
            ("role/add", {"name": "keeper"}),
            ("role/grant", {"name": "keeper", "perm": permission}),
            ("user/grant", {"user": "root", "role": "root"}),
            ("user/grant", {"user": "keeper", "role": "keeper"}),
            ("enable", {}),
        ):
            assert client._gateway.read(f"/v3/auth/{path}", encode(body), 5.0).status == 200


def test_an_authority_that_is_not_trusted_is_told_in_one_line(
    cluster: Cluster, tmp_path: Path, free_port: FreePort
) -> None:
    authority, stranger = Authority(tmp_path / "ca"), Authority(tmp_path / "stranger")
    cert, key = authority.issue("etcd")
    address = MemberAddress("tls", free_port(), free_port(), "https")
    flags = (f"--cert-file={cert}", f"--key-file={key}")
    with Wards(grace_s=1.0) as wards:
        member = EtcdMember(address, [address], temporary_directory(wards), wards, flags)
        member.start()
        programs = [
            cluster.quorate(
                *("serve", "--endpoint", f"127.0.0.1:{free_port()}"),
                *("--backend", f"etcd://{address.endpoint}"),
                *("--backend-conf", f"protocol=https,ca_cert={trusted}"),
            )
            for trusted in (authority.cert, stranger.cert)
        ]
        programs[0].line(DECIDES, LATE_S)
        assert "its certificate is not trusted" in refusal(programs[1], 76)
        member.kill()
