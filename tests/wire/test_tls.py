"""Two pipes against each other, by hand: no socket, no time."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from quorate.errors import RendezvousConnectionError, RendezvousProtocolError
from quorate.tls import TlsFiles, client_context, server_context
from quorate.wire.tls import PIECE_BYTES, TlsPipe
from tests.certificates import Authority

HOST = "127.0.0.1"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "others")


@pytest.fixture(scope="module")
def node(authority: Authority) -> TlsFiles:
    return authority.issue("node")


Version = ssl.TLSVersion | None
Pair = tuple[TlsPipe, TlsPipe]


def make_pair(server: TlsFiles, client: TlsFiles, host: str = HOST, newest: Version = None) -> Pair:
    """Return a coordinator's pipe and a node's."""
    context = server_context(server)
    if newest is not None:
        context.maximum_version = newest
    return TlsPipe(context, True), TlsPipe(client_context(client), False, host)


def carry(one: TlsPipe, other: TlsPipe, piece_bytes: int = 1 << 20) -> bytes:
    """Bring what one side sends to the other, and return what that one reads."""
    output, read = one.take_output(), b""
    for start in range(0, len(output), piece_bytes):
        read += other.feed(output[start : start + piece_bytes])
    return read


def shake_hands(pair: Pair, piece_bytes: int = 1 << 20) -> Pair:
    server, client = pair
    for _ in range(2):
        carry(client, server, piece_bytes)
        carry(server, client, piece_bytes)
    assert server.established
    assert client.established
    return pair


def complaints(pair: Pair) -> tuple[RendezvousConnectionError, RendezvousConnectionError]:
    """Shake hands in vain, and return what the coordinator says and what the node says."""
    server, client = pair
    told: dict[TlsPipe, RendezvousConnectionError] = {}
    for one, other in ((client, server), (server, client)) * 2:
        try:
            carry(one, other)
        except RendezvousConnectionError as error:
            told[other] = error
    return told[server], told[client]


@pytest.mark.parametrize("newest", [None, ssl.TLSVersion.TLSv1_2])
@pytest.mark.parametrize("piece_bytes", [1, 7, 1 << 20])
def test_bytes_go_both_ways(
    authority: Authority, node: TlsFiles, newest: Version, piece_bytes: int
) -> None:
    # Without an authority of the nodes, anybody may come in.
    pair = make_pair(TlsFiles("", node.cert_file, node.key_file), authority.trusting, HOST, newest)
    server, client = shake_hands(pair, piece_bytes)
    client.send(b"ping")
    assert carry(client, server, piece_bytes) == b"ping"
    server.send(b"pong")
    server.send(b"!")
    assert carry(server, client, piece_bytes) == b"pong!"
    assert server.take_output() == client.take_output() == b""


def test_an_old_version_is_refused(node: TlsFiles) -> None:
    pair = make_pair(node, node)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname = False
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(RendezvousProtocolError, match="failed: unsupported protocol"):
        carry(TlsPipe(old, False), pair[0])


def test_the_first_word_goes_out_with_the_end_of_the_handshake(node: TlsFiles) -> None:
    """A join costs no round trip more than the handshake's one."""
    server, client = make_pair(node, node)
    carry(client, server)
    carry(server, client)
    assert client.established
    client.send(b"hello")
    assert carry(client, server) == b"hello"
    assert server.take_output() == b"", "no session tickets"


@pytest.mark.parametrize("size", [PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 1 << 20])
def test_large_messages(node: TlsFiles, size: int) -> None:
    server, client = shake_hands(make_pair(node, node))
    message = bytes(range(256)) * (size // 256 + 1)
    server.send(message)
    assert carry(server, client, 65536) == message


def test_what_follows_the_end_is_dropped(node: TlsFiles) -> None:
    """close_notify"""
    server, client = shake_hands(make_pair(node, node))
    client.send(b"last")
    client.close()
    client.close()
    client.send(b"too late")
    assert carry(client, server) == b"last"
    assert server.feed(b"\x17\x03\x03garbage") == b""
    server.close()
    assert carry(server, client) == b""
    assert client.feed(b"x") == b""


@pytest.mark.parametrize("newest", [None, ssl.TLSVersion.TLSv1_2])
def test_r15_nothing_is_kept_of_what_follows_the_end(node: TlsFiles, newest: Version) -> None:
    server, client = shake_hands(make_pair(node, node, newest=newest))
    client.send(b"last")
    assert carry(client, server) == b"last"
    assert not server.finished
    client.close()
    assert carry(client, server) == b""
    assert server.finished
    for _ in range(10):
        assert server.feed(b"\x17\x03\x03" + bytes(PIECE_BYTES)) == b""
    assert server._incoming.pending == 0
    # The end of the one is not that of the other.
    server.send(b"farewell")
    server.close()
    assert server.take_output()


def test_an_end_before_the_handshake_is_over(node: TlsFiles) -> None:
    server, client = make_pair(node, node)
    carry(client, server)
    close_notify = b"\x15\x03\x03\x00\x02\x01\x00"
    assert server.feed(close_notify + b"x") == b""
    assert server.finished
    assert not server.established


def test_half_a_handshake_brings_nothing(node: TlsFiles) -> None:
    server, client = make_pair(node, node)
    hello = client.take_output()
    assert server.feed(hello[: len(hello) // 2]) == b""
    assert server.take_output() == b""
    assert not server.established
    server.close()
    assert server.take_output() == b"", "there is nobody to say goodbye to"
    assert not TlsPipe(server_context(node), True).feed(b"")


@pytest.mark.parametrize("size", [1, 2, 100])
@pytest.mark.parametrize("first", [b"\x00\x00\x00\x10", b"GET / HTTP/1.1\r\n", b"\xff\xff"])
def test_who_does_not_speak_tls_is_recognised(node: TlsFiles, first: bytes, size: int) -> None:
    server, client = make_pair(node, node)
    with pytest.raises(RendezvousProtocolError, match=r"The peer does not speak TLS.*--tls-ca"):
        server.feed(first[:size])
    with pytest.raises(RendezvousProtocolError, match=r"does not speak TLS.*--tls-cert"):
        client.feed(first[:size])
    for pipe in (server, client):
        assert not pipe.speaks_tls
        assert pipe.feed(first) == b""


def test_garbage_after_a_good_beginning(node: TlsFiles) -> None:
    server, _ = make_pair(node, node)
    with pytest.raises(RendezvousProtocolError, match="TLS with the node has failed"):
        server.feed(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\xff" * 10)
    assert server.speaks_tls
    assert server.take_output()[:1] == b"\x15", "an alert"


def test_one_bit_that_was_changed_on_the_way_ends_it(node: TlsFiles) -> None:
    server, client = shake_hands(make_pair(node, node))
    client.send(b"hello")
    damaged = bytearray(client.take_output())
    damaged[-1] ^= 1
    with pytest.raises(RendezvousProtocolError, match="bad record mac"):
        server.feed(bytes(damaged))
    assert server.feed(b"more") == b""
    server.send(b"nothing")
    with pytest.raises(RendezvousProtocolError, match="bad record mac"):
        carry(server, client)


def test_a_record_that_was_replayed_ends_it(node: TlsFiles) -> None:
    server, client = shake_hands(make_pair(node, node))
    client.send(b"close the run")
    record = client.take_output()
    assert server.feed(record) == b"close the run"
    with pytest.raises(RendezvousProtocolError, match="bad record mac"):
        server.feed(record)


Issue = Callable[[Authority], TlsFiles]


def issue_of_the_future(authority: Authority) -> TlsFiles:
    return authority.issue("future", begins=datetime(2090, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize("host", ["192.0.2.1", "elsewhere.example"])
def test_a_wrong_host_name(node: TlsFiles, host: str) -> None:
    server_says, client_says = complaints(make_pair(node, node, host))
    assert f"certificate of the coordinator is not for '{host}'" in str(client_says)
    assert "The node says that the certificate of this coordinator" in str(server_says)


def test_a_coordinator_of_another_authority(authority: Authority, others: Authority) -> None:
    pair = make_pair(others.issue("stranger"), authority.trusting)
    server_says, client_says = complaints(pair)
    assert "comes from an authority that is not trusted here: name it" in str(client_says)
    assert "`tls_ca_file`" in str(client_says)
    assert "comes from an authority that it does not trust" in str(server_says)
    assert not pair[1].established


def test_a_node_of_another_authority(node: TlsFiles, others: Authority) -> None:
    """The node's side of TLS 1.3 is ready before the coordinator has seen its certificate."""
    stranger = others.issue("stranger")
    client = TlsFiles(node.ca_file, stranger.cert_file, stranger.key_file)
    pair = make_pair(node, client)
    server_says, client_says = complaints(pair)
    assert "certificate of the node comes from an authority that is not trus" in str(server_says)
    assert "--tls-client-ca" in str(server_says)
    assert "the certificate of this node comes from an authority" in str(client_says)
    assert not pair[0].established


def test_a_node_without_a_certificate(node: TlsFiles, authority: Authority) -> None:
    server_says, client_says = complaints(make_pair(node, authority.trusting))
    assert "has shown no certificate" in str(server_says)
    assert "wants a certificate of this node: give `tls_cert_file`" in str(client_says)


def test_without_a_certificate_under_tls_1_2(node: TlsFiles, authority: Authority) -> None:
    pair = make_pair(node, authority.trusting, newest=ssl.TLSVersion.TLSv1_2)
    server_says, client_says = complaints(pair)
    assert "has shown no certificate" in str(server_says)
    assert "handshake failure" in str(client_says)


@pytest.mark.parametrize("newest", [None, ssl.TLSVersion.TLSv1_2])
@pytest.mark.parametrize(
    ("issue", "seen", "rejected"),
    [
        (lambda authority: authority.issue_expired("old"), "has expired: renew it", "has expired"),
        (issue_of_the_future, "is not valid yet: check the clocks", "cannot be accepted"),
    ],
)
def test_a_certificate_out_of_its_time(
    authority: Authority, node: TlsFiles, issue: Issue, seen: str, rejected: str, newest: Version
) -> None:
    files = issue(authority)
    # Our own contexts would not take such files.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert_file, files.key_file)
    if newest is not None:
        context.maximum_version = newest
    pair = TlsPipe(context, True), TlsPipe(client_context(node), False, HOST)
    server_says, client_says = complaints(pair)
    assert f"The certificate of the coordinator {seen}" in str(client_says)
    assert f"the certificate of this coordinator {rejected}" in str(server_says)


def test_errors_keep_their_cause(node: TlsFiles) -> None:
    _, client_says = complaints(make_pair(node, node, "elsewhere"))
    assert isinstance(client_says.__cause__, ssl.SSLCertVerificationError)


def test_what_is_no_file_of_ours_is_not_needed(tmp_path: Path) -> None:
    """A node that trusts the system's authorities does not trust ours."""
    ours = Authority(tmp_path / "ca").issue("node")
    server = TlsFiles("", ours.cert_file, ours.key_file)
    _, client_says = complaints(make_pair(server, TlsFiles()))
    assert "not trusted here" in str(client_says)
