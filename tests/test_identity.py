from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import pytest

from quorate import identity
from quorate.errors import RendezvousConnectionError, RendezvousSettingsError
from quorate.identity import (
    Endpoint,
    NodeDescGenerator,
    ResolvedAddress,
    advertised_address,
    bind_all,
    can_bind,
    is_loopback,
    is_numeric,
    listening_addresses,
    outward_address,
    own_addresses,
    parse_rendezvous_endpoint,
    parse_rendezvous_endpoints,
    resolve,
)

LOOPBACK = ResolvedAddress(socket.AF_INET, ("127.0.0.1", 0))
NOT_OURS = ResolvedAddress(socket.AF_INET, ("192.0.2.77", 0))


def test_generate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getfqdn", lambda: "dummy_fqdn")
    monkeypatch.setattr(identity.os, "getpid", lambda: 3)
    generator = NodeDescGenerator()
    nodes = [generator.generate(addr) for addr in (None, None, "10.0.0.1")]
    assert [str(node) for node in nodes] == ["dummy_fqdn_3_0", "dummy_fqdn_3_1", "10.0.0.1_3_2"]


def test_an_incarnation_is_another_one_each_time() -> None:
    """R12: the first node of two processes with the same id is not the same node."""
    lives = {NodeDescGenerator().generate("a").incarnation for _ in range(100)}
    assert len(lives) == 100
    assert all(len(life) >= 16 for life in lives)


def test_local_ids_differ_between_threads() -> None:
    generator = NodeDescGenerator()
    start = threading.Barrier(4)
    seen: list[int] = []

    def work() -> None:
        start.wait(5)
        seen.extend(generator.generate("a").local_id for _ in range(250))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert sorted(seen) == list(range(1000))


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        (None, ("localhost", 123)),
        ("", ("localhost", 123)),
        ("  ", ("localhost", 123)),
        ("node-1.example", ("node-1.example", 123)),
        (" under_score:0 ", ("under_score", 0)),
        ("192.168.0.1:65535", ("192.168.0.1", 65535)),
        ("[2001:db8::7]", ("2001:db8::7", 123)),
        ("[2001:db8::7]:90", ("2001:db8::7", 90)),
        ("[fe80::1%eth0]:90", ("fe80::1%eth0", 90)),
    ],
)
def test_endpoints_are_read(text: str | None, endpoint: tuple[str, int]) -> None:
    assert parse_rendezvous_endpoint(text, 123) == endpoint


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("host:", "port number"),
        ("host:x", "port number"),
        ("host:-1", "port number"),
        ("host:65536", "port number"),
        ("host:123456", "port number"),
        ("host:1_0", "port number"),
        ("host:٣", "port number"),
        ("~host:1", "hostname"),
        ("ho st", "hostname"),
        ("http://host:1", "hostname"),
        (":1", "hostname"),
        ("[]:1", "hostname"),
        ("[::1%]:1", "hostname"),
        ("[fe80::1%a b]:1", "hostname"),
        ("[fe80::1%\0]:1", "hostname"),
        ("a:b:1", "hostname"),
        ("a" * 254 + ":1", "hostname"),
        (f"[fe80::1%{'a' * 254}]:1", "hostname"),
        ("2001:db8::7", "in brackets"),
        ("::1:90", "in brackets"),
    ],
)
def test_what_is_no_endpoint_is_refused_by_name(text: str, complaint: str) -> None:
    with pytest.raises(RendezvousSettingsError, match=complaint) as caught:
        parse_rendezvous_endpoint(text, 123)
    assert text in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_several_endpoints_are_read() -> None:
    assert parse_rendezvous_endpoints("c1:1, [::1]:2,c3", 9) == [("c1", 1), ("::1", 2), ("c3", 9)]
    assert parse_rendezvous_endpoints("", 9) == [("localhost", 9)]
    with pytest.raises(RendezvousSettingsError, match="empty entry"):
        parse_rendezvous_endpoints("c1,,c2", 9)


def test_an_endpoint_is_written_as_it_is_read() -> None:
    for text in ("host:1", "127.0.0.1:2", "[::1]:3", "[fe80::1%eth0.7]:4"):
        assert str(parse_rendezvous_endpoint(text, 9)) == text


def test_resolving_gives_each_address_once_with_the_port() -> None:
    addresses = resolve(Endpoint("127.0.0.1", 7))
    assert addresses == [ResolvedAddress(socket.AF_INET, ("127.0.0.1", 7))]
    assert addresses[0].addr == "127.0.0.1"


def test_a_name_that_does_not_resolve_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(RendezvousConnectionError, match="'nowhere'"):
        resolve(Endpoint("nowhere", 7))


def test_a_name_that_cannot_be_encoded_is_named() -> None:
    with pytest.raises(RendezvousConnectionError, match="cannot be resolved"):
        resolve(Endpoint("a" * 300, 7))


def test_own_addresses_are_those_that_can_be_bound() -> None:
    found = own_addresses(Endpoint("both", 0), lambda _: [NOT_OURS, LOOPBACK])
    assert found == [LOOPBACK]
    assert not can_bind(NOT_OURS)


def test_a_loopback_endpoint_listens_on_its_own_addresses_only() -> None:
    assert listening_addresses(Endpoint("localhost", 5), lambda _: [LOOPBACK]) == [LOOPBACK]


def test_any_other_endpoint_listens_on_every_address() -> None:
    found = listening_addresses(Endpoint("this-machine", 5))
    assert ("0.0.0.0", 5) in [address.sockaddr for address in found]
    assert {address.addr for address in found} <= {"0.0.0.0", "::"}


def test_bind_all_listens(free_port: Callable[[], int]) -> None:
    port = free_port()
    listeners = bind_all([LOOPBACK], port)
    assert listeners is not None
    with listeners[0], socket.create_connection(("127.0.0.1", port), 5) as client:
        accepted, _ = listeners[0].accept()
        with accepted:
            assert accepted.getpeername() == client.getsockname()


def test_bind_all_binds_all_or_none(free_port: Callable[[], int]) -> None:
    port = free_port()
    second = ResolvedAddress(socket.AF_INET, ("127.0.0.2", 0))
    with socket.create_server(("127.0.0.2", port)):
        assert bind_all([LOOPBACK, second], port) is None
    listeners = bind_all([LOOPBACK, second], port)
    assert listeners is not None, "the first address was not given back"
    for listener in listeners:
        listener.close()


def test_a_wildcard_does_not_share_a_port_that_is_served(free_port: Callable[[], int]) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        assert bind_all(listening_addresses(Endpoint("this-machine", port)), port) is None


def test_port_0_picks_one_port_for_all_addresses() -> None:
    listeners = bind_all([LOOPBACK, ResolvedAddress(socket.AF_INET, ("127.0.0.2", 0))], 0)
    assert listeners is not None
    ports = {listener.getsockname()[1] for listener in listeners}
    for listener in listeners:
        listener.close()
    assert len(ports) == 1
    assert 0 not in ports


def test_binding_what_is_not_ours_is_refused() -> None:
    with pytest.raises(RendezvousConnectionError, match=r"192\.0\.2\.77:8"):
        bind_all([NOT_OURS], 8)
    with pytest.raises(RendezvousConnectionError, match="no address"):
        bind_all([], 8)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST", "127.0.0.1", "127.0.1.1", "::1", "::ffff:127.0.0.1"]
)
def test_loopback_is_known(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["10.0.0.1", "::1", "2001:db8::1"])
def test_an_address_is_told_from_a_name(host: str) -> None:
    assert is_numeric(host)


@pytest.mark.parametrize("host", ["node1", "10.0.0", "fe80::1%eth0", "", "a\0b", "\u00fc"])
def test_a_name_is_told_from_an_address(host: str) -> None:
    assert not is_numeric(host)


@pytest.mark.parametrize("host", ["10.0.0.1", "node1", "::2", "::ffff:10.0.0.1", "localhost.x"])
def test_what_is_not_loopback_is_known(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("connection", "endpoint", "wanted", "outward", "advertised"),
    [
        ("10.0.0.1", "node1", None, "10.9.9.9", "10.0.0.1"),
        ("::ffff:10.0.0.1", "node1", None, "10.9.9.9", "10.0.0.1"),
        ("2001:db8::1", "node1", None, None, "2001:db8::1"),
        ("127.0.0.1", "localhost", None, "10.9.9.9", "127.0.0.1"),
        ("127.0.0.1", "127.0.1.1", None, "10.9.9.9", "127.0.0.1"),
        ("127.0.1.1", "this-machine", None, "10.9.9.9", "10.9.9.9"),
        ("::ffff:127.0.0.1", "this-machine", None, "10.9.9.9", "10.9.9.9"),
        ("127.0.0.1", "this-machine", None, None, "127.0.0.1"),
        ("127.0.0.1", "this-machine", "me.example", "10.9.9.9", "me.example"),
    ],
)
def test_the_advertised_address_reaches_from_where_the_others_are(
    connection: str, endpoint: str, wanted: str | None, outward: str | None, advertised: str
) -> None:
    assert advertised_address(connection, endpoint, wanted, lambda: outward) == advertised


def test_the_outward_address_is_never_a_loopback_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_loopback(endpoint: Endpoint) -> list[ResolvedAddress]:
        return [LOOPBACK]

    monkeypatch.setattr(identity, "FAR_AWAY", ((socket.AF_INET, "127.0.0.1"),))
    monkeypatch.setattr(identity, "resolve", only_loopback)
    assert outward_address() is None
    monkeypatch.setattr(identity, "resolve", lambda _: [LOOPBACK, NOT_OURS])
    assert outward_address() == NOT_OURS.addr
