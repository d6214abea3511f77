"""The client against real etcd: keys, leases, users, certificates, members that fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from quorate.errors import (
    RendezvousConnectionError,
    RendezvousLimitError,
    RendezvousProtocolError,
    RendezvousSettingsError,
)
from quorate.etcd import transport
from quorate.etcd.client import EtcdClient, LeaseLost
from quorate.etcd.gateway import Credentials
from quorate.etcd.member import EtcdMember, MemberAddress
from quorate.etcd.messages import (
    Put,
    Range,
    Transaction,
    absent,
    created_at,
    encode,
    modified_at,
    operation,
    prefix_end,
    value_is,
    version_is,
)
from quorate.etcd.parameters import tls_context
from quorate.etcd.server import EtcdServer, temporary_directory
from quorate.etcd.writer import Writer
from quorate.launch.wards import Wards
from quorate.testing.clock import ManualClock
from quorate.testing.etcd import EtcdCluster
from tests.etcd.scripted import LOST, MEMBERS, ScriptedTransport, ok
from tests.etcd.tls import Authority

pytestmark = pytest.mark.etcd

Until = Callable[..., Any]
FreePort = Callable[[], int]

ROOT = Credentials("root", "root's secret")
ALICE = Credentials("alice", "alice's secret")


@pytest.fixture(scope="module")
def server() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        yield server


@pytest.fixture
def client(server: EtcdServer) -> Iterator[EtcdClient]:
    with server.get_client() as client:
        client.delete(b"\0", b"\0")
        yield client


def test_keys_are_put_read_counted_and_deleted(client: EtcdClient) -> None:
    value = bytes(range(256))
    revisions = [client.put(key, value) for key in (b"/a/1", b"/a/2", b"/a\xff", b"/b")]
    assert revisions == sorted(set(revisions))
    found = client.range(b"/a/", prefix_end(b"/a/"))
    assert [(each.key, each.value) for each in found.kvs] == [(b"/a/1", value), (b"/a/2", value)]
    assert found.header.revision == revisions[-1]
    one = client.range(b"/a/1", keys_only=True).kvs[0]
    assert (one.value, one.mod_revision, one.version) == (b"", revisions[0], 1)
    assert client.range(b"/a/", prefix_end(b"/a/"), count_only=True).count == 2
    assert len(client.range(b"/", prefix_end(b"/"), limit=3).kvs) == 3
    assert client.delete(b"/a/", prefix_end(b"/a/")) == 2
    assert client.delete(b"/a/1") == 0
    assert client.range(b"/a/1").kvs == []


def test_transactions_compare_all_that_a_key_has(client: EtcdClient) -> None:
    first = client.put(b"k", b"1")
    second = client.put(b"k", b"2")
    matching = [
        created_at(b"k", first),
        modified_at(b"k", second),
        version_is(b"k", 2),
        value_is(b"k", b"2"),
        absent(b"other"),
    ]
    reply = client.transact(matching, [operation(Put(b"other", b""))])
    assert reply.succeeded
    for condition in (*matching[4:], created_at(b"k", second), value_is(b"k", b"")):
        reply = client.transact([condition], [], [operation(Range(b"k"))])
        assert not reply.succeeded
        found = reply.responses[0].response_range
        assert found is not None
        assert found.kvs[0].value == b"2"


def test_a_lease_takes_its_keys_along(client: EtcdClient) -> None:
    lease = client.grant_lease(60)
    assert lease.ttl_s == 60
    client.put(b"k", b"", lease.lease_id)
    assert client.range(b"k").kvs[0].lease == lease.lease_id
    assert client.keep_alive(lease.lease_id) == 60
    assert client.revoke_lease(lease.lease_id)
    assert not client.range(b"k").kvs
    assert not client.revoke_lease(lease.lease_id)
    assert client.keep_alive(lease.lease_id) == 0
    transaction = Transaction(success=(operation(Put(b"k", b"", lease.lease_id)),))
    assert isinstance(client.try_transaction(transaction), LeaseLost)
    for write in (
        lambda: client.put(b"k", b"", lease.lease_id),
        lambda: client.transact(success=transaction.success),
    ):
        with pytest.raises(RendezvousSettingsError, match="grant another"):
            write()


def test_a_value_at_the_limit_is_kept_and_one_above_is_refused(client: EtcdClient) -> None:
    """R15"""
    value = bytes(1_500_000)
    client.put(b"k", value)
    assert client.range(b"k").kvs[0].value == value
    with pytest.raises(RendezvousLimitError, match="at most"):
        client.put(b"k", bytes(1_600_000))


def test_status_and_health(server: EtcdServer, client: EtcdClient, free_port: FreePort) -> None:
    status = client.status()
    assert status.version.startswith("3.")
    assert status.leader == status.header.member_id != 0
    [member] = client.members()
    assert member.name == "local"
    assert member.client_urls == [f"http://{server.address}"]
    assert client.is_healthy(timeout_s=5.0)
    with EtcdClient([transport.Endpoint("127.0.0.1", free_port())]) as nobody:
        assert not nobody.is_healthy(timeout_s=0.1)


def test_several_keys_are_read_at_one_moment(client: EtcdClient) -> None:
    client.put(b"a", b"1")
    revision = client.put(b"c", b"3")
    reply = client.range_each([b"c", b"b", b"a"])
    assert [(kv.key, kv.value) for kv in reply.kvs] == [(b"c", b"3"), (b"a", b"1")]
    assert (reply.count, reply.header.revision) == (2, revision)


def test_several_keys_are_asked_for_again_when_a_reply_is_lost() -> None:
    clock = ManualClock()
    answers = iter([LOST, ok(succeeded=True, responses=[{"response_range": {}}])])
    script = ScriptedTransport(lambda *_: next(answers), clock)
    client = EtcdClient(MEMBERS, clock=clock, transport=script)
    assert client.range_each([b"k"]).kvs == []
    (first, _), (second, _) = script.asked
    assert first != second
    with pytest.raises(RendezvousProtocolError, match="not answered the steps"):
        EtcdClient(
            MEMBERS, clock=clock, transport=ScriptedTransport(lambda *_: ok(succeeded=True), clock)
        ).range_each([b"k"])


def test_a_client_needs_an_endpoint() -> None:
    with pytest.raises(RendezvousSettingsError, match="endpoint"):
        EtcdClient([])


def test_what_knows_no_such_request_is_not_etcd() -> None:
    clock = ManualClock()
    script = ScriptedTransport(lambda endpoint, path: transport.Reply(404, b""), clock)
    client = EtcdClient(MEMBERS, clock=clock, transport=script)
    with pytest.raises(RendezvousProtocolError, match=r"does not know /v3/kv/range.*3\.4"):
        client.range(b"k")
    with pytest.raises(RendezvousProtocolError, match="does not know /v3/kv/put"):
        client.put(b"k", b"")


@pytest.mark.parametrize("call", ["put", "delete", "transact"])
def test_a_plain_write_says_that_it_may_have_happened(call: str) -> None:
    clock = ManualClock()
    lost = transport.Failure("lost", was_sent=True)
    client = EtcdClient(
        MEMBERS, clock=clock, transport=ScriptedTransport(lambda endpoint, path: lost, clock)
    )
    arguments = {"put": (b"k", b""), "delete": (b"k",), "transact": ()}[call]
    with pytest.raises(RendezvousConnectionError, match="may have happened"):
        getattr(client, call)(*arguments)


def test_each_call_has_a_deadline_of_its_own() -> None:
    clock = ManualClock()
    script = ScriptedTransport(lambda endpoint, path: ok(), clock)
    EtcdClient(MEMBERS, clock=clock, transport=script, timeout_s=1.5).range(b"k")
    EtcdClient(MEMBERS, clock=clock, transport=script).range(b"k", timeout_s=0.5)
    assert script.limits_s == [1.5, 0.5]


def test_a_killed_leader_costs_an_election() -> None:
    with EtcdCluster() as cluster, cluster.client() as client:
        writer = Writer(client, b"writers/")
        writer.write([], [operation(Put(b"k", b"1"))])
        cluster.leader().kill()
        writer.write([], [operation(Put(b"k", b"2"))])
        assert client.range(b"k").kvs[0].version == 2


def test_a_frozen_member_costs_an_attempt_and_no_majority_is_told(until: Until) -> None:
    with EtcdCluster() as cluster, cluster.client() as client:
        writer = Writer(client, b"writers/")
        writer.write([], [operation(Put(b"k", b"1"))])
        cluster.leader().freeze()
        writer.write([], [operation(Put(b"k", b"2"))])
        assert client.range(b"k").kvs[0].version == 2
        for member in cluster.members[:2]:
            member.kill()
        with pytest.raises(RendezvousConnectionError, match="whether a majority"):
            client.range(b"k", timeout_s=0.5)
        for member in cluster.members:
            member.start()
        cluster.await_ready()
        assert client.range(b"k").kvs[0].value == b"2"


@pytest.fixture
def guarded_server() -> Iterator[EtcdServer]:
    """An etcd that asks who is there: alice may use /alice/ only."""
    with EtcdServer() as server, server.get_client() as client:
        call = client._gateway.read
        key, end = b"/alice/", prefix_end(b"/alice/")
        permission = {"permType": "READWRITE", "key": key, "range_end": end}
        for path, body in (
            ("user/add", {"name": "root", "password": ROOT.password}),
            ("user/add", {"name": "alice", "password": ALICE.password}),
            ("role/add", {"name": "root"}),
            ("role/add", {"name": "writer"}),
            ("role/grant", {"name": "writer", "perm": permission}),
            ("user/grant", {"user": "root", "role": "root"}),
            ("user/grant", {"user": "alice", "role": "writer"}),
            ("enable", {}),
        ):
            assert call(f"/v3/auth/{path}", encode(body), 5.0).status == 200
        yield server


@contextmanager
def client_as(server: EtcdServer, credentials: Credentials | None) -> Iterator[EtcdClient]:
    with EtcdClient([server.address], credentials, timeout_s=5.0) as client:
        yield client


def test_users_passwords_permissions_and_expired_tokens(guarded_server: EtcdServer) -> None:
    with client_as(guarded_server, ALICE) as alice:
        writer = Writer(alice, b"/alice/writers/")
        revision = alice.put(b"/alice/k", b"1")
        with pytest.raises(RendezvousSettingsError, match=r"'alice' \(HTTP 403\): grant"):
            alice.put(b"/bob/k", b"1")
        with (
            pytest.raises(RendezvousSettingsError, match="grant the user read"),
            alice.watch(b"/bob/k", 1) as forbidden,
        ):
            forbidden.next(5.0)
        alice._gateway._token = "expired.1"
        writer.write([], [operation(Put(b"/alice/k", b"2"))])
        alice._gateway._token = "expired.2"
        with alice.watch(b"/alice/k", revision + 1) as watch:
            assert watch.next(5.0) is not None
        with client_as(guarded_server, ROOT) as root:
            body = encode({"name": "bob", "password": "x"})
            assert root._gateway.read("/v3/auth/user/add", body, 5.0).status == 200
        # A change of the users makes every token of before invalid.
        assert alice.range(b"/alice/k").kvs[0].value == b"2"
    with (
        client_as(guarded_server, Credentials("alice", "wrong")) as mallory,
        pytest.raises(RendezvousSettingsError, match=r"'alice' with this password"),
    ):
        mallory.range(b"/alice/k")
    with (
        client_as(guarded_server, None) as nobody,
        pytest.raises(RendezvousSettingsError, match=r"give `user` and `password_file`"),
    ):
        nobody.range(b"/alice/k")


def test_credentials_for_an_etcd_that_wants_none(server: EtcdServer) -> None:
    with (
        client_as(server, ALICE) as client,
        pytest.raises(RendezvousSettingsError, match="not enabled"),
    ):
        client.range(b"k")


def test_tls_and_mutual_tls(tmp_path: Path, free_port: FreePort, until: Until) -> None:
    authority, stranger = Authority(tmp_path / "ca"), Authority(tmp_path / "stranger")
    (cert, key), mine, theirs = authority.issue("etcd"), authority.issue("me"), stranger.issue("me")
    flags = (
        f"--cert-file={cert}",
        f"--key-file={key}",
        f"--trusted-ca-file={authority.cert}",
        "--client-cert-auth",
    )
    address = MemberAddress("tls", free_port(), free_port(), "https")
    with Wards(grace_s=1.0) as wards:
        member = EtcdMember(address, [address], temporary_directory(wards), wards, flags)
        member.start()

        def client(ca_cert: str, pair: tuple[str | None, str | None]) -> EtcdClient:
            return EtcdClient([address.endpoint], tls=tls_context(ca_cert, *pair), timeout_s=5.0)

        with client(authority.cert, mine) as welcome:
            until(lambda: welcome.is_healthy(1.0), timeout_s=15.0)
            revision = welcome.put(b"k", b"v")
            with welcome.watch(b"k", revision) as watch:
                assert watch.next(5.0) is not None
        for ca_cert, pair, hint in 5 * (
            (stranger.cert, mine, "its certificate is not trusted"),
            (authority.cert, (None, None), "does not accept our side"),
            (authority.cert, theirs, "does not accept our side"),
        ):
            with (
                client(ca_cert, pair) as unwelcome,
                pytest.raises(RendezvousSettingsError, match=hint) as caught,
            ):
                unwelcome.range(b"k")
            assert "\n" not in str(caught.value)
        with (
            EtcdClient([address.endpoint], timeout_s=0.5) as plain,
            pytest.raises(RendezvousConnectionError, match="`protocol`"),
        ):
            plain.range(b"k")
        member.kill()


@pytest.mark.parametrize(
    "responses",
    [[], [{}, {}], [{"response_put": {}}, {"response_range": {}}, {}]],
    ids=["none", "not the one that was asked for", "too many"],
)
def test_a_transaction_whose_steps_are_not_answered_is_refused(responses: list[Any]) -> None:
    """R15: whoever reads the answer relies on there being one for each step."""
    clock = ManualClock()
    answer = ok(succeeded=True, responses=responses)
    with (
        EtcdClient(
            MEMBERS, clock=clock, transport=ScriptedTransport(lambda *_: answer, clock)
        ) as client,
        pytest.raises(RendezvousProtocolError, match="not answered the steps"),
    ):
        client.transact(success=[operation(Put(b"k", b"v")), operation(Range(b"k"))])
